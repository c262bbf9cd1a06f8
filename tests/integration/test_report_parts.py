"""Two rounds of the small world with evaluations on dev, task groups and a price: what their summaries hold apart from the metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow


def play(run: Path, world: Path, *settings: str) -> dict:
    """The summary of one more round."""
    options = [word for setting in settings for word in ("--set", setting)]
    result = winnow("round", "--config", world, "--run", run, "--budget", 24, "--json", *options)
    assert result.code == 0, result.err
    return result.document


@pytest.fixture
def rounds(two_rounds) -> tuple[Path, dict, dict]:
    """The run and the summaries of its two rounds."""
    return two_rounds


def test_groups_are_those_of_the_config_and_hold_every_source(rounds):
    _, first, second = rounds
    for summary in (first, second):
        groups = {group["group"]: group for group in summary["evaluation"]["by_group"]}
        assert set(groups) == {"few", "many"}
        assert sum(group["examples"] for group in groups.values()) == summary["evaluation"]["examples"]
        sources = {row["source"]: row["base_nll"] for row in summary["evaluation"]["by_source"]}
        many = [sources[f"source-{i}"] for i in range(3)]
        assert groups["many"]["models"]["base"]["nll"] == pytest.approx(np.mean(many))
    assert set(second["evaluation"]["by_group"][0]["differences"]) == {"base", "previous", "control"}


def test_sources_have_intervals_from_five_examples_on(rounds):
    for row in rounds[2]["evaluation"]["by_source"]:
        assert ("intervals" in row) == (row["examples"] >= 5)


def test_the_same_dev_prompts_are_answered_in_both_rounds_and_never_test_ones(rounds):
    run, first, second = rounds
    ids = [[row["id"] for row in summary["generations"]["rows"]] for summary in (first, second)]
    assert ids[0] == ids[1] and len(ids[0]) == 4
    held = pq.read_table(run / "rounds/001/evaluate.base/examples.parquet").to_pandas().set_index("id")["split"]
    assert len(set(held[ids[0]])) == 1 and (held == held[ids[0][0]]).sum() == first["dev"]["examples"]
    assert set(first["generations"]["rows"][0]["answers"]) == {"base", "selected", "control"}
    assert set(second["generations"]["rows"][0]["answers"]) == {"base", "previous", "selected", "control"}


def test_what_the_round_before_answered_is_taken_from_its_artifact(rounds):
    run, first, second = rounds
    before, now = ([row["answers"] for row in summary["generations"]["rows"]] for summary in (first, second))
    assert [row["selected"] for row in before] == [row["previous"] for row in now]
    assert [row["base"] for row in before] == [row["base"] for row in now]
    links = [(run / path).resolve() for path in ("rounds/001/generations.base", "rounds/002/generations.base")]
    assert links[0] == links[1] and "generate base" not in second["timings"]


def test_time_by_kind_of_work_adds_up_and_has_its_price(rounds):
    for summary in rounds[1:]:
        cost = summary["cost"]
        kinds = {kind: seconds for kind, seconds in cost["seconds"].items() if kind != "total"}
        assert sum(kinds.values()) == pytest.approx(cost["seconds"]["total"], abs=0.01)
        assert cost["seconds"]["total"] == pytest.approx(summary["timings"]["total"], abs=0.01)
        assert min(kinds[kind] for kind in ("selecting", "training", "evaluation", "control")) > 0
        assert cost["money"]["training"] == pytest.approx(cost["seconds"]["training"] / 100)


def test_the_cost_at_random_is_bounded_by_what_the_control_trained_on(rounds):
    run, first, second = rounds
    picked = [json.loads((run / f"rounds/00{n}/control.selection/picked.json").read_text()) for n in (1, 2)]
    for n, summary in enumerate((first, second), start=1):
        found = summary["at_random"]
        assert found["relation"] in ("about", "more than", "at most", "no gain") and found["rounds"] == n
        assert found["spent"]["examples"] == 24 * n
        trained = [json.loads((run / f"rounds/00{k}/train/train.json").read_text())["tokens"] for k in range(1, n + 1)]
        assert found["spent"]["seconds"] == pytest.approx(sum(trained) / summary["work"]["tokens_per_s"])
        if found["relation"] == "more than":
            assert found["examples"] == sum(entry["examples"] for entry in picked[:n])
            assert found["tokens"] == sum(entry["tokens"] for entry in picked[:n])


def test_drift_counts_the_picks_of_both_lineages_round_by_round(rounds):
    run, _, second = rounds
    entries = second["drift"]["rounds"]
    assert [entry["round"] for entry in entries] == [1, 2]
    for line in ("selected", "control"):
        assert [entry[line]["all_examples"] for entry in entries] == [24, 48]
        assert entries[0][line]["clusters_from_before"] is None
        assert 0 <= entries[1][line]["clusters_from_before"] <= 1 and 0 <= entries[1][line]["sources_overlap"] <= 1
    table = pq.read_table(run / "rounds/002/selection/selection.parquet").to_pandas()
    chosen = table[table["pick"] >= 0]
    assert entries[1]["selected"]["tokens"] == chosen["tokens"].sum() == second["budget"]["tokens"]
    assert entries[1]["measured"] == chosen["nll"].notna().sum()
    shares = {row["name"]: row["rounds"][1] for row in second["drift"]["sources"]}
    assert shares == pytest.approx(
        {name: count / 24 for name, count in chosen["source"].value_counts().items()}
        | {name: 0 for name in set(shares) - set(chosen["source"])}
    )


def test_forgotten_and_learned_are_counted_against_base_and_the_round_before(rounds):
    changed = rounds[2]["evaluation"]["changed"]
    assert set(changed) == {"base", "previous"}
    for counts in changed.values():
        total = sum(counts[key] for key in ("forgotten", "learned", "kept", "never"))
        assert total == rounds[2]["evaluation"]["examples"]


def test_dev_losses_during_training_and_the_plan_are_recorded(rounds):
    training = rounds[1]["training"]["selected"]
    losses = {point["step"]: point["dev_loss"] for point in training["curve"] if point["dev_loss"] is not None}
    assert min(losses.values()) == training["best_dev_loss"] == losses[training["best_step"]]
    plan = rounds[1]["plan"]
    assert plan["tokens_per_s"]["planned"] > 0 and plan["tokens_per_s"]["measured"] == training["tokens_per_s"]
    assert plan["peak_gib"]["measured"] == training["peak_gib"]


def test_status_prints_the_best_dev_loss_of_a_finished_round(rounds):
    run, first, _ = rounds
    best = first["training"]["selected"]
    printed = winnow("status", "--run", run).out
    assert f"best dev loss {best['best_dev_loss']:.3f} at step {best['best_step']}" in printed


def test_every_artifact_has_its_fingerprint_and_its_hash(rounds):
    run, _, second = rounds
    assert set(second["hashes"]) == set(second["artifacts"])
    assert all(len(value) == 64 for value in second["hashes"].values())
    assert "price_per_hour: 36" in second["config"] and second["versions"]["python"].startswith("3.")
    assert (run / "artifacts" / second["artifacts"]["plan"] / "plan.json").is_file()


def test_answers_and_control_can_be_switched_off(world: Path, tmp_path: Path):
    summary = play(tmp_path / "off", world, "control=false", "evaluate.generations=0")
    assert summary["generations"] is None and summary["at_random"] is None
    assert summary["drift"]["rounds"][0]["control"] is None and summary["plan"]["train control"]["planned"] is None
    assert summary["cost"]["money"] is None and summary["cost"]["seconds"]["control"] == 0
    assert not any("generate" in label for label in summary["timings"])
    assert summary["evaluation"]["by_group"] == []


def test_work_is_what_passed_through_the_model(rounds):
    run, *summaries = rounds
    for summary in summaries:
        tokens, training = summary["work"]["tokens"], summary["training"]
        assert tokens["training"] == training["selected"]["tokens"]
        assert tokens["selecting"] >= summary["scoring"]["tokens"]
        held = tokens["control"] - training["control"]["tokens"]
        models = 3 if summary["round"] == 1 else 2  # base is not evaluated again in round 2; the round before neither
        assert held > 0 and tokens["evaluation"] == (models - 1) * held
        assert tokens["total"] == sum(tokens[kind] for kind in ("selecting", "training", "evaluation", "control"))
        speeds = [step["tokens_per_s"] for line in training.values() for step in line["curve"]]
        rate = summary["work"]["tokens_per_s"]
        assert sorted(speeds)[len(speeds) // 2] <= rate <= max(speeds)
        assert summary["work"]["seconds"]["training"] == pytest.approx(tokens["training"] / rate)
        assert summary["work"]["seconds"]["evaluation"] == pytest.approx(tokens["evaluation"] / 2 / rate)
