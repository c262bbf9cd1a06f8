"""A round hands its state over from the shortlist to the selection instead of computing it again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from command_line import winnow

from al.choosing import scored
from al.lineage import round_state
from selection.strategy import allocate


@pytest.fixture
def calls(monkeypatch):
    counted = Counter()

    def watch(module, name):
        plain = getattr(module, name)

        def watched(*args, **kwargs):
            counted[name] += 1
            return plain(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    watch(round_state, "candidates")
    watch(round_state, "quality_column")
    watch(scored, "measured_columns")
    watch(scored, "vectors_of")
    watch(scored, "allocate")
    return counted


def play(world, run, *more):
    assert winnow("round", "--config", world, "--run", run, "--budget", 20, "--no-control", *more).code == 0


def test_a_round_that_measures_nothing_computes_each_part_once(world, tmp_path, calls):
    play(world, tmp_path / "run")
    assert calls == {"candidates": 1, "measured_columns": 1, "vectors_of": 1, "allocate": 1}


def test_a_round_with_a_shortlist_computes_columns_before_and_after_it_and_quotas_once(world, tmp_path, calls):
    folder = Path(yaml.safe_load(world.read_text())["pool"]["files"][0])
    lines = (folder / "source-1.jsonl").read_text().splitlines()
    rated = [json.loads(line) | {"rating": number % 5} for number, line in enumerate(lines)]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated))
    quality = ("--set", "score.by={nll: 1, quality: 1}", "--set", "score.quality=rating")
    holdout = ("--set", "holdout.dev=5", "--set", "holdout.test=9", "--set", "cluster.k=4")
    play(world, tmp_path / "run", "--pool", tmp_path / "rated.jsonl", "--strategy", "top", *quality, *holdout)
    assert calls == {"candidates": 1, "quality_column": 1, "measured_columns": 2, "vectors_of": 2, "allocate": 1}
    assert allocate is not scored.allocate, "the calls were counted"
