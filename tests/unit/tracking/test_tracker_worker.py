"""A tracker's thread: what it is received arrives in order, and whatever it does the caller goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from al.tracking import worker
from al.tracking.services import TrackedRound
from al.tracking.worker import Worker

ROUND = TrackedRound("demo", 1, "a1", Path("nowhere"), {"seed": 0})


class Notes:
    """A tracker that writes down what it is received; `trouble` is called with each message's kind first."""

    def __init__(self, trouble: Callable[[str], None] = lambda kind: None):
        self.received: list[tuple] = []
        self.trouble = trouble

    def start(self, received: TrackedRound) -> None:
        self._note("start", received)

    def log(self, metrics: dict, step: int) -> None:
        self._note("log", metrics, step)

    def finish(self, summary: dict, verdict: str) -> None:
        self._note("finish", summary, verdict)

    def _note(self, kind: str, *values: object) -> None:
        self.trouble(kind)
        self.received.append((kind, *values))


def working(tracker: Notes) -> tuple[Worker, list[tuple[str, str]]]:
    failures: list[tuple[str, str]] = []
    return Worker("notes", lambda: tracker, lambda name, reason: failures.append((name, reason))), failures


def raise_at(bad: str, error: type[BaseException] = ValueError) -> Callable[[str], None]:
    def trouble(kind: str) -> None:
        if kind == bad:
            raise error("the server\nis gone")

    return trouble


def test_everything_arrives_in_order_before_close_returns():
    tracker = Notes()
    found, failures = working(tracker)
    found.start(ROUND)
    for step in range(1, 51):
        found.log({"selected/loss": 1.0 / step}, step)
    found.finish({"test": 1.0}, "it helped")
    found.close()
    assert [kind for kind, *_ in tracker.received] == ["start", *["log"] * 50, "finish"] and not failures
    assert tracker.received[0] == ("start", ROUND) and tracker.received[-1] == ("finish", {"test": 1.0}, "it helped")


def test_a_round_that_was_stopped_is_ended_without_results():
    tracker = Notes()
    found, _ = working(tracker)
    found.start(ROUND)
    found.close()
    assert tracker.received[-1] == ("finish", {}, "")


@pytest.mark.parametrize("bad", ["start", "log", "finish"])
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_one_that_raises_is_left_out_and_received_once_in_one_line(bad: str, error: type[BaseException]):
    tracker = Notes(raise_at(bad, error))
    found, failures = working(tracker)
    for _ in range(2):
        found.start(ROUND)
        found.log({}, 1)
        found.finish({}, "")
    found.close()
    assert failures == [("notes", f"{error.__name__}: the server is gone")] and not found.alive


def test_one_that_hangs_is_dropped_and_the_round_does_not_wait(monkeypatch):
    monkeypatch.setattr(worker, "CALL_SECONDS", 0.2)
    forever = threading.Event()
    found, failures = working(Notes(lambda kind: forever.wait(30)))
    found.start(ROUND)
    time.sleep(0.4)
    started = time.monotonic()
    found.log({}, 1)
    found.close()
    assert time.monotonic() - started < 0.15
    assert failures == [("notes", "it has not responded for 0 s")]
    forever.set()


def test_close_waits_for_a_hanging_end_no_longer_than_a_call_may_take(monkeypatch):
    monkeypatch.setattr(worker, "CALL_SECONDS", 0.2)
    forever = threading.Event()
    found, failures = working(Notes(lambda kind: kind == "finish" and forever.wait(30)))
    found.start(ROUND)
    found.close()
    assert failures == [("notes", "it did not end within 0 s")]
    forever.set()


def test_steps_that_a_slow_one_cannot_queue_are_counted_and_the_round_does_not_wait(monkeypatch):
    monkeypatch.setattr(worker, "QUEUED", 5)
    go_on = threading.Event()
    tracker = Notes(lambda kind: kind == "start" and go_on.wait(30))
    found, failures = working(tracker)
    found.start(ROUND)
    while not found.busy:
        time.sleep(0.01)
    for step in range(20):
        found.log({}, step)
    go_on.set()
    found.close()
    assert found.left_out == 15 and len(tracker.received) == 1 + 5 + 1 and not failures
