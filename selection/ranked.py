"""Rank groups of candidates, take picks from them, and write each pick's reason.

A group is a cluster, or all candidates for a picker of the whole pool. The explored examples are a group of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selection.candidates import Candidates, Quotas, Strategy
from selection.errors import SelectionError
from selection.fill import fill_tokens
from selection.pick import ClusterView, suspects
from selection.randomness import DRAW, EXPLORE, keyed_draw
from selection.registry import PICKERS

EXPLORED = -1
EXPLORATION = "exploration"
"""How the reason of a pick begins that exploration took, not a quota."""


@dataclass(frozen=True)
class RankedGroup:
    """`rows`: candidates that may be picked, best first. `explain(i)`: the reason for place i of `rows`."""

    rows: np.ndarray
    explain: Callable[[int], str]


Pick = tuple[int, int]
"""Group, and place in its ranking."""


def groups_in_random_order(
    candidates: Candidates, group: np.ndarray, seed_parts: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Each non-empty group of `group` (n,) and its rows, in a random order that depends on the candidates' keys."""
    draw = keyed_draw(candidates.keys, *seed_parts, DRAW)
    order = np.lexsort((candidates.keys, draw, group))
    ordered = group[order]
    bounds = np.r_[0, np.flatnonzero(np.diff(ordered)) + 1, len(order)]
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        yield int(ordered[start]), order[start:end]


def in_exploring_order(candidates: Candidates, among: np.ndarray, seed_parts: Sequence[int]) -> np.ndarray:
    """Rows of the candidates `among` (n,) bool, in the order in which exploration takes them."""
    rows = np.flatnonzero(among)
    return rows[np.lexsort((candidates.keys[rows], keyed_draw(candidates.keys[rows], *seed_parts, EXPLORE)))]


def tail_cut(candidates: Candidates, strategy: Strategy) -> np.ndarray:
    """(n,) bool: the highest measured losses of each cluster (`selection.pick.suspects`), not counting candidates that are held back."""
    cut = np.zeros(len(candidates), dtype=bool)
    if strategy.tail_cut > 0:
        loss = np.where(candidates.trusted, candidates.loss, np.nan)
        order = np.argsort(candidates.cluster, kind="stable")
        bounds = np.flatnonzero(np.diff(candidates.cluster[order])) + 1
        for rows in np.split(order, bounds):
            cut[rows] = suspects(loss[rows], strategy.tail_cut)
    return cut


def rank_groups(
    candidates: Candidates, explored: np.ndarray, quotas: Quotas, strategy: Strategy, seed_parts: Sequence[int]
) -> dict[int, RankedGroup]:
    """Every group in the order of the strategy's picker. `explored`: (n,) bool. O(n) memory; the time is the picker's."""
    picker = PICKERS[strategy.picker]
    open_ = candidates.trusted & ~explored & ~tail_cut(candidates, strategy)
    group = np.zeros(len(candidates), dtype=np.int64) if picker.whole_pool else candidates.cluster
    result = {}
    for c, rows in groups_in_random_order(candidates, group, seed_parts):
        rows = rows[open_[rows]]
        quota = int(quotas.quota[c])
        if len(rows):
            count = _at_most(candidates.tokens[rows], quota, quotas.unit)
            view = ClusterView(c, candidates, rows, count, tuple(seed_parts))
            ranking = picker.rank(view, strategy) if count else PICKERS["random"].rank(view, strategy)
            result[c] = RankedGroup(rows[ranking.order], ranking.explain)
    if explored.any():
        rows = in_exploring_order(candidates, explored, seed_parts)
        result[EXPLORED] = RankedGroup(
            rows,
            lambda i: (
                f"{EXPLORATION}: number {i + 1} of {len(rows)} drawn at random from the whole pool, outside the quotas; it is"
            ),
        )
    return result


def _at_most(tokens: np.ndarray, quota: int, unit: str) -> int:
    """The most examples of a group that a quota can take."""
    if unit == "examples":
        return min(quota, len(tokens))
    return int(np.searchsorted(np.cumsum(np.sort(tokens)), quota, side="right"))


def pick_examples(ranked: Mapping[int, RankedGroup], tokens: np.ndarray, quota: np.ndarray, budget: int) -> list[Pick]:
    """The first `quota` of each group, and all explored examples.

    Raises:
        SelectionError: a group has fewer examples than its quota; the quotas are for other candidates.
    """
    with_quota = np.flatnonzero(quota).tolist()
    for c in with_quota:
        found = len(ranked[c].rows) if c in ranked else 0
        if found < quota[c]:
            raise SelectionError(
                f"quotas: cluster {c} has {found} selectable examples for a quota of {quota[c]}; "
                "the quotas were made for other candidates."
            )
    return _interleaved(_explored(ranked) + [(c, i) for c in with_quota for i in range(int(quota[c]))])


def pick_tokens(ranked: Mapping[int, RankedGroup], tokens: np.ndarray, quota: np.ndarray, budget: int) -> list[Pick]:
    """Prefixes within each quota, then examples that still fit (`selection.fill.fill_tokens`), and all explored examples."""
    names = [c for c in ranked if c != EXPLORED]
    taken, prefixes = fill_tokens([tokens[ranked[c].rows] for c in names], quota[names], budget)
    picks = [(names[c], i) for c, i in taken]
    return _interleaved(_explored(ranked) + picks[:prefixes]) + picks[prefixes:]


def _explored(ranked: Mapping[int, RankedGroup]) -> list[Pick]:
    return [(EXPLORED, i) for i in range(len(ranked[EXPLORED].rows))] if EXPLORED in ranked else []


def _interleaved(picks: list[Pick]) -> list[Pick]:
    """Picks sorted by relative place in their group, so that any first part is spread over the groups like the whole."""
    count: dict[int, int] = {}
    for c, _ in picks:
        count[c] = count.get(c, 0) + 1
    return sorted(picks, key=lambda pick: ((pick[1] + 0.5) / count[pick[0]], pick[0]))


def explain(candidates: Candidates, ranked: Mapping[int, RankedGroup], picks: Sequence[Pick]) -> list[str]:
    """The reason for each pick: the picker's, and the rank of its loss in its cluster (1 = highest)."""
    rows = np.array([ranked[c].rows[i] for c, i in picks], dtype=np.int64)
    cluster, rank, measured = candidates.cluster[rows], *_loss_ranks(candidates, rows)
    return [
        f"{ranked[c].explain(i)} in group {at}; {_loss_rank(candidates.loss[row], r, m)}"
        for (c, i), row, at, r, m in zip(picks, rows, cluster, rank, measured, strict=True)
    ]


def _loss_ranks(candidates: Candidates, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row: the number of higher measured losses in its cluster, plus one; and the number of measured losses."""
    known = np.flatnonzero(~np.isnan(candidates.loss))
    order = known[np.lexsort((-candidates.loss[known], candidates.cluster[known]))]
    counts = np.bincount(candidates.cluster[known], minlength=candidates.clusters)
    starts = np.cumsum(counts) - counts
    rank = np.zeros(len(candidates), dtype=np.int64)
    falling = -candidates.loss[order]
    for c in np.unique(candidates.cluster[rows]):
        part = slice(starts[c], starts[c] + counts[c])
        rank[order[part]] = np.searchsorted(falling[part], falling[part], side="left") + 1
    return rank[rows], counts[candidates.cluster[rows]]


def _loss_rank(value: float, rank: int, measured: int) -> str:
    return "NLL not measured" if np.isnan(value) else f"NLL {value:.2f} is rank {rank} of {measured} measured"
