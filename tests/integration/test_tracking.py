"""Trackers of a round: what they receive, and that the round is the same whatever they do."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from command_line import winnow

from al.tracking import rounds as tracking
from al.tracking import services, worker
from al.tracking.services import TrackedRound

BUDGET = 30


class Recorded:
    """A tracker that remembers."""

    received: list[tuple]

    def start(self, received: TrackedRound) -> None:
        self.received.append(("start", received))

    def log(self, metrics: dict, step: int) -> None:
        self.received.append(("log", metrics, step))

    def finish(self, summary: dict, verdict: str) -> None:
        self.received.append(("finish", summary, verdict))


class Raising(Recorded):
    """A tracker whose server went away."""

    def log(self, metrics: dict, step: int) -> None:
        raise ConnectionError("the server is gone")


class Hanging(Recorded):
    """A tracker that never answers."""

    def start(self, received: TrackedRound) -> None:
        threading.Event().wait(60)


@pytest.fixture
def trackers(monkeypatch):
    """Trackers by these names that need nothing installed; one call may take a second."""
    Recorded.received = []
    for name, made in (("tensorboard", Recorded), ("wandb", Raising), ("mlflow", Hanging)):
        monkeypatch.setitem(services.SERVICES, name, made)
        monkeypatch.setitem(services.NEEDED, name, {"json": "json"})
    monkeypatch.setattr(worker, "CALL_SECONDS", 1.0)
    monkeypatch.setattr(tracking, "_left_out", set())


def play(world: Path, run: Path, *more: str):
    return winnow("round", "--config", world, "--run", run, "--budget", BUDGET, *more)


def artifacts(run: Path) -> dict:
    return json.loads((run / "rounds/001/summary.json").read_text())["artifacts"]


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_trap_32_trackers_that_raise_or_hang_leave_the_round_as_it_is(world, tmp_path, trackers):
    plain = play(world, tmp_path / "plain", "--json")
    names = [part for name in ("wandb", "mlflow", "tensorboard") for part in ("--track", name)]
    result = play(world, tmp_path / "run", "--json", *names)
    assert plain.code == result.code == 0, result.err
    ours, theirs = artifacts(tmp_path / "run"), artifacts(tmp_path / "plain")
    assert ours == theirs
    assert result.document["round"] == 1  # stdout holds the one document
    notes = [line for line in result.err.splitlines() if line.startswith("note: tracker")]
    assert sorted(line.split(" is dropped: ")[0] for line in notes) == ["note: tracker mlflow", "note: tracker wandb"]
    assert any("ConnectionError: the server is gone" in line for line in notes)
    failed = [event for event in events(tmp_path / "run") if event["event"] == "tracker.failed"]
    assert sorted(event["tracker"] for event in failed) == ["mlflow", "wandb"]
    steps = sum(event["event"] == "train.step" for event in events(tmp_path / "run"))
    assert steps == sum(event["event"] == "train.step" for event in events(tmp_path / "plain")) > 0


def test_trap_32_a_tracker_that_is_not_installed_is_refused_before_anything_runs(world, tmp_path, monkeypatch):
    monkeypatch.setitem(services.NEEDED, "wandb", {"no_such_module": "wandb"})
    result = play(world, tmp_path / "run", "--track", "wandb")
    assert result.code == 2 and "`pip install wandb`" in result.err
    assert not (tmp_path / "run").exists()


def test_trap_32_one_that_failed_is_not_asked_again_in_this_process(world, tmp_path, trackers):
    result = winnow(
        "run", "--rounds", 2, "--all-rounds", "--config", world, "--run", tmp_path, "--budget", 20, "--track", "wandb"
    )
    assert result.code == 0, result.err
    assert sum(event["event"] == "tracker.failed" for event in events(tmp_path)) == 1
    assert sum(kind == "start" for kind, *_ in Recorded.received) == 1


def test_a_tracker_is_received_the_steps_of_both_lines_and_the_rounds_results(world, tmp_path, trackers):
    result = play(world, tmp_path / "run", "--track", "tensorboard", "--json")
    assert result.code == 0, result.err
    (_, received), *steps, (_, results, verdict) = Recorded.received
    assert (received.run, received.number, received.config["track"]) == ("run", 1, ["tensorboard"])
    logged = [(metrics, step) for kind, metrics, step in steps]
    trained = [event for event in events(tmp_path / "run") if event["event"] == "train.step"]
    assert [(metrics[f"{e['lineage']}/loss"], step) for (metrics, step), e in zip(logged, trained, strict=True)] == [
        (event["loss"], event["step"]) for event in trained
    ]
    test = result.document["evaluation"]
    assert results["test/macro_nll/selected"] == test["models"]["selected"]["macro_nll"]
    assert results["test/macro_nll/selected - base/low"] == test["differences"]["selected - base"]["macro_nll"]["low"]
    assert "selecting" in verdict and "random" in verdict


def test_an_unknown_tracker_is_refused_with_the_known_ones(world, tmp_path):
    result = play(world, tmp_path / "run", "--track", "aim")
    assert result.code == 2 and "'wandb', 'tensorboard', 'trackio' or 'mlflow'" in result.err


def test_no_thread_of_a_tracker_is_left_after_a_round(world, tmp_path, trackers):
    assert play(world, tmp_path / "run", "--track", "tensorboard", "--json").code == 0
    until = time.monotonic() + 5
    while any(thread.name == "tracker tensorboard" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)
