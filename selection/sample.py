"""The stratified sample that is measured to set the quotas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from selection.randomness import DRAW, keyed_draw


def stratified_sample(
    cluster: np.ndarray,
    keys: np.ndarray,
    eligible: np.ndarray,
    per_cluster: int | Literal["all"],
    seed_parts: Sequence[int],
) -> np.ndarray:
    """Rows to measure: `per_cluster` eligible ones of each cluster, uniformly at random; all of a smaller cluster.

    The draw is the one that the random picker uses for the same `seed_parts`, so that most of what it picks is measured
    already. Uniform all the same: a row's number depends on its key alone.

    Args:
        cluster: (n,) int. keys: (n,) uint64, distinct. eligible: (n,) bool.

    Returns:
        (m,) int64 rows, ascending.
    """
    rows = np.flatnonzero(eligible)
    if per_cluster == "all":
        return rows
    draw = keyed_draw(keys[rows], *seed_parts, DRAW)
    order = np.lexsort((keys[rows], draw, cluster[rows]))
    groups = cluster[rows][order]
    starts = np.flatnonzero(np.r_[True, np.diff(groups) != 0]) if len(groups) else np.empty(0, dtype=np.int64)
    rank = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return np.sort(rows[order[rank < per_cluster]])
