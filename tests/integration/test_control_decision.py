"""`control: auto`: the control is trained until its answer is clear, and the default picks at random where selecting lost."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from command_line import winnow

from al.round import standing

BUDGET = 16


def summary(metric: str, value: float, low: float | None, high: float | None, **others) -> dict:
    """A summary in which `metric` decides; `others`: (value, low, high) of further metrics, all against the control."""
    found = {name: dict(zip(("value", "low", "high"), numbers, strict=True)) for name, numbers in others.items()}
    found[metric] = {"value": value, "low": low, "high": high}
    values = dict.fromkeys(found, 0.5)
    evaluation = {"differences": {"selected - control": found}, "models": {"selected": values, "control": values}}
    return {"evaluation": evaluation, "decides": {"metric": metric, "response_tokens": 3.0}}


@pytest.mark.parametrize(
    ("round", "answer"),
    [
        (summary("macro_nll", -0.20, -0.30, -0.10), "pays"),
        (summary("macro_nll", -0.20, -0.39, -0.01), "open"),  # clear of zero by 95%, not by 99%
        (summary("macro_nll", -0.20, -0.30, -0.10, macro_em=(-0.04, -0.06, -0.01)), "open"),  # exact match loses
        (summary("macro_em", 0.05, 0.02, 0.08), "pays"),
        (summary("macro_em", 0.03, -0.01, 0.06, macro_nll=(-0.2, -0.3, -0.1)), "open"),  # NLL does not decide
        (summary("macro_em", -0.05, -0.08, -0.02), "costs"),
        (summary("macro_nll", 0.20, 0.10, 0.30), "costs"),
        (summary("macro_nll", -0.2, None, None), "open"),
    ],
)
def test_an_answer_is_that_of_the_deciding_metric_with_a_clear_interval_and_no_loss(round, answer):
    assert standing.standing_after(3, round).answer == answer


def test_without_a_control_there_is_no_answer():
    assert standing.standing_after(1, {}) is None


@pytest.fixture(scope="module")
def first(world, tmp_path_factory):
    """A run of one round with `control: auto`."""
    run = tmp_path_factory.mktemp("auto") / "run"
    result = winnow("round", "--config", world, "--run", run, "--budget", BUDGET, "--set", "control=auto")
    assert result.code == 0, result.err
    return run


def next_round(first, tmp_path, monkeypatch, found: dict):
    """The second round, where `found` stands for the summary of the first."""
    import shutil

    run = tmp_path / "run"
    shutil.copytree(first, run, symlinks=True)
    monkeypatch.setattr(standing.rounds, "read_summary", lambda run, number: found)
    result = winnow("round", "--run", run, "--budget", BUDGET)
    monkeypatch.undo()
    assert result.code == 0, result.err
    return run, " ".join(result.out.split())


def test_the_first_round_trains_a_control_and_an_open_answer_trains_the_next(first, tmp_path, monkeypatch):
    assert (first / "rounds/001/control.train").is_dir()
    run, out = next_round(first, tmp_path, monkeypatch, summary("macro_nll", -0.01, -0.2, 0.18))
    assert (run / "rounds/002/control.train").is_dir() and "no control in this round" not in out


def test_a_clear_gain_ends_the_control_and_the_round_says_why(first, tmp_path, monkeypatch):
    run, out = next_round(first, tmp_path, monkeypatch, summary("macro_nll", -0.2, -0.3, -0.1))
    assert not (run / "rounds/002/control.train").exists()
    assert "no control in this round, because round 1 has the answer: Yes" in out and "−0.200" in out
    assert json.loads((run / "rounds/002/summary.json").read_text())["selection"]["strategy"] != "random"
    asked = winnow("round", "--run", run, "--budget", BUDGET, "--set", "control=true")
    assert asked.code == 0 and (run / "rounds/003/control.train").is_dir()  # the control catches up


def test_a_clear_loss_makes_the_default_pick_at_random(first, tmp_path, monkeypatch):
    run, out = next_round(first, tmp_path, monkeypatch, summary("macro_nll", 0.2, 0.1, 0.3))
    assert "The default strategy therefore picks at random" in out
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
