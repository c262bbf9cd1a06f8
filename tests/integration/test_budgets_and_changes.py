"""Budgets in other units, pools that grow, configs that change between and within rounds, and the commands around a round."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import winnow, winnow_child


def do_round(world, run, *more, budget="20"):
    result = winnow("round", "--config", world, "--run", run, "--budget", budget, "--no-control", *more)
    assert result.code == 0, result.err
    return json.loads((run / "rounds" / f"{len(list((run / 'rounds').iterdir())):03d}" / "summary.json").read_text())


@pytest.fixture(scope="module")
def first_round(world, tmp_path_factory):
    """A run of one round of the default config."""
    run = tmp_path_factory.mktemp("runs") / "first"
    do_round(world, run)
    return run


@pytest.fixture
def run(first_round, tmp_path):
    """A copy of that run to change."""
    return shutil.copytree(first_round, tmp_path / "run", symlinks=True)


def test_a_token_budget_is_never_exceeded(world, tmp_path):
    budget = do_round(world, tmp_path / "run", budget="1000tok")["budget"]
    assert 900 < budget["tokens"] <= 1000


def test_a_time_budget_becomes_tokens_once_and_stays_so(world, tmp_path):
    run = tmp_path / "run"
    killed = winnow_child(
        "round", "--config", world, "--run", run, "--budget", "0.15s", WINNOW_FAILPOINT="selection.start"
    )
    assert killed.code == -9
    measured = json.loads(next((run / "artifacts" / "throughput").rglob("throughput.json")).read_text())
    assert winnow("resume", "--run", run).code == 0
    budget = json.loads((run / "rounds/001/summary.json").read_text())["budget"]
    assert budget["amount"] == int(measured["tokens_per_s"] * 0.15) and budget["asked"] == "0.15s"


def test_random_is_a_strategy_like_any_other(world, tmp_path):
    summary = do_round(world, tmp_path / "run", "--strategy", "random")
    assert summary["budget"]["examples"] == 20
    table = pq.read_table(tmp_path / "run/rounds/001/selection/selection.parquet").to_pandas()
    assert set(table[table.outcome == "selected"].cluster) <= set(table.cluster)
    assert "tail_cut" not in set(table.outcome) and summary["scoring"]["measured"] == 0


def test_pickers_rank_by_the_score_that_the_config_names(world, tmp_path):
    picks = {}
    for name in ("nll", "entropy"):
        arguments = ("--strategy", "top", "--set", f"score.by={name}", "--set", "score.sample_per_cluster=all")
        summary = do_round(world, tmp_path / name, *arguments, "--set", "select.length_bins=1")
        assert summary["selection"]["score"] == name
        table = pq.read_table(tmp_path / name / "rounds/001/selection/selection.parquet").to_pandas()
        for _, cluster in table[table.outcome.isin(["selected", "quota_full"])].groupby("cluster"):
            chosen = cluster.outcome == "selected"
            if chosen.any() and not chosen.all():
                assert cluster[name][chosen].min() >= cluster[name][~chosen].max()
        picks[name] = set(table[table.outcome == "selected"].id)
    assert picks["nll"] != picks["entropy"]


def test_a_grown_pool_embeds_only_what_is_new_and_keeps_its_holdout(world, run, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text(
        "".join(
            json.dumps({"prompt": f"say the {w} of cloud stone {i}", "completion": w}) + "\n"
            for i, w in enumerate(["red"] * 9)
        )
    )
    result = winnow("pool", "import", more, "--config", world, "--run", run)
    assert result.code == 0 and "pool version 2" in result.out
    do_round(world, run)
    first, second = (run / "rounds/001", run / "rounds/002")
    embedded = json.loads((second / "embeddings/embeddings.json").read_text())
    assert (
        embedded["embedded"] == 9
        and embedded["examples"] == json.loads((first / "embeddings/embeddings.json").read_text())["examples"] + 9
    )
    held = [np.load(r / "split/keys.npy")[np.isin(np.load(r / "split/split.npy"), (1, 2))] for r in (first, second)]
    assert (held[0] == held[1]).all()
    trained = set(np.load(first / "selection/picked.npy"))
    assert not trained & set(held[1]) and not trained & set(np.load(second / "selection/picked.npy"))


def test_changing_the_holdout_after_a_round_never_holds_out_what_was_trained_on(world, run):
    result = winnow(
        "round", "--config", world, "--run", run, "--budget", 20, "--no-control", "--set", "holdout.test=60"
    )
    assert result.code == 3 and "may have been trained on" in result.err
    do_round(world, run, "--set", "seed=5")
    assert (np.load(run / "rounds/001/split/split.npy") == np.load(run / "rounds/002/split/split.npy")).all()


def test_a_changed_config_is_shown_and_runs_again_only_what_depends_on_it(world, tmp_path):
    run = tmp_path / "run"
    killed = winnow_child(
        "round", "--config", world, "--run", run, "--budget", "20", "--no-control", WINNOW_FAILPOINT="evaluate.start"
    )
    assert killed.code == -9
    before = len((run / "events.jsonl").read_text().splitlines())
    result = winnow(
        "round", "--config", world, "--run", run, "--budget", 20, "--no-control", "--set", "train.learning_rate=0.02"
    )
    assert result.code == 0 and "train.learning_rate: 0.01 → 0.02" in result.out
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()[before:]]
    again = {event["stage"] for event in events if event["event"] == "stage.started"}
    assert "train" in again and not again & {"import", "tokenize", "embed", "select", "score sample"}


def test_retraining_from_the_base_takes_all_rounds_picks(world, run):
    do_round(world, run, "--set", "train.mode=retrain")
    assert len(np.load(run / "rounds/002/packs/rows.npy")) == 40
    assert json.loads((run / "rounds/002/train/manifest.json").read_text())["inputs"]["adapter"] == ""


def test_replay_adds_a_share_of_earlier_picks(world, run):
    do_round(world, run, "--set", "train.replay=0.25")
    rows = np.load(run / "rounds/002/packs/rows.npy")
    keys = np.load(run / "rounds/002/split/keys.npy")[rows]
    assert len(rows) == 25 and np.isin(keys, np.load(run / "rounds/001/selection/picked.npy")).sum() == 5


@pytest.mark.parametrize("strategy", ["longest", "random"])
def test_the_control_sees_each_of_its_examples_as_often_as_the_selection_does(strategy, world, tmp_path):
    run = tmp_path / "run"
    result = winnow("round", "--config", world, "--run", run, "--budget", 21, "--strategy", strategy)
    assert result.code == 0, result.err
    for line in ("", "control."):
        trained, packed = (
            json.loads((run / f"rounds/001/{line}{name}.json").read_text()) for name in ("train/train", "packs/pack")
        )
        assert trained["tokens"] == packed["tokens"] and trained["examples"] == packed["examples"] == 21


def test_training_that_dev_stops_early_keeps_its_best_and_the_control_takes_the_same_part(world, tmp_path):
    run = tmp_path / "run"
    settings = ("train.eval_every=1", "train.patience=2", "train.epochs=40", "train.learning_rate=0.3")
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    result = winnow("round", "--config", world, "--run", run, "--budget", 20, *arguments)
    assert result.code == 0, result.err
    selected, control = (
        json.loads((run / f"rounds/001/{name}/train.json").read_text()) for name in ("train", "control.train")
    )
    assert selected["stopped_early"] and selected["best_step"] == selected["steps"] - 2
    packs = [
        json.loads((run / f"rounds/001/{name}/pack.json").read_text())["packs"] for name in ("packs", "control.packs")
    ]
    planned = [-(-40 * count // 2) for count in packs]
    assert control["steps"] == round(planned[1] * selected["steps"] / planned[0]) and not control["stopped_early"]
    curve = [json.loads(line) for line in (run / "rounds/001/train/curve.jsonl").read_text().splitlines()]
    assert selected["best_dev_loss"] == min(step["dev_loss"] for step in curve)
    evaluated = pq.read_table(run / "rounds/001/evaluate.selected/examples.parquet").to_pandas()
    dev = evaluated[evaluated.split == 1]
    assert dev.nll.sum() / dev.targets.sum() == pytest.approx(selected["best_dev_loss"], rel=1e-5)
    steps = [e for e in map(json.loads, (run / "events.jsonl").read_text().splitlines()) if e["event"] == "train.step"]
    assert all({"dev_loss", "seconds_left", "memory_gib", "tokens_per_s"} <= step.keys() for step in steps)


def test_evaluating_on_dev_needs_dev_examples(world, tmp_path):
    settings = ("--set", "train.eval_every=1", "--set", "holdout.dev=0")
    result = winnow("round", "--config", world, "--run", tmp_path / "run", "--budget", 20, "--no-control", *settings)
    assert result.code == 2 and "raise `holdout.dev`" in result.err


def test_batches_may_be_sorted_by_length_instead_of_packed(world, tmp_path):
    efficiency = {}
    for batching in ("packed", "length_sorted"):
        do_round(world, tmp_path / batching, "--set", f"train.batching={batching}", budget="60")
        packs = json.loads((tmp_path / batching / "rounds/001/packs/pack.json").read_text())
        assert packs["examples"] == 60
        efficiency[batching] = packs["efficiency"]
    assert efficiency["length_sorted"] < efficiency["packed"]


def test_rounds_run_until_there_are_enough(world, tmp_path):
    result = winnow(
        "run",
        "--rounds",
        2,
        "--all-rounds",
        "--config",
        world,
        "--run",
        tmp_path / "run",
        "--budget",
        10,
        "--no-control",
        "--json",
    )
    assert result.code == 0 and result.document["round"] == 2


def test_rounds_stop_when_one_brings_nothing(world, tmp_path):
    arguments = (
        "--config",
        world,
        "--run",
        tmp_path / "run",
        "--budget",
        10,
        "--no-control",
        "--set",
        "train.learning_rate=1e-12",
    )
    result = winnow("run", "--rounds", 5, *arguments)
    assert result.code == 0 and "stopping after round 1" in result.out
    assert len(list((tmp_path / "run/rounds").iterdir())) == 1


def test_a_plan_runs_nothing(world, tmp_path):
    for command in (("plan",), ("round", "--dry-run")):
        result = winnow(*command, "--config", world, "--run", tmp_path / "run", "--budget", 30, "--json")
        assert result.code == 0, result.err
        plan = result.document
        assert (
            plan["round"]["examples"] == 30
            and plan["peak_gib"] > 0
            and plan["total_seconds"] > 0
            and plan["disk_gib"] > 0
        )
    assert not (tmp_path / "run").exists()


def test_plain_fine_tuning_of_a_data_set(world, tmp_path):
    data = yaml.safe_load(world.read_text())["pool"]["files"][0]
    result = winnow("train", "--dataset", data, "--config", world, "--run", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    document = result.document
    assert document["examples"] > 100 and os.path.exists(document["adapter"])
    assert (
        document["evaluation"]["models"]["selected"]["macro_nll"]
        < document["evaluation"]["models"]["base"]["macro_nll"]
    )


def test_without_a_config_the_next_round_uses_that_of_the_last(world, tmp_path):
    run = tmp_path / "run"
    do_round(world, run, "--set", "lora.r=2")
    result = winnow("round", "--run", run, "--budget", 20, "--set", "seed=3", "--json")
    assert result.code == 0, result.err
    assert result.document["model"]["lora_r"] == 2 and result.document["config_diff"] == {"seed": [0, 3]}


def test_the_pool_can_be_named_on_the_command_line(world, tmp_path):
    data = Path(yaml.safe_load(world.read_text())["pool"]["files"][0]) / "source-0.jsonl"
    summary = do_round(world, tmp_path / "run", "--pool", data, "--set", "holdout.test=10")
    assert {source["source"] for source in summary["evaluation"]["by_source"]} == {"source-0"}


def test_a_pool_can_be_imported_and_inspected_first(world, tmp_path):
    data = yaml.safe_load(world.read_text())["pool"]["files"][0]
    assert winnow("pool", "import", data, "--config", world, "--run", tmp_path / "run").code == 0
    looked = winnow("pool", "inspect", "--run", tmp_path / "run")
    assert looked.code == 0 and "source-0.jsonl" in looked.out and "invalid_json" in looked.out.replace(" ", "_")


def test_doctor_finds_damage_and_resume_makes_it_good(world, run):
    do_round(world, run)
    adapter = run / "rounds/001/train/adapter/adapter_model.safetensors"
    original = adapter.read_bytes()
    adapter.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    found = winnow("doctor", "--run", run)
    assert found.code == 5 and "adapter_model.safetensors: content differs" in found.out
    dropped = winnow("doctor", "--run", run, "--drop-damaged", "--json")
    assert dropped.code == 0 and dropped.document["reopened"] == [1]
    assert winnow("resume", "--run", run).code == 0
    assert adapter.read_bytes() == original and winnow("doctor", "--run", run).code == 0
    assert "round 2 is finished" in winnow("resume", "--run", run).err


def test_config_can_be_shown_and_explained(world):
    shown = winnow("config", "show", "--config", world, "--set", "lora.r=8")
    assert yaml.safe_load(shown.out)["lora"]["r"] == 8
    schema = winnow("config", "schema").out
    assert "train.learning_rate" in schema and "select.temperature" in schema


def test_a_run_directory_can_be_moved(world, run, tmp_path):
    shutil.move(run, tmp_path / "there")
    assert winnow("report", "--run", tmp_path / "there").code == 0
    do_round(world, tmp_path / "there")
