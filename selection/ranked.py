"""Ranked clusters, what is taken from them, and the words that say why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selection.candidates import Candidates, Strategy
from selection.errors import SelectionError
from selection.fill import fill_tokens
from selection.pick import PICKERS, ClusterView, suspects
from selection.randomness import DRAW, keyed_draw


@dataclass(frozen=True)
class RankedCluster:
    """One cluster's candidates. `rows`: those that may be picked, best first. `suspects`: those that the tail cut holds back.
    `explain(i)`: why place i of `rows` is where it is."""

    rows: np.ndarray
    suspects: np.ndarray
    explain: Callable[[int], str]


Pick = tuple[int, int]
"""Cluster, and place in its ranking."""


def clusters_in_random_order(candidates: Candidates, seed_parts: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Each cluster that has candidates, with their rows in the order of a draw keyed by their keys."""
    draw = keyed_draw(candidates.keys, *seed_parts, DRAW)
    order = np.lexsort((candidates.keys, draw, candidates.cluster))
    cluster = candidates.cluster[order]
    bounds = np.r_[0, np.flatnonzero(np.diff(cluster)) + 1, len(order)]
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        yield int(cluster[start]), order[start:end]


def rank_clusters(candidates: Candidates, strategy: Strategy, seed_parts: Sequence[int]) -> dict[int, RankedCluster]:
    """Cut each cluster's tail and let the strategy's picker rank the rest. O(n log n) time, O(n) memory."""
    rank = PICKERS[strategy.picker].rank
    result = {}
    for c, rows in clusters_in_random_order(candidates, seed_parts):
        cut = suspects(candidates.loss[rows], strategy.tail_cut)
        view = ClusterView(c, candidates, rows[~cut])
        ranking = rank(view, strategy)
        result[c] = RankedCluster(view.rows[ranking.order], rows[cut], ranking.explain)
    return result


def take_examples(
    ranked: Mapping[int, RankedCluster], tokens: np.ndarray, quota: np.ndarray, budget: int
) -> list[Pick]:
    """The first `quota` of each cluster.

    Raises:
        SelectionError: a cluster has fewer than its quota, which quotas made for the same candidates rule out.
    """
    with_quota = np.flatnonzero(quota).tolist()
    for c in with_quota:
        found = len(ranked[c].rows) if c in ranked else 0
        if found < quota[c]:
            raise SelectionError(
                f"quotas: cluster {c} has {found} selectable examples for a quota of {quota[c]}; "
                "the quotas were made for other candidates."
            )
    return _interleaved([(c, i) for c in with_quota for i in range(int(quota[c]))])


def take_tokens(ranked: Mapping[int, RankedCluster], tokens: np.ndarray, quota: np.ndarray, budget: int) -> list[Pick]:
    """As `selection.fill.fill_tokens` says: prefixes within each quota, then whatever still fits."""
    names = list(ranked)
    taken, prefixes = fill_tokens([tokens[ranked[c].rows] for c in names], quota[names], budget)
    picks = [(names[c], i) for c, i in taken]
    return _interleaved(picks[:prefixes]) + picks[prefixes:]


def _interleaved(picks: list[Pick]) -> list[Pick]:
    """By how far down its cluster's picks each one is, so that any first part is spread over the clusters like the whole."""
    count: dict[int, int] = {}
    for c, _ in picks:
        count[c] = count.get(c, 0) + 1
    return sorted(picks, key=lambda pick: ((pick[1] + 0.5) / count[pick[0]], pick[0]))


def explain(ranked: Mapping[int, RankedCluster], picks: Sequence[Pick], loss: np.ndarray) -> list[str]:
    """Why each pick was taken: its place in the picker's order, and the rank of its loss in its cluster (1 = highest)."""
    ascending = {}
    for c in {c for c, _ in picks}:
        values = loss[np.concatenate([ranked[c].rows, ranked[c].suspects])]
        ascending[c] = np.sort(values[~np.isnan(values)])
    return [
        f"{ranked[c].explain(i)} in cluster {c}; {_loss_rank(loss[ranked[c].rows[i]], ascending[c])}" for c, i in picks
    ]


def _loss_rank(value: float, ascending: np.ndarray) -> str:
    if np.isnan(value):
        return "NLL not measured"
    rank = len(ascending) - int(np.searchsorted(ascending, value, side="right")) + 1
    return f"NLL {value:.2f} is rank {rank} of {len(ascending)} measured"
