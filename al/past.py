"""What earlier rounds of a lineage measured and spent, by the clusters of the present one."""

from __future__ import annotations

from typing import Any

import numpy as np

from al.candidates import PoolState, find_rows
from al.columns import statistics_of
from al.lineage import History
from al.pool.store import Pool, locate


def past_rounds(history: History, state: PoolState, pool: Pool, unit: str) -> list[Any]:
    """One `selection.strategy.PastRound` for each earlier round, oldest first; amounts in `unit`."""
    from selection.losses import grouped_means
    from selection.strategy import PastRound

    k = int(state.cluster.max()) + 1
    size = np.bincount(state.cluster, minlength=k)
    found = []
    for number, done in enumerate(history.rounds, start=1):
        losses = np.full(len(state.keys), np.nan)
        if "score" in done and "pool" in done:
            statistics = statistics_of(done["score"])
            at, there = locate(state.keys, Pool.open(done["pool"].path).keys[statistics["row"]])
            losses[at[there]] = statistics["nll_mean"][there]
        means = grouped_means(state.cluster, losses, size)
        rows = find_rows(state.keys, history.picked(number))
        amount = np.ones(len(rows)) if unit == "examples" else state.tokens[rows]
        spent = np.bincount(state.cluster[rows], weights=amount, minlength=k)
        found.append(PastRound(means.mean, means.stderr, spent))
    return found
