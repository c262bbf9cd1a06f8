"""Sends a run's events to its trackers: begin and end of rounds, and training steps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from al.report.reading.verdict import comparisons, headline
from al.run import rounds
from al.run.rounds import read_summary
from al.run.session import Session
from al.run.store import Run
from al.tracking.services import SERVICES, TrackedRound
from al.tracking.worker import Worker

NO_METRIC = ("time", "event", "round", "lineage", "step", "steps")
RESULTS = ("macro_nll", "macro_nll_no_end", "macro_em")
FOLDER = "tracking"

_left_out: set[str] = set()
"""Trackers that failed in this process."""


@contextmanager
def tracked(session: Session) -> Iterator[None]:
    """Inside the block, the trackers of the session's config receive the run's events."""
    run, names = session.run, [name for name in session.config.track if name not in _left_out]
    if not names:
        yield
        return

    def failed(name: str, reason: str) -> None:
        """Note that a tracker is dropped, for this process and in the run's events."""
        _left_out.add(name)
        session.say(
            f"note: tracker {name} is dropped: {reason}. The round continues; its record in {run.path} is complete"
        )
        run.event("tracker.failed", tracker=name, reason=reason)

    workers = [Worker(name, SERVICES[name], failed) for name in dict.fromkeys(names)]

    def heard(event: Mapping[str, Any]) -> None:
        """Forward an event; an exception drops all trackers but does not reach the run."""
        try:
            send(run, workers, event)
        except Exception as error:  # an event that cannot be sent to trackers must not stop the round
            for worker in workers:
                worker.give_up(f"{type(error).__name__}: {error}")

    run.listeners.append(heard)
    try:
        yield
    finally:
        run.listeners.remove(heard)
        for worker in workers:
            worker.close()
            if worker.left_out:
                session.say(f"note: tracker {worker.name} was too slow for {worker.left_out:,} of the training steps")


def send(run: Run, workers: Sequence[Worker], event: Mapping[str, Any]) -> None:
    """Send one event to every tracker that is interested in it."""
    kind = event["event"]
    if kind == "round.started":
        current = _round(run, event["round"])
        for worker in workers:
            worker.start(current)
    elif kind == "train.step":
        metrics = step_metrics(event)
        for worker in workers:
            worker.log(metrics, event["step"])
    elif kind == "round.finished":
        summary = read_summary(run, event["round"])
        results, verdict = headline_numbers(summary), headline(summary)
        for worker in workers:
            worker.finish(results, verdict)


def _round(run: Run, number: int) -> TrackedRound:
    entry = next(entry for entry in rounds.all_rounds(run) if entry.number == number)
    key = hashlib.sha256(f"{run.path.resolve()}\0{number}\0{entry.started}".encode()).hexdigest()[:16]
    return TrackedRound(run.path.resolve().name, number, key, run.path / FOLDER, entry.config)


def step_metrics(event: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a training step by name, such as `selected/loss`."""
    numbers = {key: value for key, value in event.items() if key not in NO_METRIC and isinstance(value, (int, float))}
    return {f"{event['lineage']}/{key}": float(value) for key, value in numbers.items() if math.isfinite(value)}


def headline_numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """A round's results by name: `test/macro_nll/selected`, `test/macro_nll/selected - base`, and its interval `…/low`, `…/high`."""
    found: dict[str, float | None] = {}
    for metric in RESULTS:
        for model, metrics in summary["evaluation"]["models"].items():
            found[f"test/{metric}/{model}"] = metrics.get(metric)
        for entry in comparisons(summary, metric):
            name = f"test/{metric}/selected - {entry.against}"
            found |= {name: entry.value, f"{name}/low": entry.low, f"{name}/high": entry.high}
    found |= {f"budget/{key}": summary["budget"].get(key) for key in ("examples", "tokens", "target_tokens")}
    return {name: float(value) for name, value in found.items() if value is not None}
