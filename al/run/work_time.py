"""How long processes have worked on a run, read from events.jsonl. Time between processes does not count.

Each process begins its events with `work.started`. A process that was killed leaves its last event and a progress file, which is
at most a second old while it works; the later of both is when it ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from al.run.ownership import EVENTS

STARTED = "work.started"
BOUNDS = ("round.started", "round.finished", "round.withdrawn")


def work_seconds(run: Path) -> float:
    """Seconds that processes have worked on the run at `run`, up to its last event."""
    return sum(seconds for _, seconds in _intervals(run))


def work_of_round(run: Path, number: int) -> float:
    """As `work_seconds`, from the start of round `number` to its end."""
    total, inside = 0.0, False
    for event, seconds in _intervals(run):
        total += seconds if inside else 0.0
        if event.get("round") == number and event["event"] in BOUNDS:
            inside = event["event"] == "round.started"
    return total


def _intervals(run: Path) -> Iterator[tuple[dict[str, Any], float]]:
    """Each event with the seconds of work since the event before it. A clock that was set back counts nothing."""
    before: datetime | None = None
    for event in _events(run / EVENTS):
        moment = datetime.fromisoformat(event["time"])
        until = moment
        if event["event"] == STARTED:
            seen = event.get("last_sign")
            until = datetime.fromisoformat(seen) if seen else before
        seconds = (until - before).total_seconds() if before is not None and until is not None else 0.0
        yield event, max(0.0, seconds)
        before = moment


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """Events of a run; lines that were not written whole are left out."""
    if not path.is_file():
        return
    with path.open("rb") as handle:
        for line in handle:
            try:
                event = json.loads(line)
                datetime.fromisoformat(event["time"])
            except (ValueError, TypeError, KeyError):
                continue
            if isinstance(event.get("event"), str):
                yield event
