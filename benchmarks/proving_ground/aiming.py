"""Picks that aim at a target: the default, RDS+ over the whole pool, and what might be a better default.

    nearest or random   nearest by sentence embeddings if the pool holds the target's kind, else random (the former default)
    rds                 nearest by position-weighted hidden states of the base model (RDS+, arXiv 2503.01807), over the whole pool
    rds, centred        the same with the pool's mean taken off: hidden states of a language model all point the same way (the default)
    rds, half by kinds  half of the budget by `rds, centred`, half over kinds of prompt alike
    rds, by nearness    `rds, centred` for as large a part of the budget as its picks are near to the target, the rest at random

Nearness is 1 where the picks are as near to the examples that took them as the nearest other example is, and 0 where they are as near
as any row of the pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selection.config import SelectConfig
from selection.vectors import unit

DEFAULT, FORMER = "rds, centred", "nearest or random"
STRATEGIES = ("random", FORMER, "rds", DEFAULT, "rds, half by kinds", "rds, by nearness")
SET_ASIDE = ("rds, half by kinds", "rds, by nearness")
"""No better than the default on any target of the first model that played them; played last."""
HIDDEN = tuple(name for name in STRATEGIES if name.startswith("rds"))
"""Strategies that need the model's hidden states (pooled.py); their picks are the model's own."""


@dataclass(frozen=True)
class Aim:
    """A pool and a target: `vectors` (n, d) and `targets` (t, d) float, `keys` (n,) uint64 of the pool's rows."""

    vectors: np.ndarray
    targets: np.ndarray
    keys: np.ndarray

    def centred(self) -> Aim:
        """Without the mean of the pool's unit vectors."""
        vectors, targets = unit(self.vectors), unit(self.targets)
        mean = vectors.mean(axis=0)
        return Aim(vectors - mean, targets - mean, self.keys)

    def nearest(self, budget: int, seed: int, explore: float = 0.0, strategy: str = "nearest") -> np.ndarray:
        """Places of `budget` rows: target examples take turns, each with its nearest left; a part `explore` at random. `strategy` is
        Winnow's, "less" where vectors are gradients."""
        from selection.candidates import Candidates, Vectors
        from selection.strategy import Budget, allocate, select

        n = len(self.keys)
        nothing, vectors = np.full(n, np.nan), Vectors(self.vectors, np.arange(n), self.targets)
        candidates = Candidates(
            self.keys, np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.int64), nothing, nothing,
            vectors={"embedding": vectors, "gradient": vectors},
        )  # fmt: skip
        wanted, config = Budget("examples", min(budget, n)), SelectConfig(strategy=strategy, explore=explore)
        quotas = allocate(candidates, wanted, config, (seed, 1))
        return select(candidates, quotas, wanted, config, (seed, 1)).picked

    def to_pool(self) -> np.ndarray:
        """(t,) cosine of each example to the nearest row of the pool."""
        return (unit(self.targets) @ unit(self.vectors).T).max(axis=1)

    def held(self) -> bool:
        """Whether Winnow says that the pool holds the target's kind."""
        from al.preparation.target import holds_kind, nearest_other

        return holds_kind(self.to_pool(), nearest_other(self.targets))

    def nearness(self, budget: int) -> float:
        """How near `budget` picks are to the target, from 0 (as any row) to 1 (as the target's examples are to each other)."""
        from selection.turns import round_robin

        between = unit(self.targets) @ unit(self.targets).T
        own = (between - 2 * np.eye(len(between))).max(axis=1).mean()  # of each the nearest other one
        picks = round_robin(self.vectors, self.targets, min(budget, len(self.keys))).value.mean()
        chance = (unit(self.targets) @ unit(self.vectors).mean(axis=0)).mean()
        return float(np.clip((picks - chance) / max(own - chance, 1e-6), 0, 1))


def pooled_of(folder: Path, pool: np.ndarray, target: np.ndarray, keys: np.ndarray) -> Aim:
    """The hidden states of a pool's rows and a target's examples, out of what pooled.py wrote.

    Raises:
        SystemExit: a row has none.
    """
    rows, vectors = np.load(folder / "rows.npy"), np.load(folder / "vectors.npy", mmap_mode="r")
    wanted = np.concatenate([pool, target])
    places = np.searchsorted(rows, wanted).clip(max=len(rows) - 1)
    if (rows[places] != wanted).any():
        raise SystemExit(
            f"{folder}: {int((rows[places] != wanted).sum()):,} rows have no hidden states; measure them again"
        )
    found = vectors[places].astype(np.float32)
    return Aim(found[: len(pool)], found[len(pool) :], keys)
