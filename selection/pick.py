"""What a picker is: it decides which examples of a cluster fill the cluster's quota. The pickers are in selection/pickers/.

A picker ranks the candidates of one cluster, best first, and gives a reason for each place. It gets them in random order, without
those that the tail cut holds back. No picker ranks the whole pool by loss, because that is worse than random (arXiv 2503.01807).
Pickers that rank the whole pool select for a target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from selection.candidates import Candidates, Strategy, Vectors
from selection.greedy import Order
from selection.randomness import PICK

MIN_MEASURED_FOR_CUT = 5
"""With fewer measured examples, a cluster's highest loss is no evidence of noise."""


@dataclass(frozen=True)
class ClusterView:
    """The input of a picker: one cluster, or the whole pool.

    `rows`: (m,) int, its candidates that are not held back, in a random order that depends on their keys. `count`: the most that the
    quota can take; a picker need not rank more, the rest follows in any order. `seed_parts`: non-negative integers, the last is the
    round.
    """

    cluster: int
    candidates: Candidates
    rows: np.ndarray
    count: int
    seed_parts: tuple[int, ...]

    def vectors(self, name: str) -> np.ndarray:
        """(m, d) float32, NaN for an example without a vector. Raises as `stored_vectors` does."""
        return self.stored_vectors(name).values()

    def stored_vectors(self, name: str) -> Vectors:
        """As `vectors`, but (m, d) is not copied: an index reads the rows that it asks for.

        Raises:
            KeyError: the picker does not declare these vectors.
        """
        if name not in self.candidates.vectors:
            raise KeyError(
                f"{name} vectors: a picker gets only those that it declares, as in @picker(…, vectors=frozenset({{{name!r}}}))"
            )
        return self.candidates.vectors[name].take(self.rows)

    def generator(self) -> np.random.Generator:
        """A generator for this cluster of this selection."""
        return np.random.default_rng([*self.seed_parts, PICK, self.cluster])


@dataclass(frozen=True)
class Ranking:
    """`order`: (m,) indices into the view's rows, best first. `explain(i)`: the reason for place i of the order, never empty."""

    order: np.ndarray
    explain: Callable[[int], str]


Rank = Callable[[ClusterView, Strategy], Ranking]
Prefilter = Callable[[Candidates, int], np.ndarray]


@dataclass(frozen=True)
class Picker:
    """A picker and what it needs; a round measures and passes nothing else.

    `rank`: orders a cluster. `uses_score`: whether it ranks by the score; a round then measures a shortlist for it. `vectors`: names of
    the vectors that it reads. `whole_pool`: whether it ranks all candidates at once, without quotas. `prefilter`: for such a picker,
    if it ranks by measured vectors: which candidates to measure, best first, from the others. `aims`: whether it needs a target.
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
        """Add the function to PICKERS."""
        if name in PICKERS:
            raise ValueError(
                f"picker {name!r} is registered twice: {PICKERS[name].rank.__module__}, {function.__module__}"
            )
        PICKERS[name] = Picker(function, **traits)
        return function

    return register


def then_the_rest(order: np.ndarray, count: int) -> np.ndarray:
    """`order`, followed by the rest of the indices 0 … `count` - 1, ascending."""
    rest = np.ones(count, dtype=bool)
    rest[order] = False
    return np.concatenate([order, np.flatnonzero(rest)])


def ranking_of(view: ClusterView, found: Order, words: Callable[[float], str]) -> Ranking:
    """The ranking of an order from selection.greedy, .submodular or .turns.

    `words` turns the value that the order gives a place into the reason for that place.
    """
    order = then_the_rest(found.order, len(view.rows))

    def explain(i: int) -> str:
        """The order's value in words."""
        if i >= len(found.order):
            return "random, after the ranked ones"
        if np.isnan(found.value[i]):
            return "the first of its group" if i == 0 else "random, no measured one is left"
        return words(float(found.value[i]))

    return Ranking(order, explain)


def suspects(loss: np.ndarray, share: float) -> np.ndarray:
    """(m,) bool: the tail cut, a cluster's measured losses above their (1 - share) quantile (mislabelled or garbled examples).

    The quantile is a measured value, the lower neighbour, so ties with it stay. Clusters with fewer than MIN_MEASURED_FOR_CUT measured
    examples, and examples without a loss (NaN), are not cut.
    """
    known = loss[~np.isnan(loss)]
    kept = len(known) - int(most_suspects(len(known), share))
    if kept == len(known):
        return np.zeros(len(loss), dtype=bool)
    return loss > np.partition(known, kept - 1)[kept - 1]


def most_suspects(measured: np.ndarray | int, share: float) -> np.ndarray:
    """The most examples that `suspects` can cut from a cluster with `measured` losses; ties make it cut fewer.

    The number never falls when more is measured, so for a cluster's size it bounds the cut after any measurement. Rounding comes
    before `ceil`, because 0.3 · 90 must give 27 and not 28.
    """
    measured = np.asarray(measured)
    cut = np.ceil(np.round((measured - 1) * share, 6))
    return np.where(measured >= MIN_MEASURED_FOR_CUT, cut, 0).astype(np.int64)
