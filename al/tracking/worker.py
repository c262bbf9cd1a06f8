"""The thread of a tracker. Messages wait in a bounded queue; the round never waits for it."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from al.tracking.services import TrackedRound, Tracker

CALL_SECONDS = 60.0
"""Seconds that one call of a tracker may take, including login and last upload, before it counts as hanging."""
QUEUED = 1000
"""Maximum number of waiting steps. A tracker slower than training exceeds it; further steps are skipped and counted."""


class Worker:
    """One tracker in a daemon thread. `failed` is called once with the reason if it is dropped for the rest of the process."""

    def __init__(self, name: str, make: Callable[[], Tracker], failed: Callable[[str, str], None]):
        self.name = name
        self._make, self._failed = make, failed
        self._queue: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy_since: float | None = None
        self._open = False
        self.alive = True
        self.left_out = 0
        context = contextvars.copy_context()  # what it says goes where its maker's lines go
        self._thread = threading.Thread(target=context.run, args=(self._work,), name=f"tracker {name}", daemon=True)
        self._thread.start()

    def start(self, current: TrackedRound) -> None:
        """Queue the start of a round."""
        self._put("start", current)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue the numbers of a training step; if the queue is full they are skipped and counted."""
        self._put("log", metrics, step)

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """Queue the end of a round."""
        self._put("finish", summary, verdict)

    @property
    def busy(self) -> bool:
        """Whether the tracker is handling a message."""
        return self._busy_since is not None

    def close(self) -> None:
        """Wait up to `CALL_SECONDS` for queued messages to be sent. A round that is still open ends as stopped."""
        if not self.alive:
            return
        self._put("close")
        if not self.alive:
            return
        self._thread.join(CALL_SECONDS)
        if self._thread.is_alive():
            self.give_up(f"it did not end within {CALL_SECONDS:.0f} s")

    def _put(self, *message: Any) -> None:
        since = self._busy_since
        if since is not None and time.monotonic() - since > CALL_SECONDS:
            self.give_up(f"it has not responded for {CALL_SECONDS:.0f} s")
        if not self.alive:
            return
        if message[0] == "log" and self._queue.qsize() >= QUEUED:
            self.left_out += 1
        else:
            self._queue.put(message)

    def _work(self) -> None:
        try:
            tracker = self._make()
            while self.alive:
                kind, *arguments = self._queue.get()
                if kind == "close":
                    arguments = [{}, ""]
                self._busy_since = time.monotonic()
                if kind == "finish" or (kind == "close" and self._open):
                    tracker.finish(*arguments)
                elif kind != "close":
                    getattr(tracker, kind)(*arguments)
                self._open = kind in ("start", "log")
                self._busy_since = None
                if kind == "close":
                    return
        except BaseException as error:  # any exception, SystemExit included: a tracker may die, the round must not
            self.give_up(f"{type(error).__name__}: {error}")

    def give_up(self, reason: str) -> None:
        """Drop the tracker for the rest of the process."""
        with self._lock:
            reported, self.alive = not self.alive, False
        if not reported:
            self._failed(self.name, " ".join(reason.split())[:300])
