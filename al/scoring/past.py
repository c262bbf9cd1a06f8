"""What earlier rounds of a lineage measured and spent, by the clusters of the present one."""

from __future__ import annotations

from typing import Any

import numpy as np

from al.lineage.history import History
from al.lineage.outcomes import PoolState, find_rows
from al.scoring.columns import losses_before
from selection.losses import grouped_means
from selection.strategy import PastRound


def past_rounds(history: History, state: PoolState, unit: str) -> list[Any]:
    """One `selection.strategy.PastRound` for each earlier round, oldest first; amounts in `unit`."""

    k = int(state.cluster.max()) + 1
    size = np.bincount(state.cluster, minlength=k)
    measured = {number: entry for number, *entry in losses_before(history, state.keys, ("score",))}
    found = []
    for number in range(1, history.number):
        losses = np.full(len(state.keys), np.nan)
        if number in measured:
            sampled, values = measured[number]
            losses[sampled] = values
        means = grouped_means(state.cluster, losses, size)
        rows = find_rows(state.keys, history.picked(number))
        amount = np.ones(len(rows)) if unit == "examples" else state.tokens[rows]
        spent = np.bincount(state.cluster[rows], weights=amount, minlength=k)
        found.append(PastRound(means.mean, means.stderr, spent))
    return found
