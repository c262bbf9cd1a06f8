"""Where a pool's examples lie in two dimensions, for a map: UMAP (McInnes, Healy & Melville 2018, arXiv 1802.03426).

UMAP is fitted on a random part of the pool, since its time grows faster than the pool. Every other example is put between its nearest
fitted ones, which is how UMAP's own transform begins, and takes a search by faiss instead of an optimization.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from selection.randomness import derive_seed
from selection.vectors import blocks, unit

FITTED = 20_000
"""Examples that UMAP is fitted on: 19 seconds on one core at 384 dimensions."""
NEIGHBOURS, APART, EPOCHS = 30, 0.99, 200
"""UMAP's n_neighbors, min_dist and n_epochs. Its defaults, 15 and 0.1, draw a task as a dot; these spread it out, and are no less true
(trustworthiness 0.978 against 0.975 on the demo's pool). 200 is its default above 10,000 examples."""
BETWEEN = 5
"""Nearest fitted examples between which each other one is put."""
LEAST = 300
"""Below so many examples two principal components show as much, and compiling UMAP would take longer than a small round."""
MAP = 0x3A9
"""Purpose of the random draws."""


def project(
    embeddings: np.ndarray, seed: int, fitted: int = FITTED, progress: Callable[[int], None] = lambda n: None
) -> np.ndarray:
    """(n, 2) float32 coordinates of `embeddings` (n, d), the same for the same seed. n is at least `LEAST`.

    Args:
        fitted: examples that UMAP is fitted on; the others are put between their nearest `BETWEEN` of these, weighted by
            exp(-distance / mean distance), as UMAP's transform starts them.
        progress: called with the number of examples just placed.

    Raises:
        ImportError: umap-learn is not installed.
    """
    n = len(embeddings)
    rng = np.random.default_rng([seed, MAP])
    rows = np.sort(rng.choice(n, size=min(n, fitted), replace=False))
    index, vectors = _exact_index(embeddings, rows)
    result = np.empty((n, 2), dtype=np.float32)
    result[rows] = _fit(index, vectors, derive_seed(seed, MAP))
    progress(len(rows))
    for block in blocks(np.setdiff1d(np.arange(n), rows, assume_unique=True)):
        cosine, nearest = index.search(unit(embeddings[block]), min(BETWEEN, len(rows)))
        distance = _distance(cosine)
        weight = np.exp(-distance / np.maximum(distance.mean(axis=1, keepdims=True), 1e-12))
        weight /= weight.sum(axis=1, keepdims=True)
        result[block] = np.einsum("nk,nkd->nd", weight, result[rows[nearest]])
        progress(len(block))
    return result


def _exact_index(embeddings: np.ndarray, rows: np.ndarray):
    import faiss

    vectors = unit(embeddings[rows])
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index, vectors


def _fit(index, vectors: np.ndarray, seed: int) -> np.ndarray:
    """UMAP of unit vectors (m, d), with the exact neighbours that `index` finds of them."""
    with warnings.catch_warnings():
        # Said of a given seed (one core), of given neighbours (no transform) and of disconnected examples: all meant so.
        warnings.simplefilter("ignore")
        from umap import UMAP, umap_

        for function in (umap_.smooth_knn_dist, umap_.compute_membership_strengths):
            function.enable_caching()  # on disk, as UMAP's other functions are: else these take 8 s in every process
        cosine, nearest = index.search(vectors, NEIGHBOURS)
        distance = _distance(cosine)
        distance[:, 0], nearest[:, 0] = 0.0, np.arange(len(vectors))  # of duplicates, another may come before itself
        model = UMAP(
            n_neighbors=NEIGHBOURS,
            min_dist=APART,
            n_epochs=EPOCHS,
            init="pca",
            precomputed_knn=(nearest.astype(np.int32), distance, None),
            random_state=seed,
            n_jobs=1,
        )
        return model.fit_transform(vectors).astype(np.float32)


def _distance(cosine: np.ndarray) -> np.ndarray:
    """Euclidean distance of unit vectors."""
    return np.sqrt(np.maximum(2 - 2 * cosine, 0)).astype(np.float32)
