"""Progress of long stages, and the safe points at which Ctrl-C stops them.

Every long loop calls its progress with the units it has just finished. That call draws (a bar on a terminal, a line every few
seconds elsewhere), writes how far it is to a file for other processes to show, and is the safe point: after Ctrl-C or SIGTERM it
raises `Interrupted`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

from tqdm import tqdm

from al.errors import Interrupted
from al.run.atomic import replaced
from al.terminal import displayable, show

LINE_EVERY_SECONDS = 5.0
FILE_EVERY_SECONDS = 1.0
_stop_requested = threading.Event()


def stop_requested() -> bool:
    """Whether the user asked to stop at the next safe point."""
    return _stop_requested.is_set()


def stop_on_signals() -> None:
    """Make the first Ctrl-C or SIGTERM stop at the next safe point, and the second one at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        """Ask the work to stop at its next safe point; a second signal stops it at once."""
        if _stop_requested.is_set():
            raise KeyboardInterrupt
        _stop_requested.set()
        show("\nstopping at the next safe point; press Ctrl-C again to stop at once", file=sys.stderr)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def check_stop() -> None:
    """The safe point itself. Raises Interrupted if the user asked to stop."""
    if _stop_requested.is_set():
        raise Interrupted("stopped at a safe point; nothing finished is lost.")


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """A bar over `total` units (None: not known before); call it with the number of units just finished. Use as a context manager.

    `note` is printed after the numbers. `seconds_left` replaces the estimate from the rate so far. `file` holds what
    `snapshot` says, at most a second old, until the work ends; that it cannot be written stops nothing.
    """

    def __init__(self, title: str, total: int | None, unit: str, quiet: bool = False, file: Path | None = None):
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.done = 0
        self.note = ""
        self.seconds_left: float | None = None
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar = tqdm(
            total=total,
            desc=displayable(title),
            unit=f" {unit}",
            unit_scale=True,
            leave=False,
            disable=not self._terminal,
        )
        self._started = self._spoken = time.monotonic()
        self._file, self._written = file, float("-inf")
        self._write()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
        if kind is None and not self.quiet and self.total != 0:  # nothing to do is no news
            seconds = time.monotonic() - self._started
            show(f"{self.title}: {self.done:,} {self.unit} in {seconds:.1f} s{self.note}", file=sys.stderr)

    def __call__(self, units: int) -> None:
        self._advance(units)
        check_stop()

    def advance_to(self, done: int) -> None:
        """Set the units done, without being a safe point: training stops itself, after a checkpoint."""
        self._advance(done - self.done)

    def _advance(self, units: int) -> None:
        self.done += units
        if self.note:
            self._bar.set_postfix_str(self.note.strip(" ,"), refresh=False)
        self._bar.update(units)
        self._write()
        if not self._terminal and not self.quiet:
            self._speak()

    def snapshot(self) -> dict[str, str | int | float | None]:
        """{"title", "done", "total", "unit", "rate" (units a second), "seconds_left", "note", "pid"}; None: not known (yet)."""
        rate = self.done / max(time.monotonic() - self._started, 1e-9)
        left = self.seconds_left
        if left is None and self.total is not None and self.done:
            left = (self.total - self.done) / max(rate, 1e-9)
        return {
            "title": self.title,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "rate": rate,
            "seconds_left": left,
            "note": self.note,
            "pid": os.getpid(),
        }

    def _write(self) -> None:
        moment = time.monotonic()
        if self._file is None or moment - self._written < FILE_EVERY_SECONDS:
            return
        self._written = moment
        with suppress(OSError), replaced(self._file, durable=False) as temporary:
            temporary.write_text(json.dumps(self.snapshot()), encoding="utf-8")

    def _speak(self) -> None:
        moment = time.monotonic()
        if moment - self._spoken < LINE_EVERY_SECONDS or not self.done or self.done == self.total:
            return
        self._spoken = moment
        rate = self.done / max(moment - self._started, 1e-9)
        of, left = "", ""
        if self.total is not None:
            seconds = (self.total - self.done) / max(rate, 1e-9) if self.seconds_left is None else self.seconds_left
            of, left = f"/{self.total:,}", f", {duration(seconds)} left"
        show(
            f"{self.title}: {self.done:,}{of} {self.unit}, {rate:,.{0 if rate >= 10 else 2}f}/s{left}{self.note}",
            file=sys.stderr,
        )
