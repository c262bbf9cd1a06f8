"""k-means of many vectors in many cells, on a processor.

Lloyd's algorithm compares every vector with every centre in each iteration: n · cells · d multiplications, 3 Tflop for the 524,288 vectors
and 8,192 cells of a pool of a million. Vectors rarely move far after the first iterations. So only the first `WHOLE` iterations compare
with every centre. The later ones compare a vector with the `NEIGHBOURS` centres that are nearest to the centre that it is with (cluster
closures: Wang, Wang, Ke, Zeng & Li 2012, doi 10.1109/CVPR.2012.6248034). docs/scale.md has the measured loss.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from selection.vectors import blocks, unit

WHOLE, NEIGHBOURS = 2, 64
BLOCK = 2048
"""Vectors between two calls of the progress: 0.1 seconds at 8,192 cells."""


def k_means(
    vectors: np.ndarray,
    cells: int,
    iterations: int,
    spherical: bool,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[np.ndarray, float]:
    """Centres of `cells` cells; the result does not depend on the number of threads.

    Starts at random vectors. A cell that loses all its vectors starts again at the vector farthest from its own centre.

    Args:
        vectors: (n, d) float32, n ≥ cells.
        spherical: scale the centres to unit length in each iteration.
        progress: called with the share of the work that was just finished, 1 in total.

    Returns:
        (cells, d) float32, and the sum of squared distances to the nearest centre at the start of the last iteration.
    """
    centres = vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), size=cells, replace=False))]
    cell, objective = np.zeros(len(vectors), dtype=np.int64), 0.0
    whole = min(WHOLE, iterations)
    later = NEIGHBOURS / cells * (iterations - whole) + 1e-12
    for iteration in range(iterations):
        if iteration < whole:
            share = 1 / (whole + later) if iteration < whole else 0.0
            distance = _to_all(vectors, centres, cell, lambda done, share=share: progress(done * share))
        else:
            share = later / (whole + later) / (iterations - whole)
            distance = _to_neighbours(vectors, centres, cell, lambda done, share=share: progress(done * share))
        objective = float(distance.sum(dtype=np.float64))
        centres = _means(vectors, cell, distance, cells)
        if spherical:
            centres = unit(centres)
    return centres, objective


def _to_all(
    vectors: np.ndarray, centres: np.ndarray, cell: np.ndarray, progress: Callable[[float], None]
) -> np.ndarray:
    """Sets `cell` (n,) to the nearest centre of each vector; returns the squared distances (n,)."""
    import faiss

    index = faiss.IndexFlatL2(centres.shape[1])
    index.add(centres)
    distance = np.empty(len(vectors), dtype=np.float32)
    for rows in blocks(np.arange(len(vectors)), BLOCK):
        found, at = index.search(vectors[rows[0] : rows[-1] + 1], 1)
        cell[rows], distance[rows] = at[:, 0], found[:, 0]
        progress(len(rows) / len(vectors))
    return distance


def _to_neighbours(
    vectors: np.ndarray, centres: np.ndarray, cell: np.ndarray, progress: Callable[[float], None]
) -> np.ndarray:
    """As `_to_all`, among the centres nearest to the centre that a vector is with."""
    import faiss

    index = faiss.IndexFlatL2(centres.shape[1])
    index.add(centres)
    near = np.concatenate([index.search(centres[c], NEIGHBOURS)[1] for c in blocks(np.arange(len(centres)), BLOCK)])
    half = np.einsum("cd,cd->c", centres, centres) / 2
    order = np.argsort(cell, kind="stable")
    bounds = np.searchsorted(cell[order], np.arange(len(centres) + 1))
    distance = np.empty(len(vectors), dtype=np.float32)
    for c in np.flatnonzero(np.diff(bounds)):
        members = order[bounds[c] : bounds[c + 1]]
        for rows in blocks(members, BLOCK):
            some = vectors[rows]
            closeness = some @ centres[near[c]].T - half[near[c]]
            best = closeness.argmax(axis=1)
            cell[rows] = near[c, best]
            distance[rows] = np.einsum("nd,nd->n", some, some) - 2 * closeness[np.arange(len(rows)), best]
        progress(len(members) / len(vectors))
    return distance


def _means(vectors: np.ndarray, cell: np.ndarray, distance: np.ndarray, cells: int) -> np.ndarray:
    """(cells, d) float32: the mean of each cell; the vectors farthest from their centres for cells without any."""
    from scipy.sparse import csr_matrix

    n, size = len(vectors), np.bincount(cell, minlength=cells)
    member = csr_matrix((np.ones(n, dtype=np.float32), (cell, np.arange(n))), shape=(cells, n))
    centres = (member @ vectors) / np.maximum(size, 1).astype(np.float32)[:, None]
    empty = np.flatnonzero(size == 0)
    if len(empty):
        centres[empty] = vectors[np.argsort(-distance, kind="stable")[: len(empty)]]
    return centres
