"""The candidates to measure before `select`: for a picker that ranks by measurements, and for the noise check of picks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selection.candidates import Candidates, Quotas, Strategy
from selection.config import SelectConfig
from selection.fill import prefix_within
from selection.pick import Prefilter
from selection.randomness import LOOK, keyed_draw
from selection.ranked import EXPLORED, groups_in_random_order, in_exploring_order, rank_groups, tail_cut
from selection.registry import PICKERS
from selection.strategy import measures, resolve

SPARE = 1.25
"""The noise check covers this many times the expected picks, so that spares can replace suspects."""


def shortlist(
    candidates: Candidates, quotas: Quotas, config: SelectConfig, seed_parts: Sequence[int], noise_checks: int = 0
) -> np.ndarray:
    """Candidates that must be measured before `select` and are not measured yet.

    A picker that ranks by measurements chooses among `shortlist_factor` times its quota, plus spares for the tail cut. Inside a cluster
    these are random; from the whole pool they are the nearest to the target by embeddings. Other pickers need no measurement;
    for the noise check, at most `noise_checks` of `SPARE` times their expected picks are measured.

    Returns:
        (m,) int64 rows of the candidates, ascending.
    """
    strategy = resolve(config)
    if PICKERS[strategy.picker].uses_score or measures(config):
        return _to_rank(candidates, quotas, config, seed_parts)
    return (
        _to_check(candidates, quotas, strategy, seed_parts, noise_checks)
        if noise_checks
        else np.empty(0, dtype=np.int64)
    )


def _to_rank(candidates: Candidates, quotas: Quotas, config: SelectConfig, seed_parts: Sequence[int]) -> np.ndarray:
    strategy = resolve(config)
    picker = PICKERS[strategy.picker]
    known = ~np.isnan(candidates.loss) & ~(np.isnan(candidates.score) & picker.uses_score)
    for name in measures(config):
        known &= candidates.vectors[name].row >= 0 if name in candidates.vectors else False
    open_ = candidates.trusted & ~np.isin(candidates.keys, quotas.explored)
    cut = tail_cut(candidates, strategy)
    wanted = [np.empty(0, dtype=np.int64)]
    group = np.zeros(len(candidates), dtype=np.int64) if picker.whole_pool else candidates.cluster
    for c, rows in groups_in_random_order(candidates, group, seed_parts):
        if quotas.quota[c] > 0:
            rows = rows[open_[rows] & ~cut[rows]]
            if picker.prefilter is not None:
                rows = _prefiltered(picker.prefilter, candidates, rows, quotas, strategy)
            wanted.append(rows[: _depth(candidates.tokens[rows], quotas, c, strategy)])
    rows = np.sort(np.concatenate(wanted))
    return rows[~known[rows]]


def _to_check(
    candidates: Candidates, quotas: Quotas, strategy: Strategy, seed_parts: Sequence[int], at_most: int
) -> np.ndarray:
    """The picks for larger quotas: expected picks before spares, in random order, because the first few in the picker's order could all be
    from large clusters. A picker that spreads its picks (k_center, facility_location) may pick others after suspects are removed, and so
    take some that were not checked."""
    explored = np.isin(candidates.keys, quotas.explored)
    larger = replace(quotas, quota=np.ceil(SPARE * quotas.quota).astype(np.int64))
    lists = [
        (
            in_exploring_order(candidates, candidates.trusted, seed_parts),
            int(explored.sum()),
            math.ceil(SPARE * explored.sum()),
        )
    ]
    for c, group in rank_groups(candidates, explored, larger, strategy, seed_parts).items():
        if c != EXPLORED and quotas.quota[c] > 0:
            tokens = candidates.tokens[group.rows]
            reach = [_reach(tokens, int(quota[c]), quotas.unit) for quota in (quotas.quota, larger.quota)]
            lists.append((group.rows, *reach))
    rows = np.concatenate([order[:with_spares] for order, _, with_spares in lists])
    spare = np.concatenate([np.arange(len(order[:with_spares])) >= picks for order, picks, with_spares in lists])
    rows, first = np.unique(rows, return_index=True)
    spare, unknown = spare[first], np.isnan(candidates.loss[rows])
    rows, spare = rows[unknown], spare[unknown]
    order = np.lexsort((candidates.keys[rows], keyed_draw(candidates.keys[rows], *seed_parts, LOOK), spare))
    return np.sort(rows[order[:at_most]])


def _prefiltered(
    prefilter: Prefilter, candidates: Candidates, rows: np.ndarray, quotas: Quotas, strategy: Strategy
) -> np.ndarray:
    """The rows to measure, chosen by a picker's prefilter. For a budget of tokens the number depends on the order, since the first rows by
    the prefilter may be shorter than the first of a random order."""
    group, count = candidates.take(rows), _depth(candidates.tokens[rows], quotas, 0, strategy)
    while True:
        order = prefilter(group, count)
        if len(order) == len(rows) or _depth(group.tokens[order], quotas, 0, strategy) <= len(order):
            return rows[order]
        count *= 2


def _depth(tokens: np.ndarray, quotas: Quotas, c: int, strategy: Strategy) -> int:
    """How many of a group's examples must be measured, in random order."""
    count = _reach(tokens, strategy.shortlist_factor * int(quotas.quota[c]), quotas.unit)
    return math.ceil((count - 1) / (1 - strategy.tail_cut)) + 1  # `count` are left after the cut


def _reach(tokens: np.ndarray, amount: float, unit: str) -> int:
    """How many examples, in this order, hold `amount` examples or tokens."""
    return math.ceil(amount) if unit == "examples" else prefix_within(tokens, math.ceil(amount)) + 1
