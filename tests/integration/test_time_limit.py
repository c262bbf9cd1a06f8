"""`run --until`: rounds until the time is spent, over restarts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import winnow

from al.budget import parse_budget
from al.config import parse
from al.round import standing, time_limit
from al.round.time_limit import TimeLimit
from al.run import rounds
from al.run.store import Run
from al.run.work_time import work_of_round, work_seconds


@pytest.fixture
def copied(two_rounds, tmp_path) -> Path:
    return Path(shutil.copytree(two_rounds[0], tmp_path / "two", symlinks=True))


def fitted(run: Run, limit: float, budget: str, control: bool = True) -> str | None:
    """The text of the budget of round 3 with `limit` seconds left."""
    config = parse(rounds.last_round(run).config | {"control": control}, "the run")
    found = TimeLimit(work_seconds(run.path) + limit).fit(run, parse_budget(budget), config, 3)
    return None if found is None else found.text


def test_the_last_round_gets_the_training_time_that_is_left_for_both_lineages(two_rounds):
    with Run.read(two_rounds[0]) as run:
        trained = sum(
            rounds.recorded(run, 2, role).json("train.json")["seconds"] for role in ("train", "control.train")
        )
        besides = work_of_round(run.path, 2) - trained
        assert 0 < trained and 0 < besides
        assert fitted(run, besides + 2 * 1000 + 1, "1000s") == "1000s"
        assert fitted(run, besides + 2 * 400.5, "1000s") == "400s"
        assert fitted(run, besides + 2 * 90, "1000s") is None, "less than a tenth is not worth a round"
        without = rounds.recorded(run, 2, "train").json("train.json")["seconds"]
        assert fitted(run, besides + 1000.5, "1000s", control=False) == "1000s", (
            "all of it, where no control is trained"
        )
        assert fitted(run, besides + without + 0.1, "24", control=False) == "24"
        assert fitted(run, besides + without - 0.1, "24", control=False) is None
        assert fitted(run, work_of_round(run.path, 2) + 0.1, "24") == "24"
        assert fitted(run, work_of_round(run.path, 2) - 0.1, "24") is None


def test_trainings_at_the_same_time_take_the_longer_ones_time(two_rounds, monkeypatch):
    monkeypatch.setattr(time_limit, "work_of_round", lambda run, number: 100.0)
    monkeypatch.setattr(time_limit, "_training_seconds", lambda run, number: (40.0, 30.0))
    with Run.read(two_rounds[0]) as run:
        config = parse(rounds.last_round(run).config, "the run")

        def fitted_at_once(left: float, budget: str) -> str | None:
            limit = TimeLimit(work_seconds(run.path) + left)
            found = limit.fit(run, parse_budget(budget), config, 3, at_once=True)
            return None if found is None else found.text

        assert [fitted_at_once(left, "24") for left in (100.5, 99.5)] == ["24", None]
        # 60 s besides; each lineage has half of the workers, so 100 s of training take 200
        assert [fitted_at_once(left, "100s") for left in (260.5, 259.5)] == ["100s", "99s"]


def test_a_control_that_catches_up_is_expected_to_train_on_all_it_lacks(two_rounds, monkeypatch):
    with Run.read(two_rounds[0]) as run:
        config, recorded = parse(rounds.last_round(run).config, "the run"), rounds.recorded
        besides, ours = work_of_round(run.path, 2), recorded(run, 2, "train").json("train.json")["seconds"]
        monkeypatch.setattr(
            rounds, "recorded", lambda run, n, role: None if role == "control.train" else recorded(run, n, role)
        )
        needed = besides + 3 * ours  # no round had a control: it trains on the picks of rounds 1, 2 and 3
        for more, text in ((0.1, "24"), (-0.1, None)):
            found = TimeLimit(work_seconds(run.path) + needed + more).fit(run, parse_budget("24"), config, 3)
            assert (found and found.text) == text


def test_time_that_earlier_processes_spent_counts_and_the_next_round_is_not_started(copied):
    spent = work_seconds(copied)
    stopped = winnow("run", "--run", copied, "--budget", 24, "--until", f"{spent + 0.3:.1f}s", "--all-rounds")
    assert stopped.code == 0, stopped.err
    assert "stopping before round 3: " in stopped.out and not (copied / "rounds/003").exists()


def test_an_interrupted_round_is_finished_with_its_own_budget_and_counts_to_the_limit(copied):
    with Run.create_or_open(copied) as run:
        rounds.open_round(run, 3, "12", rounds.last_round(run).config)
    done = winnow("run", "--run", copied, "--budget", 24, "--until", "1s", "--all-rounds")
    assert done.code == 0, done.err
    assert done.out.count(f"Adapter: {copied}/rounds/003/adapter") == 1, "its summary is printed once"
    with Run.read(copied) as run:
        assert [entry.state for entry in rounds.all_rounds(run)] == ["done"] * 3
        assert rounds.read_summary(run, 3)["budget"]["asked"] == "12"


def test_a_pool_that_is_used_up_ends_the_rounds_before_the_time(copied):
    stopped = winnow("run", "--run", copied, "--budget", 5_000, "--until", "1h", "--all-rounds")
    assert stopped.code == 0, stopped.err
    assert "stopping after round 2, before the time is spent: budget: 5000 examples asked for" in stopped.out
    with Run.read(copied) as run:
        assert [(entry.number, entry.state) for entry in rounds.all_rounds(run)] == [(1, "done"), (2, "done")]
    assert not (copied / "rounds/003").exists() and winnow("resume", "--run", copied).code == 5, "no round is open"
    (copied / "run.db").unlink()
    assert winnow("repair", "--run", copied, "--json").document["rounds"] == {"done": [1, 2], "open": []}
    again = winnow("run", "--run", copied, "--budget", 5_000, "--rounds", 3, "--all-rounds")
    assert again.code == 3 and "5000 examples asked for" in again.err, "asked for by number, it is an error"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--budget", 24), "--rounds K, --until TIME"),
        (("--budget", 24, "--until", "22"), "expected a time above zero, for example 22h"),
        (("--budget", "30min", "--until", "1min"), "time for at least one round of 30min"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_an_error(options, named, world, tmp_path):
    refused = winnow("run", "--config", world, "--run", tmp_path / "new", "--all-rounds", *options)
    assert refused.code == 2 and named in refused.err
    assert not (tmp_path / "new" / "rounds").exists()


def test_a_control_that_has_said_enough_takes_none_of_the_time(copied, monkeypatch):
    """With `control: auto`, what the last control says decides what the next round is expected to cost."""
    asked = []

    def fit(limit: TimeLimit, run: Run, budget, config, number: int, at_once: bool) -> None:
        asked.append(config.control)

    for answer in (standing.Standing("safe", 2, "enough"), None):
        monkeypatch.setattr(standing, "standing", lambda config, run, number, answer=answer: answer)
        monkeypatch.setattr(TimeLimit, "fit", fit)
        stopped = winnow(
            "run", "--run", copied, "--budget", 24, "--until", "9h", "--set", "control=auto", "--all-rounds"
        )
        assert stopped.code == 0, stopped.err
    assert asked == [False, True]
