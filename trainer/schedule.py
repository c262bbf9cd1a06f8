"""The packs of each step: a function of (seed, round, step), so that a resumed training sees the same packs."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from trainer.config import TrainConfig
from trainer.errors import DataError
from trainer.randomness import ORDER


def planned_steps(packs: int, config: TrainConfig, steps: int | None) -> int:
    """Number of steps: `steps` if given, else that of `config.epochs` passes over `packs` packs (the last step may be
    short).

    Raises DataError if there is nothing to train on.
    """
    if packs == 0:
        raise DataError("expected at least one pack to train on, found none: the selection is empty")
    return steps if steps is not None else math.ceil(_epoch_packs(packs, config) / config.packs_per_step)


def packs_of_step(step: int, packs: int, config: TrainConfig, *, seed: int, round: int, steps: int | None) -> list[int]:
    """Indices of the packs of step `step` (from 0).

    Every epoch is a separate permutation. The epochs are concatenated and divided into steps of packs_per_step. With
    `steps` None the last step ends with the last epoch; with a number every step is full, cycling through epochs.
    """
    first = step * config.packs_per_step
    last = first + config.packs_per_step
    if steps is None:
        last = min(last, _epoch_packs(packs, config))
    return [int(_permutation(packs, seed, round, place // packs)[place % packs]) for place in range(first, last)]


def spread(steps: int, count: int) -> list[int]:
    """At most `count` steps, evenly over 1 … `steps`, ascending; the last is `steps`."""
    return sorted({-(-steps * part // count) for part in range(1, count + 1)})


def _epoch_packs(packs: int, config: TrainConfig) -> int:
    return max(1, math.ceil(config.epochs * packs - 1e-9))


@lru_cache(maxsize=2)
def _permutation(packs: int, seed: int, round: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, round, ORDER, epoch]).permutation(packs)
