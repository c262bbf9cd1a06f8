"""Project a pool to two dimensions for the map, with UMAP (McInnes, Healy & Melville 2018, arXiv 1802.03426).

UMAP is fitted on a random sample, because its time grows faster than the pool. Every other example is placed between its nearest fitted
ones. UMAP's own transform starts in the same way; leaving out its optimization saves most of the time. Up to EXACT_UP_TO examples, each is
compared with every fitted one; above, with those of the nearest cells of an inverted index.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from selection.kmeans import k_means
from selection.randomness import derive_seed
from selection.vectors import blocks, unit

FITTED = 20_000
"""Examples that UMAP is fitted on: 19 seconds on one core at 384 dimensions."""
NEIGHBOURS, APART, EPOCHS = 30, 0.99, 200
"""UMAP's n_neighbors, min_dist and n_epochs. The defaults, 15 and 0.1, draw a task as a dot. These values spread it out and are as faithful
(trustworthiness 0.978, with the defaults 0.975, on the demo's pool). 200 is the default above 10,000 examples."""
BETWEEN = 5
"""Fitted examples between which each other example is placed."""
EXACT_UP_TO = 50_000
"""A million examples would take 15 Tflop, four minutes on two cores, to be compared with every fitted one at 384 dimensions."""
PROBES, ITERATIONS = 8, 5
"""Cells that are searched of the index's 4√fitted ones, and iterations of their k-means. The search takes a fifth of the time and finds 95%
of the neighbours; those in place of the others are as near (mean cosine 0.792 and 0.793, on made vectors)."""
LEAST = 300
"""Below this number of examples two principal components show as much, and compiling UMAP takes longer than a small round."""
MAP = 0x3A9
"""The purpose of the random draws, as in selection.randomness."""


def project(
    embeddings: np.ndarray, seed: int, fitted: int = FITTED, progress: Callable[[int], None] = lambda n: None
) -> np.ndarray:
    """(n, 2) float32 coordinates of `embeddings` (n, d), n ≥ `LEAST`; the same for the same seed.

    Args:
        fitted: examples that UMAP is fitted on. The others are placed between their nearest `BETWEEN` fitted ones, weighted by
            exp(-distance / mean distance), as at the start of UMAP's transform.
        progress: called with the number of examples just placed.

    Raises:
        ImportError: umap-learn is not installed.
    """
    n = len(embeddings)
    rows = fitted_rows(n, seed, fitted)
    index, vectors = _exact_index(embeddings, rows)
    result = np.empty((n, 2), dtype=np.float32)
    result[rows] = _fit(index, vectors, derive_seed(seed, MAP))
    progress(len(rows))
    cells = _cell_index(vectors, derive_seed(seed, MAP)) if n > EXACT_UP_TO else index
    others = np.setdiff1d(np.arange(n), rows, assume_unique=True)
    result[others] = _between(embeddings, others, index, result[rows], progress, cells)
    return result


def fitted_rows(n: int, seed: int, fitted: int = FITTED) -> np.ndarray:
    """Rows, ascending, that `project` fits a pool of n examples on."""
    rng = np.random.default_rng([seed, MAP])
    return np.sort(rng.choice(n, size=min(n, fitted), replace=False))


def add_to_map(
    embeddings: np.ndarray,
    places: np.ndarray,
    fitted: np.ndarray,
    new: np.ndarray,
    progress: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Coordinates of the examples at `new` (m,) on a map that `project` made: (m, 2) float32, placed as it places what it is not fitted on.

    Args:
        embeddings: (n, d) float, may be memory-mapped. places: (n, 2) coordinates. fitted: (f,) rows that the map was fitted on.
        progress: called with numbers of examples, m in total.
    """
    index, _ = _exact_index(embeddings, fitted)
    return _between(embeddings, new, index, places[fitted], progress)


def _between(
    embeddings: np.ndarray, rows: np.ndarray, index, places: np.ndarray, progress: Callable[[int], None], cells=None
) -> np.ndarray:
    """(m, 2) coordinates of `rows`, each between its nearest fitted examples in `index`, which are at `places` (f, 2). `cells`: an
    inverted index of the same examples, searched first."""
    result = np.empty((len(rows), 2), dtype=np.float32)
    for some in blocks(np.arange(len(rows))):
        vectors = unit(embeddings[rows[some]])
        cosine, nearest = (cells or index).search(vectors, min(BETWEEN, len(places)))
        few = (nearest < 0).any(axis=1)  # the cells hold less than BETWEEN
        if few.any():
            cosine[few], nearest[few] = index.search(vectors[few], nearest.shape[1])
        distance = _distance(cosine)
        weight = np.exp(-distance / np.maximum(distance.mean(axis=1, keepdims=True), 1e-12))
        weight /= weight.sum(axis=1, keepdims=True)
        result[some] = np.einsum("nk,nkd->nd", weight, places[nearest])
        progress(len(some))
    return result


def _exact_index(embeddings: np.ndarray, rows: np.ndarray):
    import faiss

    vectors = unit(embeddings[rows])
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index, vectors


def _cell_index(vectors: np.ndarray, seed: int):
    """An inverted index of unit vectors (m, d): a search compares with the vectors of the PROBES nearest cells."""
    import faiss

    m, d = vectors.shape
    cells = min(int(4 * np.sqrt(m)), m)
    centres, _ = k_means(vectors, cells, ITERATIONS, spherical=True, seed=seed)
    quantizer = faiss.IndexFlatIP(d)
    quantizer.add(centres)
    index = faiss.IndexIVFFlat(quantizer, d, cells, faiss.METRIC_INNER_PRODUCT, True)
    quantizer.this.disown()  # the index owns it from here on
    index.is_trained = True
    index.add(vectors)
    index.nprobe = min(PROBES, cells)
    return index


def _fit(index, vectors: np.ndarray, seed: int) -> np.ndarray:
    """UMAP of unit vectors (m, d), with the exact neighbours that `index` finds."""
    with warnings.catch_warnings():
        # UMAP warns of a fixed seed (one core), of given neighbours (no transform) and of disconnected examples; all are intended.
        warnings.simplefilter("ignore")
        import numba
        from umap import UMAP, umap_

        # Numba's OpenMP layer would set the number of threads of every OpenMP library in the process: torch would then add in another order
        # after a map than in a process that finds the map made, and a continued training would end with other bits.
        numba.config.THREADING_LAYER = "workqueue"
        for function in (umap_.smooth_knn_dist, umap_.compute_membership_strengths):
            function.enable_caching()  # on disk, as for UMAP's other functions: without it these compile for 8 s in every process
        cosine, nearest = index.search(vectors, NEIGHBOURS)
        distance = _distance(cosine)
        distance[:, 0], nearest[:, 0] = 0.0, np.arange(len(vectors))  # a duplicate may come before the example itself
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
