"""Which examples of one cluster fill its quota.

A picker ranks the candidates of one cluster, best first, and can say of each place why it is there. It sees them in random
order, without those that the tail cut holds back. Global top-loss is worse than random (arXiv 2503.01807), which is why no
picker ranks the whole pool by loss; those that rank it aim at a target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from selection.candidates import Candidates, Strategy
from selection.greedy import Order
from selection.randomness import PICK

MIN_MEASURED_FOR_CUT = 5
"""Below this a cluster's highest loss says nothing about noise."""


@dataclass(frozen=True)
class ClusterView:
    """One cluster, or the whole pool, as a picker sees it.

    `rows` (m,): its candidates, without those held back, in random order by key. `count`: how many of them the quota can take at
    most, so that a picker need not rank more; the rest follows in any order. `seed_parts`: of this selection.
    """

    cluster: int
    candidates: Candidates
    rows: np.ndarray
    count: int
    seed_parts: tuple[int, ...]

    def vectors(self, name: str) -> np.ndarray:
        """(m, d) float32, NaN where an example has none."""
        return self.candidates.vectors[name].take(self.rows).values()

    def generator(self) -> np.random.Generator:
        """Random numbers of this selection and cluster alone."""
        return np.random.default_rng([*self.seed_parts, PICK, self.cluster])


@dataclass(frozen=True)
class Ranking:
    """`order` (m,): indices into the view's rows, best first. `explain(i)`: why place i of the order is where it is."""

    order: np.ndarray
    explain: Callable[[int], str]


Rank = Callable[[ClusterView, Strategy], Ranking]
Prefilter = Callable[[Candidates, int], np.ndarray]


@dataclass(frozen=True)
class Picker:
    """`rank` orders a group.

    `uses_score`: whether by the score, so that more than it takes must be measured for it. `vectors`: those of the
    candidates' that it looks at. `whole_pool`: whether it ranks all candidates at once, with no quotas. `prefilter`: for such a
    one that ranks by what is measured, rows (in order) of the candidates worth measuring, from what is known without. `aims`:
    whether it needs a target.
    """

    rank: Rank
    uses_score: bool = False
    vectors: frozenset[str] = frozenset()
    whole_pool: bool = False
    prefilter: Prefilter | None = None
    aims: bool = False


PICKERS: dict[str, Picker] = {}
"""Filled when `selection.registry` imports the modules of selection/pickers/; take it from there."""


def picker(name: str, **traits: Any) -> Callable[[Rank], Rank]:
    """Register a picker under `name`; `traits` are the other fields of `Picker`.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Rank) -> Rank:
        if name in PICKERS:
            raise ValueError(
                f"picker {name!r} is registered twice: {PICKERS[name].rank.__module__}, {function.__module__}"
            )
        PICKERS[name] = Picker(function, **traits)
        return function

    return register


def then_the_rest(order: np.ndarray, count: int) -> np.ndarray:
    """`order`, and behind it those of `count` indices that it lacks, ascending."""
    rest = np.ones(count, dtype=bool)
    rest[order] = False
    return np.concatenate([order, np.flatnonzero(rest)])


def ranking_of(view: ClusterView, found: Order, words: Callable[[float], str]) -> Ranking:
    """The ranking of an order from selection.greedy, .submodular or .turns.

    `words` turns the value that the order gives a place into the reason for that place.
    """
    order = then_the_rest(found.order, len(view.rows))

    def explain(i: int) -> str:
        if i >= len(found.order):
            return "random, beyond what was ranked"
        if np.isnan(found.value[i]):
            return "the first of its cluster" if i == 0 else "random, none that is measured is left"
        return words(float(found.value[i]))

    return Ranking(order, explain)


def suspects(loss: np.ndarray, share: float) -> np.ndarray:
    """(m,) bool: measured losses above the (1 - share) quantile of a cluster's, as suspected noise (mislabelled, garbled).

    The quantile is a measured value (the lower neighbour), so that ties with it stay. Nothing is cut below
    MIN_MEASURED_FOR_CUT measured, nor is an example without a loss (NaN).
    """
    known = loss[~np.isnan(loss)]
    kept = len(known) - int(most_suspects(len(known), share))
    if kept == len(known):
        return np.zeros(len(loss), dtype=bool)
    return loss > np.partition(known, kept - 1)[kept - 1]


def most_suspects(measured: np.ndarray | int, share: float) -> np.ndarray:
    """How many of so many measured examples of a cluster `suspects` cuts at most: fewer only where losses tie.

    It never falls when more are measured, so that of a cluster's size it bounds what any measurement can lead to. Rounding
    comes before `ceil`, since 0.3 · 90 must not become 28.
    """
    measured = np.asarray(measured)
    cut = np.ceil(np.round((measured - 1) * share, 6))
    return np.where(measured >= MIN_MEASURED_FOR_CUT, cut, 0).astype(np.int64)
