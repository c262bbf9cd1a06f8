"""How much faster than one GPU those of the config's engine are, for plans and for budgets of training time.

Work in shards needs nothing from other GPUs; a training exchanges gradients in every step. What a further GPU adds is assumed here, as
docs/scale.md asks of two; `benchmarks/many_gpus.py` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from al.config import Config
from al.engine.engine import Engine

TRAINING_ADDS, SHARDS_ADD = 0.9, 0.95
"""What each further GPU adds to the speed of the first one, in training and in measuring."""


@dataclass(frozen=True)
class Speedup:
    """Speed of `gpus` relative to one. `lineage`: of a training alone; `training`: of the round's trainings, one after the other or, if
    `at_once`, the selected lineage and the control on half of the GPUs each; `shards`: of measuring, embedding and evaluation."""

    gpus: int
    lineage: float
    training: float
    shards: float
    at_once: bool

    def as_dict(self) -> dict[str, Any]:
        """For plan.json: {"count", "training", "measuring", "at_once"}."""
        return {
            "count": self.gpus,
            "training": round(self.training, 2),
            "measuring": round(self.shards, 2),
            "at_once": self.at_once,
        }

    def described(self) -> str:
        """What is assumed, as a sentence."""
        return (
            f"{self.gpus} GPUs train {self.training:.2f} times as fast as one and measure {self.shards:.2f} times as fast; assumed: each "
            f"further GPU adds {TRAINING_ADDS:.0%} of the first in training, {SHARDS_ADD:.0%} in measuring"
        )


def speedup(config: Config, gpus: int) -> Speedup:
    """What `gpus` GPUs do for a round. A training has no use for more than a step has packs."""
    at_once = bool(config.control) and not config.train.patience and gpus > 1
    lineage = _times(min(gpus // 2 if at_once else gpus, config.train.packs_per_step), TRAINING_ADDS)
    return Speedup(gpus, lineage, lineage * (2 if at_once else 1), _times(gpus, SHARDS_ADD), at_once)


def _times(gpus: int, adds: float) -> float:
    return 1 + (gpus - 1) * adds


def gpus_of(config: Config, engine: Engine) -> int:
    """GPUs that do the work; 1 where workers share the cores of one machine. Raises ConfigError: more are asked for than there are."""
    if config.engine.kind == "local" or engine.device(config) != "cuda":
        return 1
    return engine.size(config)
