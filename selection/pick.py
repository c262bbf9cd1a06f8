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


def picker(name: str, **traits: Any) -> Callable[[Rank], Rank]:
    """Register a picker under `name`; `traits` are Picker's."""

    def register(function: Rank) -> Rank:
        PICKERS[name] = Picker(function, **traits)
        return function

    return register


@picker("random")
def random_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Uniformly at random. O(m)."""
    return Ranking(np.arange(len(view.rows)), lambda i: f"random {i + 1} of {len(view.rows)}")


@picker("top", uses_score=True)
def top_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Highest score first within quantile bins of length, the bins taking turns in proportion to their size: scores per token
    favour short examples, and the tail cut has removed the likely noise. Which bin comes first is random, or else quotas below
    the number of bins would always go to the shortest. Unmeasured ones come last. O(m log m)."""
    score = view.candidates.score[view.rows]
    measured = np.flatnonzero(~np.isnan(score))
    lengths = view.candidates.tokens[view.rows[measured]]
    bins = _quantile_bins(lengths, strategy.length_bins)
    by_score = np.lexsort((-score[measured], bins))
    size = np.bincount(bins, minlength=strategy.length_bins)
    rank = np.arange(len(measured)) - (np.cumsum(size) - size)[bins[by_score]]
    random_place = (by_score + 0.5) / max(len(measured), 1)
    turn = np.argsort((rank + random_place) / size[bins[by_score]], kind="stable")
    order = measured[by_score[turn]]
    place_bin, place_rank = bins[by_score[turn]], rank[turn]
    spans = {b: f"{lengths[bins == b].min()} to {lengths[bins == b].max()} tokens" for b in np.flatnonzero(size)}

    def explain(i: int) -> str:
        if i >= len(order):
            return "random, none with a score is left"
        b = place_bin[i]
        return f"rank {place_rank[i] + 1} of {size[b]} measured ones of {spans[b]}"

    return Ranking(then_the_rest(order, len(view.rows)), explain)


@picker("mid", uses_score=True)
def mid_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """At random from the quantile band of `mid_band` around the cluster's median score, then outwards from it. With `rising` the
    band lies higher in every round (a curriculum: Bengio et al. 2009). Unmeasured ones come last. O(m log m)."""
    score = view.candidates.score[view.rows]
    measured = np.flatnonzero(~np.isnan(score))
    quantile = np.empty(len(measured))
    quantile[np.argsort(score[measured], kind="stable")] = (np.arange(len(measured)) + 0.5) / max(len(measured), 1)
    half = strategy.mid_band / 2
    centre = min(1 - 1 / (view.seed_parts[-1] + 1), 1 - half) if strategy.rising else 0.5
    distance = np.maximum(np.abs(quantile - centre) - half, 0.0)
    outward = np.argsort(distance, kind="stable")
    order = measured[outward]

    def explain(i: int) -> str:
        if i >= len(order):
            return "random, none with a score is left"
        where = "in" if distance[outward[i]] == 0 else "nearest outside"
        low, high = max(centre - half, 0.0), min(centre + half, 1.0)
        return f"quantile {quantile[outward[i]]:.2f} of {len(measured)} measured, {where} {low:.0%} to {high:.0%}"

    return Ranking(then_the_rest(order, len(view.rows)), explain)


def _quantile_bins(values: np.ndarray, count: int) -> np.ndarray:
    """(m,) bin 0..count-1 of each value; equal values share a bin, so that bins may differ in size or be empty."""
    edges = np.quantile(values, np.arange(1, count) / count) if len(values) else np.empty(0)
    return np.searchsorted(edges, values, side="left")


def then_the_rest(order: np.ndarray, count: int) -> np.ndarray:
    """`order`, and behind it those of `count` indices that it lacks, ascending."""
    rest = np.ones(count, dtype=bool)
    rest[order] = False
    return np.concatenate([order, np.flatnonzero(rest)])


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
