"""One place where shards are worked on: this process, a worker process or a Ray actor."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from al.config import Config
from al.engine.models import Models
from trainer.shortage import listening

Progress = Callable[[int], None]
Work = Callable[[Models], AbstractContextManager[Callable[[Any, Progress], Any]]]
"""What is done with shards: given models, a context whose value is a function of a shard and a progress. It travels to workers, so it is a
`functools.partial` of a module's function with paths, configs and plain values."""


@dataclass(frozen=True)
class Outcome:
    """What came of shard number `shard`: a result, or the class and message of an error. `units` is the progress that it is worth, `notes`
    are reports of memory that ran out (trainer.shortage)."""

    shard: int
    result: Any = None
    error: tuple[type[Exception], str] | None = None
    units: int = 0
    notes: tuple[str, ...] = ()


class ShardWorker:
    """Holds models and the work in hand from one shard to the next."""

    def __init__(self) -> None:
        self._models: Models | None = None
        self._wanted: tuple[Config, Work] | None = None
        self._do: Callable[[Any, Progress], Any] | None = None
        self._open = ExitStack()

    def begin(self, config: Config, work: Work) -> None:
        """Take up another work; what it needs is loaded with its first shard."""
        self.end()
        self._wanted = config, work

    def end(self) -> None:
        """Let go of the work in hand. Models stay loaded."""
        self._wanted = self._do = None
        self._open.close()

    def outcome(self, number: int, shard: Any) -> Outcome:
        """What comes of a shard. Errors are part of it: an exception itself need not survive the way to the driver."""
        units, notes = 0, []

        def count(done: int) -> None:
            """Add to the progress that the shard is worth."""
            nonlocal units
            units += done

        try:
            with listening(notes.append):
                result = self._function()(shard, count)
        except Exception as error:
            return Outcome(number, error=_described(error), notes=tuple(notes))
        return Outcome(number, result, units=units, notes=tuple(notes))

    def _function(self) -> Callable[[Any, Progress], Any]:
        if self._do is None:
            config, work = self._wanted
            self._models = Models(config) if self._models is None else self._models.with_config(config)
            self._do = self._open.enter_context(work(self._models))
        return self._do


def _described(error: Exception) -> tuple[type[Exception], str]:
    """An error that has an exit code as it is; of any other one its traceback, because it is a fault."""
    if hasattr(error, "exit_code"):
        return type(error), str(error)
    return RuntimeError, f"{type(error).__name__} in a worker: {error}\n\n{traceback.format_exc()}"
