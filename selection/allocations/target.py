"""More for clusters that the target examples lie in."""

from __future__ import annotations

import numpy as np

from selection.allocate import Situation, Weights, allocation
from selection.candidates import Vectors
from selection.vectors import blocks, unit

NEIGHBOURS = 16
"""A target example counts towards the clusters of this many nearest candidates."""


@allocation("target", aims=True)
def target_allocation(situation: Situation) -> Weights:
    """size · (cluster's share of the target / its share of the pool) ^ temperature. O(n · targets · d) time.

    Temperature 1 gives the target's shares, 0 the pool's own. These are importance weights by cluster (Xie et al. 2023,
    arXiv 2302.03169). A target example is spread over the clusters of its 16 nearest candidates by embeddings.
    """
    candidates, size = situation.candidates, situation.size
    rows = np.flatnonzero(situation.open_)
    vectors = candidates.vectors["embedding"].take(rows)
    nearest = _nearest_candidates(vectors, min(NEIGHBOURS, len(rows)))
    near = np.bincount(candidates.cluster[rows[nearest.ravel()]], minlength=len(size)).astype(np.float64)
    target, pool = near / max(near.sum(), 1), size / max(size.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(size > 0, target / pool, 0.0)
    weight = np.where(size > 0, size * ratio**situation.strategy.temperature, 0.0)
    return Weights(weight, [f"{t:.1%} of the target, {p:.1%} of the pool" for t, p in zip(target, pool, strict=True)])


def _nearest_candidates(vectors: Vectors, count: int) -> np.ndarray:
    """(t, count) positions of the nearest candidates by cosine to each target example; computed in blocks."""
    targets = unit(np.asarray(vectors.targets))
    best = np.full((len(targets), 0), -np.inf, dtype=np.float32)
    where = np.empty((len(targets), 0), dtype=np.int64)
    for block in blocks(np.arange(len(vectors.row))):
        cosine = targets @ unit(np.nan_to_num(vectors.take(block).values())).T
        best, where = np.hstack([best, cosine]), np.hstack([where, np.broadcast_to(block, cosine.shape)])
        kept = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best, where = np.take_along_axis(best, kept, axis=1), np.take_along_axis(where, kept, axis=1)
    return where
