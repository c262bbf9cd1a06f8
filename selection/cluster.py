"""Cluster embeddings; name clusters and measure their quality.

k-means alone spends its centroids where the examples are: if half of the pool is one task, half of all clusters are that task, and
hundreds of small tasks share the rest. So k-means only makes many small cells. The cells, each with the same weight whatever its
size, are then joined bottom-up. A task of 20,000 examples lies in cells near each other and becomes a few clusters; a task of 12
becomes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from selection.config import ClusterConfig
from selection.dedup import near
from selection.errors import SelectionError
from selection.kmeans import k_means
from selection.randomness import CLUSTER, derive_seed
from selection.shares import Shares
from selection.vectors import blocks, scaled, unit

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from selection.candidates import Vectors

MAX_CLUSTERS, MAX_CELLS = 4096, 8192
EVERY_PAIR = 2**27
"""Up to this many pairs of an example and a cell (50,000 examples at auto), faiss compares all of them in every iteration of k-means."""
K_MEANS_SHARE, ASSIGN_SHARE = 0.7, 0.2
"""Shares of the time that k-means and the assignment take, as the progress shows it."""
CELLS_PER_CLUSTER, EXAMPLES_PER_CELL = 12, 4
"""auto: this many cells per cluster, if every cell then has at least this many examples on average."""
QUALITY_SAMPLE = 2000
NAME_TEXTS, NAME_CHARACTERS, NAME_TERMS = 200, 2000, 3
"""Texts of a cluster that its name is made from, characters of each text, and terms in the name."""


@dataclass(frozen=True)
class Clusters:
    """`assignment`: (n,) int32. `distance`: (n,) float32, one minus the cosine to the centroid. `centroids`: (k, d) float32.

    `quality`: k, cells, sizes, the k-means objective on the sample, and scikit-learn's measures on a random sample (None if there is only
    one cluster). `cells`: (c, d) float32, the cells' centres; `cluster_of`: (c,) int32, the cluster of each cell.
    """

    assignment: np.ndarray
    distance: np.ndarray
    centroids: np.ndarray
    quality: dict[str, Any]
    cells: np.ndarray
    cluster_of: np.ndarray


def choose_k(k: int | Literal["auto"], n: int) -> int:
    """The number of clusters for n examples: `k`, or √n for auto, at most 4,096."""
    return k if k != "auto" else int(min(max(1, n**0.5), MAX_CLUSTERS))


def choose_cells(cells: int | Literal["auto"], k: int, n: int) -> int:
    """The number of k-means cells: `cells`, or 12 per cluster for auto, at most n / 4 and 8,192; at least k."""
    return max(k, cells if cells != "auto" else min(CELLS_PER_CLUSTER * k, n // EXAMPLES_PER_CELL, MAX_CELLS))


def cluster(
    embeddings: np.ndarray, config: ClusterConfig, seed: int, progress: Callable[[int], None] = lambda n: None
) -> Clusters:
    """Make k-means cells from a random sample and join them to clusters; each example belongs to the cell of highest cosine.

    Cells are joined by average linkage (Sokal & Michener 1958) or Ward's method (1963, doi 10.2307/2282967).

    Args:
        embeddings: (n, d) float, may be memory-mapped; the sample and one block at a time are copied to float32.
        progress: called with numbers of examples, n in total.

    Raises:
        SelectionError: fewer examples than clusters or cells.
    """
    n = len(embeddings)
    k = choose_k(config.k, n)
    if k > n:
        raise SelectionError(
            f"cluster.k: expected at most {n}, as the pool has examples, found {k}. Lower it, or set it to auto."
        )
    rng = np.random.default_rng([seed, CLUSTER])
    cells = choose_cells(config.cells, k, n)
    if cells > n:
        raise SelectionError(
            f"cluster.cells: expected at most {n}, as the pool has examples, found {cells}. Lower it, or set it to auto."
        )
    sample = np.sort(rng.choice(n, size=min(n, cells * config.sample_per_centroid), replace=False))
    looked_at = np.sort(rng.choice(n, size=min(n, QUALITY_SAMPLE), replace=False))
    advance = Shares(n, progress)
    centres, objective = _k_means(
        scaled(embeddings, sample), cells, config, seed, lambda done: advance(done * K_MEANS_SHARE)
    )
    advance.upto(K_MEANS_SHARE)
    cell, cosine = near(embeddings, centres, lambda rows: advance(rows / n * ASSIGN_SHARE))
    held = np.bincount(cell, minlength=cells)
    ways = ("average", "ward") if config.linkage == "auto" and cells > k else (config.linkage,)
    found = []
    used = _cells_to_join(held, k)
    apart = _distances_between(centres[used], advance) if cells > k else None
    for way in ways:
        cluster_of, centroids = _join(centres, used, apart, k, way, config.spherical)
        advance(0)
        measures = _quality(unit(embeddings[looked_at]), cluster_of[cell[looked_at]])
        found.append((measures, way, cluster_of, centroids))
    quality, way, cluster_of, centroids = max(found, key=lambda entry: entry[0]["silhouette"] or -1.0)
    assignment = cluster_of[cell]
    distance = 1.0 - cosine if cells == k else _distances(embeddings, assignment, centroids)
    advance.upto(1.0)
    size = np.bincount(assignment, minlength=k)
    quality |= {
        "k": k,
        "cells": cells,
        "linkage": way if cells > k else None,
        "iterations": config.iterations,
        "sample": len(sample),
        "objective": objective,
        "mean_distance": float(distance.mean()),
        "smallest": int(size.min()),
        "largest": int(size.max()),
    }
    assignment, cluster_of = assignment.astype(np.int32), cluster_of.astype(np.int32)
    return Clusters(assignment, distance.astype(np.float32), centroids, quality, centres, cluster_of)


def assign(
    embeddings: np.ndarray | Vectors, cells: np.ndarray, cluster_of: np.ndarray, centroids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of other examples by cells that `cluster` made: (n,) int32 the cluster of the nearest cell, (n,) float32 one minus the
    cosine to its centroid. The rest as in `Clusters`."""
    cell, cosine = near(embeddings, cells)
    found = cluster_of[cell].astype(np.int32)
    distance = 1.0 - cosine if len(cells) == len(centroids) else _distances(embeddings, found, centroids)
    return found, distance.astype(np.float32)


def distinctness(silhouette: float | None) -> float:
    """How distinct the clusters are: 0 for cuts through a continuum, 1 for separate kinds of example, from their silhouette.

    On the scale of Kaufman & Rousseeuw (1990, table 4), a silhouette up to 0.25 means no structure, above 0.5 a reasonable one. None
    counts as 0.
    """
    return float(np.clip(((silhouette or 0.0) - 0.25) / 0.25, 0.0, 1.0))


def _k_means(
    vectors: np.ndarray, cells: int, config: ClusterConfig, seed: int, progress: Callable[[float], None]
) -> tuple[np.ndarray, float]:
    """The best of `config.restarts` runs: centres (cells, d) and the objective."""
    if len(vectors) * cells <= EVERY_PAIR:
        return _faiss_k_means(vectors, cells, config, seed)
    found = [
        k_means(
            vectors,
            cells,
            config.iterations,
            config.spherical,
            derive_seed(seed, restart, CLUSTER),
            lambda share: progress(share / config.restarts),
        )
        for restart in range(config.restarts)
    ]
    return min(found, key=lambda entry: entry[1])


def _faiss_k_means(vectors: np.ndarray, cells: int, config: ClusterConfig, seed: int) -> tuple[np.ndarray, float]:
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1],
        cells,
        niter=config.iterations,
        nredo=config.restarts,
        spherical=config.spherical,
        seed=derive_seed(seed, CLUSTER),
        min_points_per_centroid=1,
        max_points_per_centroid=config.sample_per_centroid,
    )
    kmeans.train(vectors)
    return kmeans.centroids, float(kmeans.obj[-1])


def _cells_to_join(held: np.ndarray, k: int) -> np.ndarray:
    """The cells with examples; all cells if fewer than k have any. `held`: (cells,) examples of each."""
    used = np.flatnonzero(held)
    return used if len(used) >= k else np.arange(len(held))


def _distances_between(centres: np.ndarray, advance: Callable[[float], None]) -> np.ndarray:
    """Euclidean distances between the unit vectors of `centres` (m, d), as scipy's pdist has them; `advance`(0) after each block."""
    from scipy.spatial.distance import cdist

    points = unit(centres).astype(np.float64)
    result, start = np.empty(len(points) * (len(points) - 1) // 2), 0
    for rows in blocks(np.arange(len(points)), 512):
        found = cdist(points[rows], points[rows[0] :])
        for i, row in enumerate(found):
            result[start : start + len(row) - i - 1] = row[i + 1 :]
            start += len(row) - i - 1
        advance(0)
    return result


def _join(
    centres: np.ndarray, used: np.ndarray, apart: np.ndarray | None, k: int, way: str, spherical: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each cell (cells,), numbered by first cell, and each cluster's centroid (k, d), the mean of its cells.

    Duplicates can leave cells without examples. Those join the nearest cell with examples, unless they are needed to reach k. `apart`:
    distances between the `used` cells; None if every cell is a cluster.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    cells = len(centres)
    if apart is None:
        return np.arange(k), centres
    label = fcluster(linkage(apart, way), k, "maxclust") if len(used) > 1 else np.ones(1, int)
    _, first, label = np.unique(label, return_index=True, return_inverse=True)
    label = np.argsort(np.argsort(first))[label]
    cluster_of = np.zeros(cells, dtype=np.int64)
    cluster_of[used] = label
    rest = np.setdiff1d(np.arange(cells), used)
    if len(rest):
        cluster_of[rest] = label[np.argmax(unit(centres[rest]) @ unit(centres[used]).T, axis=1)]
    centroids = np.zeros((k, centres.shape[1]), dtype=np.float32)
    np.add.at(centroids, label, centres[used])
    centroids /= np.maximum(np.bincount(label, minlength=k), 1)[:, None]
    return cluster_of, unit(centroids) if spherical else centroids


def _distances(embeddings: np.ndarray | Vectors, assignment: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(n,) one minus the cosine of each example to its own centroid."""
    centroids, result = unit(centroids), np.empty(len(embeddings))
    for rows in blocks(np.arange(len(embeddings))):
        result[rows] = 1.0 - np.einsum("nd,nd->n", unit(embeddings[rows]), centroids[assignment[rows]])
    return result


def _quality(vectors: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Silhouette (cosine), Davies–Bouldin and Calinski–Harabasz of these examples; None for each if there is only one cluster."""
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

    if not 1 < len(np.unique(labels)) < len(vectors):
        return {"silhouette": None, "davies_bouldin": None, "calinski_harabasz": None}
    return {
        "silhouette": float(silhouette_score(vectors, labels, metric="cosine")),
        "davies_bouldin": float(davies_bouldin_score(vectors, labels)),
        "calinski_harabasz": float(calinski_harabasz_score(vectors, labels)),
    }


def measure_groups(
    embeddings: np.ndarray, assignment: np.ndarray, k: int, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Of groups that were made in another way: centroids (k, d) of their unit vectors, each example's distance (n,) to its own, and the
    quality that `Clusters` has."""
    centroids = np.zeros((k, embeddings.shape[1]))
    for rows in blocks(np.arange(len(embeddings))):
        centroids += _indicator(assignment[rows], k).T @ unit(embeddings[rows])
    centroids = unit(centroids)
    distance = _distances(embeddings, assignment, centroids).astype(np.float32)
    rng, n = np.random.default_rng([seed, CLUSTER]), len(embeddings)
    looked_at = np.sort(rng.choice(n, size=min(n, QUALITY_SAMPLE), replace=False))
    size = np.bincount(assignment, minlength=k)
    quality = _quality(unit(embeddings[looked_at]), assignment[looked_at]) | {
        "k": k,
        "mean_distance": float(distance.mean()),
        "smallest": int(size.min()),
        "largest": int(size.max()),
    }
    return centroids, distance, quality


def measure_added(
    embeddings: np.ndarray | Vectors, assignment: np.ndarray, centroids: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of examples that were added to groups: centroids (k, d), the given ones (at most k, d) and those of groups that are new, and the
    distance (n,) of each added example to its own."""
    known = len(centroids)
    sums = np.zeros((k - known, embeddings.shape[1]))
    for rows in blocks(np.flatnonzero(assignment >= known)):
        sums += _indicator(assignment[rows] - known, k - known).T @ unit(embeddings[rows])
    centroids = np.concatenate([centroids, unit(sums)])
    return centroids, _distances(embeddings, assignment, centroids).astype(np.float32)


def describe(
    texts: Sequence[str], assignment: np.ndarray, k: int, progress: Callable[[int], None] = lambda n: None
) -> list[str]:
    """A name for each cluster: its three most distinctive terms. Equal names get numbers. `progress`: as for `telling_terms`."""
    terms = telling_terms(texts, assignment, k, NAME_TERMS, progress)
    return _distinct([", ".join(best) or f"cluster {c}" for c, best in enumerate(terms)])


def telling_terms(
    texts: Sequence[str],
    assignment: np.ndarray,
    k: int,
    count: int,
    progress: Callable[[int], None] = lambda n: None,
) -> list[list[str]]:
    """Up to `count` distinctive terms of each cluster, best first: frequent in it and rare in the others.

    The measure is TF-IDF with each cluster as one document, as in BERTopic (arXiv 2203.05794, section 3.3). `progress` is called with 1
    after each of the texts that are read, at most NAME_TEXTS of a cluster.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    rows, cluster_of = _naming_rows(assignment)
    vectorizer = CountVectorizer(
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
        stop_words="english",
        max_features=50_000,
        binary=True,
    )

    def read() -> Iterator[str]:
        """The texts one by one."""
        for row in rows:
            yield texts[int(row)][:NAME_CHARACTERS]
            progress(1)

    try:
        counts = vectorizer.fit_transform(read())
    except ValueError:
        return [[] for _ in range(k)]
    weights = _telling((_indicator(cluster_of, k).T @ counts).tocsr())
    terms = vectorizer.get_feature_names_out()
    return [_top_terms(weights[c], terms, count) for c in range(k)]


def named_texts(assignment: np.ndarray) -> int:
    """How many texts `telling_terms` reads."""
    return int(np.minimum(np.bincount(assignment), NAME_TEXTS).sum())


def nearest_to_centre(embeddings: np.ndarray, assignment: np.ndarray, k: int, count: int) -> list[np.ndarray]:
    """Up to `count` rows of each cluster with the highest cosine to the mean of its unit vectors, nearest first."""
    centres = np.zeros((k, embeddings.shape[1]))
    for rows in blocks(np.arange(len(embeddings))):
        centres += _indicator(assignment[rows], k).T @ unit(embeddings[rows])
    order = np.lexsort((_distances(embeddings, assignment, centres), assignment))
    bounds = np.searchsorted(assignment[order], np.arange(k + 1))
    return [order[start : min(start + count, end)] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]


def _telling(counts: csr_matrix) -> csr_matrix:
    """(k, terms) log(1 + count) × log(clusters / clusters with the term): close to 0 for a term that all clusters have."""
    present = np.bincount(counts.indices, minlength=counts.shape[1])
    clusters = max(int((np.diff(counts.indptr) > 0).sum()), 1)
    weights = counts.copy()
    weights.data = np.log1p(counts.data) * np.maximum(np.log(clusters / present[counts.indices]), 1e-6)
    return weights


def _naming_rows(assignment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first NAME_TEXTS rows of each cluster, and their clusters. Pools are sorted by content hash, so these rows are random."""
    order = np.argsort(assignment, kind="stable")
    size = np.bincount(assignment)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    rows = np.sort(order[rank < NAME_TEXTS])
    return rows, assignment[rows]


def _indicator(cluster_of: np.ndarray, k: int) -> csr_matrix:
    from scipy.sparse import csr_matrix

    n = len(cluster_of)
    return csr_matrix((np.ones(n), (np.arange(n), cluster_of)), shape=(n, k))


def _top_terms(row: csr_matrix, terms: np.ndarray, count: int) -> list[str]:
    """The heaviest terms of one cluster."""
    order = np.lexsort((terms[row.indices], -row.data))[:count]
    return terms[row.indices[order]].tolist()


def _distinct(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result
