"""Worker processes on this machine, each with a GPU of its own.

They are spawned, not forked: a process that has used CUDA, or runs threads, cannot be forked safely. The driver's main script is not
imported: one that calls `import al` without a guard would run again in each worker. A worker gets its work and shards through a pipe and
sends outcomes back. It ends when the driver ends, however that happens.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from al.config import Config
from al.engine.worker import Outcome, ShardWorker, Work
from al.terminal import quiet_libraries

START = "spawn"
"""How processes start; see `multiprocessing`."""
IDLE_END_WITHIN_SECONDS, END_WITHIN_SECONDS = 1.0, 5.0
"""How long workers have to end by themselves, so that they can tidy up, and after they were killed."""


@dataclass
class _Place:
    process: BaseProcess
    pipe: Connection


class Processes:
    """`len(devices)` workers, numbered from 0; worker i sees only the GPU `devices[i]` (None: none). See `al.engine.engine.Workers`."""

    def __init__(self, devices: Sequence[str | None], threads: int):
        self._devices, self._threads = devices, threads
        self._places = [self._started(number) for number in range(len(devices))]

    def __len__(self) -> int:
        return len(self._places)

    def _started(self, number: int) -> _Place:
        context = multiprocessing.get_context(START)
        here, there = context.Pipe()
        process = context.Process(
            target=_serve, args=(there, self._devices[number], self._threads), name=f"winnow-{number}", daemon=True
        )
        with _no_main_script():
            process.start()
        there.close()
        return _Place(process, here)

    def placed(self, number: int) -> bool:
        """Whether a worker can take a shard: always, its pipe keeps what comes before it is up."""
        return True

    def begin(self, number: int, config: Config, work: Work) -> None:
        """Give a worker another work. That it is dead shows in `wait`."""
        self._send(number, (config, work))

    def end(self, number: int) -> None:
        """Tell an idle worker to let go of its work."""
        self._send(number, None)

    def give(self, number: int, shard: int, value: Any) -> None:
        """Give an idle worker shard number `shard` of its work."""
        self._send(number, (shard, value))

    def _send(self, number: int, message: Any) -> None:
        try:
            self._places[number].pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            pass  # `wait` finds the end of the pipe

    def wait(self, busy: Sequence[int], seconds: float) -> list[tuple[int, Outcome | None]]:
        """Outcomes of `busy` workers that arrive within `seconds`; None from a worker that died."""
        pipes = {self._places[number].pipe: number for number in busy}
        found = []
        for pipe in wait(list(pipes), seconds):
            try:
                found.append((pipes[pipe], pipe.recv()))
            except (EOFError, OSError):
                found.append((pipes[pipe], None))
        return found

    def lost(self, number: int) -> str:
        """How a dead worker ended."""
        process = self._places[number].process
        process.join(END_WITHIN_SECONDS)
        code = process.exitcode
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with code {code}"
        return f"worker process {process.pid} ended {how}"

    def start(self, number: int) -> None:
        """Start a worker in place of a dead one."""
        self._places[number].pipe.close()
        self._places[number] = self._started(number)

    def close(self) -> None:
        """End all workers now: idle ones by themselves, the others, whatever they do, after IDLE_END_WITHIN_SECONDS."""
        for place in self._places:
            place.pipe.close()
        until = time.monotonic() + IDLE_END_WITHIN_SECONDS
        for place in self._places:
            place.process.join(max(0.0, until - time.monotonic()))
            place.process.kill()
        for place in self._places:
            place.process.join(END_WITHIN_SECONDS)


@contextmanager
def _no_main_script() -> Iterator[None]:
    """What `multiprocessing` starts imports no `__main__`; works are functions of modules."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(pipe: Connection, device: str | None, threads: int) -> None:
    """A worker's life: work and shards in, outcomes out, until the driver closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    end_with_the_driver()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before CUDA starts in this process
    quiet_libraries("--debug" in sys.argv)

    import torch

    torch.set_num_threads(threads)  # as many as in the driver: sums of other blocks round differently
    worker = ShardWorker()
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return
        if message is None:
            worker.end()
        elif isinstance(message[0], Config):
            worker.begin(*message)
        else:
            pipe.send(worker.outcome(*message))


def end_with_the_driver() -> None:
    """Let this process, which `multiprocessing` started, end when the one that started it does, even by SIGKILL."""

    def watch() -> None:
        """Wait for the parent's end."""
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
