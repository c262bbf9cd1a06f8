"""The stratified sample that a round measures to set quotas."""

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
    """Rows to measure: `per_cluster` eligible rows of each cluster, uniformly at random; all rows of a smaller cluster.

    The random picker uses the same draw for the same `seed_parts`, so most of its picks are measured already. The sample is still
    uniform, because a row's draw depends on its key alone.

    Args:
        cluster: (n,) int.
        keys: (n,) uint64, distinct.
        eligible: (n,) bool.

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
