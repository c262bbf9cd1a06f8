"""What a plan says can be picked, against what the round then picks from."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import winnow

from al.lineage.outcomes import SELECTABLE
from al.run import rounds
from al.run.store import Run

REFUSAL = "I'm sorry, but I can't help with that."


@pytest.fixture(scope="module")
def reviewed(world, tmp_path_factory) -> Path:
    """A run of one round that left refusals out, and whose review dropped an example and banned a source."""
    root = tmp_path_factory.mktemp("reviewed")
    rows = [{"question": f"say {word} twice", "answer": REFUSAL} for word in ("bridge", "stone", "garden", "metal")]
    (root / "refused.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pools = ("--pool", world.parent / "pool", "--pool", root / "refused.jsonl")
    settings = ("--no-control", "--set", "clean.refusals=drop", "--set", "dedup.threshold=0.993")
    command = ("round", "--config", world, "--run", root / "run", "--budget", 20, *pools, *settings)
    assert winnow(*command, "--review", "--export", root / "batch.csv").code == 0
    picked = proposed(root / "run", 1).sort_values("pick")
    picked = picked[picked.outcome == "selected"]
    decision = {"drop": [picked.id.iloc[0]], "ban_sources": [picked.source.value_counts().index[-1]]}
    (root / "decision.json").write_text(json.dumps(decision))
    done = winnow("round", "--run", root / "run", "--budget", 20, "--approve", root / "decision.json")
    assert done.code == 0, done.err
    return root / "run"


def proposed(run: Path, number: int) -> pd.DataFrame:
    """The outcome of every example in a round that waits for its review."""
    with Run.read(run) as opened:
        return pq.read_table(rounds.required(opened, number, "proposal").path / "selection.parquet").to_pandas()


def test_a_plan_counts_what_the_round_then_picks_from(reviewed):
    planned = winnow("plan", "--run", reviewed, "--budget", 10, "--json").document["pool"]
    assert planned["selectable_is"] == "counted"
    assert (
        winnow("round", "--run", reviewed, "--budget", 10, "--review", "--export", reviewed.parent / "next.csv").code
        == 0
    )
    outcome = proposed(reviewed, 2).outcome
    assert planned["selectable"] == outcome.isin(SELECTABLE).sum()
    left_out = {"refusal", "near_duplicate", "trained", "dropped_in_review", "banned_in_review", "held_out_dev"}
    assert left_out <= set(outcome), "each is subtracted"


def test_a_plan_with_other_settings_does_not_take_the_counts_of_the_former_ones(reviewed):
    other = winnow("plan", "--run", reviewed, "--budget", 10, "--set", "dedup.threshold=0.98", "--json").document[
        "pool"
    ]
    assert other["selectable_is"] == "unknown"
