"""What earlier rounds of a lineage measured and spent."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from al.lineage.history import History
from al.lineage.outcomes import PoolState, find_rows
from al.pool.store import Pool, locate
from al.run.artifacts import Artifact
from selection.losses import grouped_means
from selection.strategy import PastRound


def statistics_of(artifact: Artifact) -> dict[str, np.ndarray]:
    """Columns of a score artifact, `row` among them, in the order of its rows."""
    table = pq.read_table(artifact.path / "statistics.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


def scored_before(history: History) -> list[tuple[int, Artifact, Artifact]]:
    """What earlier rounds measured: the round, the measurements, and the pool version whose rows they count."""
    return [
        (number, done[role], done["pool"])
        for number, done in enumerate(history.rounds, start=1)
        for role in ("score", "shortlist")
        if role in done and "pool" in done
    ]


def losses_before(
    history: History, keys: np.ndarray, roles: tuple[str, ...] = ("score", "shortlist")
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """What earlier rounds measured of the examples with these sorted `keys` (n,): the round, rows (m,), mean NLL (m,).

    The samples alone (role "score") are random parts of their clusters; what a picker wanted measured is not.
    """
    found = []
    for number, done in enumerate(history.rounds, start=1):
        for role in roles:
            if role in done and "pool" in done:
                statistics = statistics_of(done[role])
                at, there = locate(keys, Pool.open(done["pool"].path).keys[statistics["row"]])
                found.append((number, at[there], statistics["nll_mean"][there]))
    return found


def lowest_before(history: History, keys: np.ndarray) -> np.ndarray:
    """(n,) the lowest mean NLL that an earlier round measured of each example, NaN for none."""
    lowest = np.full(len(keys), np.nan)
    for _, rows, losses in losses_before(history, keys):
        lowest[rows] = np.fmin(lowest[rows], losses)
    return lowest


def past_rounds(history: History, state: PoolState, unit: str) -> list[PastRound]:
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
