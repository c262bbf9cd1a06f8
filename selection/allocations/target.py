"""More to clusters in which the target lies."""

from __future__ import annotations

import numpy as np

from selection.allocate import Situation, Weights, allocation
from selection.candidates import Vectors
from selection.vectors import blocks, unit

NEIGHBOURS = 16
"""Nearest candidates that tell which clusters a target example lies in."""


@allocation("target", aims=True)
def target_allocation(situation: Situation) -> Weights:
    """Size · (density of the target / density of the pool) ^ temperature: at 1 the clusters' shares of the target, at 0 the pool's own
    (importance weights: Xie et al. 2023, arXiv 2302.03169, by clusters). The densities are shares of the target's and of all candidates; a
    target example is spread over the clusters of its 16 nearest candidates by embeddings. O(n · targets · d) time."""
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
    """(t, count) positions of the candidates nearest to each target example by cosine, in blocks."""
    targets = unit(np.asarray(vectors.targets))
    best = np.full((len(targets), 0), -np.inf, dtype=np.float32)
    where = np.empty((len(targets), 0), dtype=np.int64)
    for block in blocks(np.arange(len(vectors.row))):
        cosine = targets @ unit(np.nan_to_num(vectors.take(block).values())).T
        best, where = np.hstack([best, cosine]), np.hstack([where, np.broadcast_to(block, cosine.shape)])
        kept = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best, where = np.take_along_axis(best, kept, axis=1), np.take_along_axis(where, kept, axis=1)
    return where
