"""Workers as actors of a Ray cluster, each with a GPU of its own, on any number of machines.

Every machine needs Winnow, and the run, the models and the pool at the same paths: on a shared file system. Actors and not tasks, because
a worker keeps its model from one shard to the next. Importing this module loads Ray.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked

import ray
from ray.exceptions import RayError, RayTaskError

from al.config import Config
from al.engine.worker import Outcome, ShardWorker, Work
from al.errors import EnvironmentProblem
from al.excerpt import cut

LONGEST_REASON = 300
"""Characters of what Ray says of a dead actor."""


class _Actor:
    """A worker as Ray holds it."""

    def __init__(self, threads: int, folder: str):
        import torch

        if os.path.isdir(folder):
            os.chdir(folder)  # the driver's, from which relative paths count
        torch.set_num_threads(threads)  # as many as in the driver: sums of other blocks round differently
        self._worker = ShardWorker()

    def begin(self, config: Config, work: Work) -> None:
        """Take up another work."""
        self._worker.begin(config, work)

    def end(self) -> None:
        """Let go of the work in hand."""
        self._worker.end()

    def outcome(self, number: int, shard: Any) -> Outcome:
        """What comes of a shard."""
        return self._worker.outcome(number, shard)


def resources(address: str | None) -> dict[str, float]:
    """What the cluster at `address` has in all, {"CPU", "GPU", …}; joins it first, or starts a Ray on this machine, which ends with this
    process. Raises EnvironmentProblem."""
    if not ray.is_initialized():
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = "here" if address is None else f"at {address}"
            raise EnvironmentProblem(
                f"engine.address: no Ray could be joined or started {where} ({' '.join(str(error).split())}). Start one with "
                "`ray start --head`, or check the address and the cluster's token (RAY_AUTH_MODE)."
            ) from error
    return ray.cluster_resources()


class RayActors:
    """`count` workers, numbered from 0; see `al.engine.engine.Workers`."""

    def __init__(self, count: int, gpu: bool, threads: int):
        self._gpu, self._threads = gpu, threads
        self._starting: dict[int, ray.ObjectRef] = {}
        self._waiting: dict[int, ray.ObjectRef] = {}
        self._why: dict[int, str] = {}
        self._actors = [self._started(number) for number in range(count)]

    def __len__(self) -> int:
        return len(self._actors)

    def _started(self, number: int) -> Any:
        actor = ray.remote(num_gpus=int(self._gpu), num_cpus=1, max_restarts=0)(_Actor).remote(
            self._threads, os.getcwd()
        )
        self._starting[number] = actor.__ray_ready__.remote()
        return actor

    def placed(self, number: int) -> bool:
        """Whether a worker has found a machine: after one was lost, there may be no other, and its shard must not wait for it."""
        if number in self._starting and ray.wait([self._starting[number]], timeout=0)[0]:
            del self._starting[number]
        return number not in self._starting

    def begin(self, number: int, config: Config, work: Work) -> None:
        """Give a worker another work. That it is dead shows in `wait`."""
        self._actors[number].begin.remote(config, work)

    def end(self, number: int) -> None:
        """Tell an idle worker to let go of its work."""
        self._actors[number].end.remote()

    def give(self, number: int, shard: int, value: Any) -> None:
        """Give an idle worker shard number `shard` of its work."""
        self._waiting[number] = self._actors[number].outcome.remote(shard, value)

    def wait(self, busy: Sequence[int], seconds: float) -> list[tuple[int, Outcome | None]]:
        """Outcomes of `busy` workers that arrive within `seconds`; None from a worker that died."""
        numbers = {self._waiting[number]: number for number in busy}
        ready, _ = ray.wait(list(numbers), num_returns=1, timeout=seconds)
        return [(numbers[reference], self._arrived(numbers[reference])) for reference in ready]

    def _arrived(self, number: int) -> Outcome | None:
        try:
            return ray.get(self._waiting[number])
        except RayTaskError:
            raise
        except RayError as error:
            self._why[number] = " ".join(str(error).split())
            return None

    def lost(self, number: int) -> str:
        """How a dead actor ended, as Ray says it."""
        return f"a Ray actor died, or its machine did ({cut(self._why.pop(number, 'no reason given'), LONGEST_REASON)})"

    def start(self, number: int) -> None:
        """Place an actor for a dead one."""
        ray.kill(self._actors[number])
        self._actors[number] = self._started(number)

    def close(self) -> None:
        """End all actors now, whatever they do. At the end of the process Ray may have ended them already, and is not started for it."""
        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor)
