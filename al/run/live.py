"""What a run is doing at the moment, read from its events and its progress file without touching it.

The events of a long training are many: they are read from the end of the file, back to where the stage under way began.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from al.run.store import EVENTS, PROGRESS

BLOCK = 1 << 16
STEP_KEYS = ("step", "steps", "loss", "tokens_per_s", "dev_loss", "learning_rate", "memory_gib", "seconds_left")
# Lines of training steps are recognised by their bytes: parsing each of a million steps would take seconds.
_STEP, _DEV = b'"event": "train.step"', b'"dev_loss"'


def stage_under_way(path: Path) -> dict[str, Any] | None:
    """The stage of the run at `path` that was started and not published: {"stage", "since", "step"}, None if there is none.

    "step" is its last training step, if it has any: those of `STEP_KEYS` that it measured, with "best_step" and "best_dev_loss", the
    lowest dev loss so far.
    """
    step: dict[str, Any] | None = None
    best: dict[str, Any] = {}
    for line in _backwards(path / EVENTS):
        if _STEP in line and step is not None and _DEV not in line:
            continue
        event = _parsed(line)
        kind = event.get("event")
        if kind in ("stage.published", "stage.failed"):
            return None
        if kind == "stage.started":
            return {"stage": event["stage"], "since": event["time"], "step": None if step is None else step | best}
        if kind == "train.step":
            step = step or {key: event[key] for key in STEP_KEYS if key in event}
            # `<=`: read backwards, the earliest of equal losses is the one that training keeps.
            if event.get("dev_loss", math.inf) <= best.get("best_dev_loss", math.inf) and "dev_loss" in event:
                best = {"best_step": event["step"], "best_dev_loss": event["dev_loss"]}
    return None


def waits_for_review(path: Path) -> bool:
    """Whether the last thing that happened is that a review was opened."""
    last = next((event for line in _backwards(path / EVENTS) if (event := _parsed(line))), {})
    return last.get("event") == "review.opened"


def progress_of(path: Path, owner: str | None) -> dict[str, Any] | None:
    """What the process that holds the run's lock says of its work (`al.run.progress.Progress.snapshot`); None when it says nothing.

    `owner`: the line of run.lock.owner. A file left behind by a process that was killed is not shown for another one's.
    """
    try:
        found = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and f"{owner} ".startswith(f"pid {found.get('pid')} ") else None


def _parsed(line: bytes) -> dict[str, Any]:
    """An event; {} for a line that was not written whole."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and "event" in event else {}


def _backwards(path: Path) -> Iterator[bytes]:
    """Lines of a file that are not empty, the last one first, in blocks from its end."""
    if not path.is_file():
        return
    with path.open("rb") as handle:
        at, rest = handle.seek(0, 2), b""
        while at > 0:
            size = min(BLOCK, at)
            at = handle.seek(at - size)
            lines = (handle.read(size) + rest).split(b"\n")
            rest = lines[0]
            yield from (line for line in reversed(lines[1:]) if line)
        if rest:
            yield rest
