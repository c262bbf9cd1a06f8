"""The driver's side: gives shards to workers as they become free, and gives a dead worker's shard to another one."""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from al.config import Config
from al.engine.models import Models
from al.engine.processes import Processes
from al.engine.worker import Outcome, Progress, Work
from al.errors import ConfigError, EnvironmentProblem
from trainer.shortage import relay

if TYPE_CHECKING:
    from trainer.config import ModelConfig

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.2
"""How long the driver waits for outcomes before it passes its safe point again."""
PEERS_WITHIN_SECONDS = 30.0
"""How long after the error of one rank another one may turn out to be dead, and so to be its cause."""
MOST_DEATHS = 3
"""Workers that one shard may cost before it counts as what kills them."""


class Workers(Protocol):
    """Workers elsewhere, numbered from 0; each does one shard at a time. `al.engine.processes` and `al.engine.on_ray` have them."""

    def __len__(self) -> int: ...

    def placed(self, number: int) -> bool:
        """Whether a worker has a machine, so that it can take a shard."""

    def begin(self, number: int, config: Config, work: Work) -> None:
        """Give an idle worker another work."""

    def end(self, number: int) -> None:
        """Tell an idle worker to let go of its work."""

    def give(self, number: int, shard: int, value: Any) -> None:
        """Give an idle worker a shard."""

    def wait(self, busy: Sequence[int], seconds: float) -> list[tuple[int, Outcome | None]]:
        """(worker, outcome) of those of `busy` that have one within `seconds`; the outcome None: the worker died."""

    def lost(self, number: int) -> str:
        """How a dead worker ended."""

    def start(self, number: int) -> None:
        """Start a worker in place of a dead one."""

    def close(self) -> None:
        """End all workers."""


@dataclass(frozen=True)
class Place:
    """A worker's place among those that do one job together: `rank` of `world`, which meet at a URL."""

    rank: int
    world: int
    meeting: str


class Engine:
    """Does work in shards as `config.engine` says. Workers start with the first work and keep their models until `close`, or until
    the engine is gone."""

    def __init__(self, note: Callable[[str], None] = logger.warning) -> None:
        self.note = note
        """Called with a line about each worker that died."""
        self._workers: Workers | None = None
        self._made_for: Any = None

    def map(
        self, models: Models, work: Work, shards: Sequence[Any], progress: Progress = lambda units: None
    ) -> Iterator[tuple[int, Any]]:
        """(number of a shard, its result), as they are finished, in any order.

        `models`: those of this process, and the config that says who does the work. `progress` is called with the units that work
        reports, and at least every WAIT_SECONDS, as a safe point; what it raises ends the work.

        Raises:
            the error of a shard; ConfigError for workers that are not there; EnvironmentProblem for a shard that kills every worker.
        """
        if not shards:
            return
        if models.config.engine.kind == "local":
            with work(models) as do:
                for number, shard in enumerate(shards):
                    yield number, do(shard, progress)
            return
        yield from self._elsewhere(self._ready(models.config), models.config, work, shards, progress)

    def _elsewhere(
        self, workers: Workers, config: Config, work: Work, shards: Sequence[Any], progress: Progress
    ) -> Iterator[tuple[int, Any]]:
        waiting, busy, deaths = deque(range(len(shards))), dict[int, int](), Counter[int]()
        at_work = set[int]()
        try:
            while waiting or busy:
                for worker in range(len(workers)):
                    if worker in busy or not waiting or not workers.placed(worker):
                        continue
                    if worker not in at_work:
                        workers.begin(worker, config, work)
                        at_work.add(worker)
                    busy[worker] = waiting.popleft()
                    workers.give(worker, busy[worker], shards[busy[worker]])
                if not busy:
                    time.sleep(WAIT_SECONDS)
                for worker, outcome in workers.wait(list(busy), WAIT_SECONDS) if busy else ():
                    shard = busy.pop(worker)
                    if outcome is None:
                        at_work.discard(worker)
                        deaths[shard] += 1
                        self._survive(workers.lost(worker), deaths[shard])
                        workers.start(worker)
                        waiting.appendleft(shard)
                        continue
                    yield shard, _result(outcome)
                    progress(outcome.units)
                progress(0)
            for worker in at_work:
                workers.end(worker)
        finally:
            if busy:
                self.close()

    def together(
        self, models: Models, work: Work, jobs: Sequence[Any], meeting: Path, tick: Callable[[], None]
    ) -> list[Any]:
        """The results of rank 0 for each job, all at the same time, each by an equal share of the workers.

        Work gets (job, its Place). If a worker dies, all are ended, and the jobs that are not finished begin again: they must continue from
        what they wrote. `tick` is called every WAIT_SECONDS. `meeting`: a folder that all workers see.

        Raises:
            the error of a rank; EnvironmentProblem after MOST_DEATHS workers.
        """
        results: dict[int, Any] = {}
        deaths = 0
        while len(results) < len(jobs):
            workers, busy = self._ready(models.config), dict[int, tuple[int, int]]()
            left = [number for number in range(len(jobs)) if number not in results][: len(workers)]
            world = len(workers) // len(left)
            for place, number in enumerate(left):
                url = f"file://{meeting.absolute()}/meeting-{uuid.uuid4().hex}"
                for rank in range(world):
                    worker = place * world + rank
                    workers.begin(worker, models.config, work)
                    workers.give(worker, number, (jobs[number], Place(rank, world, url)))
                    busy[worker] = number, rank
            try:
                how = _all_done(workers, busy, results, tick)
            finally:
                if busy:
                    self.close()
            if how is not None:
                deaths += 1
                self._survive(how, deaths)
        return [results[number] for number in range(len(jobs))]

    def _survive(self, how: str, deaths: int) -> None:
        """Report a dead worker. Raises EnvironmentProblem after too many deaths over one shard."""
        if deaths >= MOST_DEATHS:
            raise EnvironmentProblem(
                f"{how}, the {deaths}th to end over the same shard. Finished shards are kept. SIGKILL usually means that main memory ran "
                "out (`dmesg` shows it): set engine.gpus to fewer workers, or engine.kind to local (for tokenize: OMP_NUM_THREADS=1), "
                "and run the same command again."
            )
        self.note(f"{how}: its work is done again. The result is the same.")

    def device(self, config: Config) -> str:
        """ "cuda" or "cpu": the kind of device that the work is done on.

        Raises trainer.errors.MachineError: model.device is cuda and there is no GPU.
        """
        if config.engine.kind == "ray" and config.model.device != "cpu":
            return "cuda" if self._cluster(config).get("GPU") else _device_here(config.model)
        return _device_here(config.model)

    def size(self, config: Config) -> int:
        """How many workers do the work; 1 in this process. They are not started. Raises ConfigError: more are asked for than can be."""
        if config.engine.kind == "local":
            return 1
        gpu = self.device(config) == "cuda"
        if config.engine.kind == "processes":
            return _count(config, "of this machine", len(visible_gpus()) if gpu else None)
        found = self._cluster(config)
        count = _count(config, "of the Ray cluster", int(found.get("GPU", 0)) if gpu else None)
        if count > found.get("CPU", 0):
            raise ConfigError(
                f"engine.gpus: {count} workers take a CPU core each, and the Ray cluster has {found.get('CPU', 0):.0f}; ask for fewer."
            )
        return count

    def _ready(self, config: Config) -> Workers:
        wanted = (config.engine, self.device(config))
        if self._workers is None or self._made_for != wanted:
            self.close()
            self._workers, self._made_for = self._started(config, wanted[1] == "cuda"), wanted
            self._at_exit = weakref.finalize(self, self._workers.close)
        return self._workers

    def _started(self, config: Config, gpu: bool) -> Workers:
        import torch

        count, threads = self.size(config), torch.get_num_threads()
        if config.engine.kind == "processes":
            return Processes(visible_gpus()[:count] if gpu else [None] * count, threads)
        from al.engine.on_ray import RayActors

        return RayActors(count, gpu, threads)

    def _cluster(self, config: Config) -> dict[str, float]:
        try:
            from al.engine import on_ray
        except ImportError as error:
            raise EnvironmentProblem(
                f"engine.kind: ray needs the package ray ({error}): pip install 'winnow-al[ray]'"
            ) from error
        return on_ray.resources(config.engine.address)

    def close(self) -> None:
        """End the workers, if there are any; the next work starts others."""
        if self._workers is not None:
            self._at_exit()
            self._workers = None


def _all_done(
    workers: Workers, busy: dict[int, tuple[int, int]], results: dict[int, Any], tick: Callable[[], None]
) -> str | None:
    """Wait for `busy` workers ({worker: (job, rank)}) and put the results of ranks 0 into `results`; how a worker died, if one did.

    A rank whose peer dies fails too, and may be heard first. So its error is raised only if no peer dies within PEERS_WITHIN_SECONDS.
    """
    failed: Outcome | None = None
    until = math.inf
    while busy and time.monotonic() < until:
        for worker, outcome in workers.wait(list(busy), WAIT_SECONDS):
            if outcome is None:
                return workers.lost(worker)
            number, rank = busy.pop(worker)
            if outcome.error is not None and failed is None:
                failed, until = outcome, time.monotonic() + PEERS_WITHIN_SECONDS
            elif outcome.error is None and rank == 0:
                results[number] = _result(outcome)
            workers.end(worker)
        tick()
    if failed is not None:
        _result(failed)
    return None


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES must be set to for each of this process's GPUs; none is initialised."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [str(number) for number in range(count)] if named is None else named.split(",")[:count]


def _result(outcome: Outcome) -> Any:
    for line in outcome.notes:
        relay(line)
    if outcome.error is not None:
        kind, message = outcome.error
        raise kind(message)
    return outcome.result


def _device_here(config: ModelConfig) -> Literal["cuda", "cpu"]:
    if config.device == "cpu":
        return "cpu"
    from trainer.model import resolve_device

    return resolve_device(config).type


def _count(config: Config, where: str, gpus: int | None) -> int:
    """How many workers: `engine.gpus`, at most as many as there are `gpus` (None: the work needs none)."""
    wanted = config.engine.gpus
    if gpus is None:
        return 1 if wanted == "auto" else wanted
    if wanted != "auto" and wanted > gpus:
        raise ConfigError(f"engine.gpus: expected at most the {gpus} GPUs {where}, found {wanted}.")
    return gpus if wanted == "auto" else wanted
