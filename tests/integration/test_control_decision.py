"""`control: auto`: the control is trained until its answer is clear, and the default picks at random where selecting lost."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from command_line import winnow

from al.report.reading.verdict import Comparison
from al.round import standing

BUDGET = 16


def nll(value: float, low: float, high: float) -> Comparison:
    return Comparison("control", "macro_nll", value, low, high, 0.01)


def match(low: float, high: float) -> Comparison:
    return Comparison("control", "macro_em", (low + high) / 2, low, high, 0.01)


@pytest.mark.parametrize(
    ("difference", "matches", "verdict"),
    [
        (nll(-0.20, -0.30, -0.10), [match(-0.02, 0.04)], "pays"),
        (nll(-0.20, -0.39, -0.01), [], "open"),  # clear of zero by 95%, not by 99%
        (nll(-0.20, -0.30, -0.10), [match(-0.06, -0.01)], "open"),  # NLL gains, exact match loses
        (nll(0.20, 0.10, 0.30), [], "costs"),
        (nll(0.05, -0.10, 0.20), [], "open"),
        (Comparison("control", "macro_nll", -0.2, None, None, None), [], "open"),
    ],
)
def test_a_verdict_needs_a_clear_interval_and_no_loss_of_accuracy(difference, matches, verdict):
    assert standing.standing_after(3, difference, matches).verdict == verdict


@pytest.fixture(scope="module")
def first(world, tmp_path_factory):
    """A run of one round with `control: auto`."""
    run = tmp_path_factory.mktemp("auto") / "run"
    result = winnow("round", "--config", world, "--run", run, "--budget", BUDGET, "--set", "control=auto")
    assert result.code == 0, result.err
    return run


def next_round(first, tmp_path, monkeypatch, difference: Comparison):
    """The second round, told that the first one's control differed so."""
    import shutil

    run = tmp_path / "run"
    shutil.copytree(first, run, symlinks=True)
    real = standing.comparisons
    monkeypatch.setattr(
        standing, "comparisons", lambda s, metric: [difference] if metric == "macro_nll" else real(s, metric)[:0]
    )
    result = winnow("round", "--run", run, "--budget", BUDGET)
    assert result.code == 0, result.err
    return run, " ".join(result.out.split())


def test_the_first_round_trains_a_control_and_an_open_answer_trains_the_next(first, tmp_path, monkeypatch):
    assert (first / "rounds/001/control.train").is_dir()
    run, out = next_round(first, tmp_path, monkeypatch, nll(-0.01, -0.2, 0.18))
    assert (run / "rounds/002/control.train").is_dir() and "no control in this round" not in out


def test_a_clear_gain_ends_the_control_and_the_round_says_why(first, tmp_path, monkeypatch):
    run, out = next_round(first, tmp_path, monkeypatch, nll(-0.2, -0.3, -0.1))
    assert not (run / "rounds/002/control.train").exists()
    assert "in round 1 the selection beat random by 0.200 in macro NLL (-0.300 to -0.100)" in out
    assert json.loads((run / "rounds/002/summary.json").read_text())["selection"]["strategy"] != "random"
    asked = winnow("round", "--run", run, "--budget", BUDGET, "--set", "control=true")
    assert asked.code == 0 and (run / "rounds/003/control.train").is_dir()  # the control catches up


def test_a_clear_loss_makes_the_default_pick_at_random(first, tmp_path, monkeypatch):
    run, out = next_round(first, tmp_path, monkeypatch, nll(0.2, 0.1, 0.3))
    assert "lost to random by 0.200" in out and "the default strategy therefore picks at random" in out
    assert json.loads((run / "rounds/002/summary.json").read_text())["selection"]["strategy"] == "random"
    table = pq.read_table(run / "rounds/002/selection/selection.parquet").to_pandas()
    assert (table.outcome == "selected").sum() == BUDGET


def test_another_strategy_or_base_asks_again(monkeypatch):
    entry = SimpleNamespace(number=1, config={"select": {"strategy": "top"}, "model": {}})
    monkeypatch.setattr(standing.rounds, "all_rounds", lambda run: [entry])
    session = SimpleNamespace(
        run=None, config=SimpleNamespace(model_dump=lambda mode: {"select": {"strategy": "default"}, "model": {}})
    )
    assert standing.standing(session, 2) is None
