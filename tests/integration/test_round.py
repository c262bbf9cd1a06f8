"""The whole loop on the small world: what a round leaves behind, and what the next one makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow

from al.config import parse
from al.run import rounds
from al.run.store import Run
from trainer.packing import PackPlan
from trainer.schedule import planned_steps

BUDGET = 24


@pytest.fixture
def run(two_rounds) -> Path:
    """The run with two finished rounds."""
    return two_rounds[0]


def summary(run: Path, number: int) -> dict:
    return json.loads((run / "rounds" / f"{number:03d}" / "summary.json").read_text())


def selection(run: Path, number: int, role: str = "selection"):
    return pq.read_table(run / "rounds" / f"{number:03d}" / role / "selection.parquet").to_pandas()


def picked(run: Path, number: int, role: str = "selection") -> np.ndarray:
    return np.load(run / "rounds" / f"{number:03d}" / role / "picked.npy")


def test_base_round_and_control_are_compared_on_the_same_test_examples(run):
    test = summary(run, 1)["evaluation"]
    assert test["examples"] == 30
    assert set(test["models"]) == {"base", "selected", "control"}
    assert test["models"]["selected"]["macro_nll"] < test["models"]["base"]["macro_nll"]
    difference = test["differences"]["selected - base"]["macro_nll"]
    assert difference["low"] <= difference["value"] <= difference["high"] < 0
    assert set(summary(run, 2)["evaluation"]["models"]) == {"base", "previous", "selected", "control"}


def test_the_second_round_compares_with_the_first_rounds_adapter(run):
    first, second = (summary(run, number)["evaluation"]["models"] for number in (1, 2))
    assert second["previous"] == first["selected"] and second["base"] == first["base"]


def test_the_budget_is_met_exactly_and_nothing_is_picked_twice(run):
    ours = [set(picked(run, number)) for number in (1, 2)]
    controls = [set(picked(run, number, "control.selection")) for number in (1, 2)]
    assert [len(keys) for keys in (*ours, *controls)] == [BUDGET] * 4
    assert not ours[0] & ours[1] and not controls[0] & controls[1]


def test_every_example_ends_with_an_outcome_and_every_pick_with_a_reason(run):
    table = selection(run, 2)
    counts = table.outcome.astype(str).value_counts().to_dict()
    assert counts["selected"] == counts["trained"] == BUDGET
    assert "selectable" not in counts and table.outcome.notna().all()
    assert {"over_length", "held_out_dev", "held_out_test"} <= set(counts)
    chosen = table[table.outcome == "selected"]
    assert chosen.why.notna().all() and table[table.outcome != "selected"].why.isna().all()
    records = [json.loads(line) for line in (run / "rounds/002/selection/selection.jsonl").read_text().splitlines()]
    assert [r["id"] for r in records] == chosen.sort_values("pick").id.tolist()
    assert all(r["why"] and r["messages"][-1]["role"] == "assistant" for r in records)


def test_trap_20_nothing_held_out_is_ever_trained_on(run):
    held = set(pq.read_table(run / "rounds/002/evaluate.base/examples.parquet")["row"].to_pylist())
    for number in (1, 2):
        for role in ("packs", "control.packs"):
            assert not held & set(np.load(run / f"rounds/{number:03d}/{role}/rows.npy").tolist())


def test_scoring_in_round_two_uses_the_adapter_of_round_one(run):
    first, second = (json.loads((run / f"rounds/00{n}/score/manifest.json").read_text()) for n in (1, 2))
    adapter = json.loads((run / "rounds/001/train/manifest.json").read_text())["fingerprint"]
    assert first["inputs"]["adapter"] == "" and second["inputs"]["adapter"] == adapter


def test_the_control_never_continues_the_selected_adapter(run):
    ours, control = (
        json.loads((run / f"rounds/002/{role}/manifest.json").read_text()) for role in ("train", "control.train")
    )
    before = json.loads((run / "rounds/001/control.train/manifest.json").read_text())["fingerprint"]
    assert control["inputs"]["adapter"] == before != ours["inputs"]["adapter"]


def test_selected_and_control_are_trained_for_as_many_epochs_over_their_own_packs(run):
    """Their examples may fill one pack more or less."""
    with Run.read(run) as opened:
        settings = parse(rounds.last_round(opened).config, "the run").train
    for number in (1, 2):
        for lineage in ("", "control."):
            folder = run / f"rounds/{number:03d}"
            packs = len(PackPlan.open(folder / f"{lineage}packs/plan").offsets) - 1
            trained = json.loads((folder / f"{lineage}train/train.json").read_text())
            assert trained["steps"] == planned_steps(packs, settings, None) > 0


def test_a_finished_adapter_is_a_peft_adapter(run, world):
    import torch
    import yaml
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(yaml.safe_load(world.read_text())["model"]["name"])
    ids = torch.arange(3, 20)[None]
    base = model(ids).logits
    adapted = PeftModel.from_pretrained(model, run / "rounds/002/train/adapter")
    assert not torch.equal(adapted(ids).logits, base)


def test_an_unchanged_pool_is_not_embedded_or_evaluated_twice(run):
    for role in ("pool", "tokens", "embeddings", "groups", "split", "clusters", "evaluate.base"):
        assert (run / "rounds/001" / role).resolve() == (run / "rounds/002" / role).resolve()


def test_status_report_and_resume_speak_of_the_finished_rounds(run):
    status = winnow("status", "--run", run)
    assert status.code == 0 and "round 2  done" in status.out
    report = winnow("report", "--run", run, "--round", 1, "--json").document
    assert report["round"] == 1 and Path(report["report_path"]).exists()
    nothing = winnow("resume", "--run", run)
    assert nothing.code == 5 and "round 2 is finished" in nothing.err


def test_the_page_and_the_summary_of_a_round_agree(run):
    page = (run / "rounds/002/report.html").read_text()
    models = summary(run, 2)["evaluation"]["models"]
    assert all(f"{values['macro_nll']:.3f}" in page for values in models.values())


def test_trap_28_what_scoring_cost_is_in_the_summary(run):
    timings = summary(run, 1)["timings"]
    assert {"score sample", "train", "train control"} <= set(timings)
    assert not {"import", "embed", "evaluate base"} & set(summary(run, 2)["timings"]), (
        "reused stages cost this round nothing"
    )


@pytest.fixture(scope="module")
def other_seed(two_rounds, tmp_path_factory):
    """The first round again with another seed, without a control: what it printed, and its run."""
    other = tmp_path_factory.mktemp("seed") / "other"
    same = two_rounds[0] / "rounds/001/config.json"
    done = winnow("round", "--config", same, "--run", other, "--budget", BUDGET, "--set", "seed=1", "--no-control")
    assert done.code == 0, done.err
    return done, other


def test_another_seed_gives_other_picks(run, other_seed):
    assert set(picked(other_seed[1], 1)) != set(picked(run, 1))


def test_the_last_line_of_the_training_has_the_speed_of_the_report(other_seed):
    done, other = other_seed
    speed = summary(other, 1)["training"]["selected"]["tokens_per_s"]
    (line,) = [line for line in done.err.splitlines() if line.startswith("train: ") and "on average" in line]
    assert f", {speed:,.0f} tokens/s on average, " in line
