"""k-means clusters, what they are called, how good they are, and where they lie in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from selection.config import ClusterConfig
from selection.errors import SelectionError
from selection.randomness import CLUSTER, derive_seed
from selection.vectors import blocks, unit

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_CLUSTERS = 4096
QUALITY_SAMPLE = 2000
PROJECTION_SAMPLE = 20_000
NAME_TEXTS, NAME_CHARACTERS, NAME_TERMS = 200, 2000, 3
"""A cluster's name is made from this many of its texts, this much of each, and so many terms."""


@dataclass(frozen=True)
class Clusters:
    """`assignment`: (n,) int32. `distance`: (n,) float32, one minus the cosine to the centroid. `centroids`: (k, d) float32.

    `quality`: k, sizes, the k-means objective on the sample, and scikit-learn's measures on a random part (None for one cluster).
    """

    assignment: np.ndarray
    distance: np.ndarray
    centroids: np.ndarray
    quality: dict[str, float | int | None]


def choose_k(k: int | Literal["auto"], n: int) -> int:
    """`k`, or for auto a number of clusters that suits n examples: n^0.6 / 2, between 1 and 4,096."""
    return k if k != "auto" else int(min(max(1, n**0.6 / 2), MAX_CLUSTERS))


def cluster(embeddings: np.ndarray, config: ClusterConfig, seed: int) -> Clusters:
    """k-means with faiss: centroids from a random sample, then every example to the centroid of highest cosine.

    Args:
        embeddings: (n, d) float, may be memory-mapped; float32 copies are made of the sample and of one block at a time.

    Raises:
        SelectionError: fewer examples than clusters.
    """
    import faiss

    n, d = embeddings.shape
    k = choose_k(config.k, n)
    if k > n:
        raise SelectionError(
            f"cluster.k: {k} clusters asked for, but the pool has {n} examples. Lower it, or set it to auto."
        )
    rng = np.random.default_rng([seed, CLUSTER])
    sample = np.sort(rng.choice(n, size=min(n, k * config.sample_per_centroid), replace=False))
    kmeans = faiss.Kmeans(
        d,
        k,
        niter=config.iterations,
        nredo=config.restarts,
        spherical=config.spherical,
        seed=derive_seed(seed, CLUSTER),
        min_points_per_centroid=1,
        max_points_per_centroid=config.sample_per_centroid,
    )
    kmeans.train(unit(embeddings[sample]))
    assignment, distance = _assign(embeddings, kmeans.centroids)
    quality = _quality(embeddings, assignment, rng)
    size = np.bincount(assignment, minlength=k)
    quality |= {
        "k": k,
        "iterations": config.iterations,
        "sample": len(sample),
        "objective": float(kmeans.obj[-1]),
        "mean_distance": float(distance.mean()),
        "smallest": int(size.min()),
        "largest": int(size.max()),
    }
    return Clusters(assignment, distance, kmeans.centroids, quality)


def _assign(embeddings: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from selection.dedup import near

    assignment, cosine = near(embeddings, centroids)
    return assignment.astype(np.int32), (1.0 - cosine).astype(np.float32)


def _quality(embeddings: np.ndarray, assignment: np.ndarray, rng: np.random.Generator) -> dict[str, float | int | None]:
    """Silhouette (cosine), Davies–Bouldin and Calinski–Harabasz of a random part of the pool."""
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

    rows = np.sort(rng.choice(len(assignment), size=min(len(assignment), QUALITY_SAMPLE), replace=False))
    labels = assignment[rows]
    if not 1 < len(np.unique(labels)) < len(rows):
        return {"silhouette": None, "davies_bouldin": None, "calinski_harabasz": None}
    vectors = unit(embeddings[rows])
    return {
        "silhouette": float(silhouette_score(vectors, labels, metric="cosine")),
        "davies_bouldin": float(davies_bouldin_score(vectors, labels)),
        "calinski_harabasz": float(calinski_harabasz_score(vectors, labels)),
    }


def describe(texts: Sequence[str], assignment: np.ndarray, k: int) -> list[str]:
    """A name for each cluster: the terms that are frequent in it and rare in the others, by TF-IDF over clusters (each cluster
    is one document, as in BERTopic, arXiv 2203.05794, section 3.3). Equal names are numbered."""
    from sklearn.feature_extraction.text import CountVectorizer

    rows, cluster_of = _naming_rows(assignment)
    vectorizer = CountVectorizer(
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
        stop_words="english",
        max_features=50_000,
        binary=True,
    )
    try:
        counts = vectorizer.fit_transform(texts[int(row)][:NAME_CHARACTERS] for row in rows)
    except ValueError:
        return [f"cluster {c}" for c in range(k)]
    weights = _telling((_indicator(cluster_of, k).T @ counts).tocsr())
    terms = vectorizer.get_feature_names_out()
    return _distinct([_top_terms(weights[c], terms) or f"cluster {c}" for c in range(k)])


def _telling(counts: csr_matrix) -> csr_matrix:
    """(k, terms) log(1 + count) × log(clusters / clusters with the term): next to nothing for a term that all clusters have."""
    present = np.bincount(counts.indices, minlength=counts.shape[1])
    clusters = max(int((np.diff(counts.indptr) > 0).sum()), 1)
    weights = counts.copy()
    weights.data = np.log1p(counts.data) * np.maximum(np.log(clusters / present[counts.indices]), 1e-6)
    return weights


def _naming_rows(assignment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first few rows of each cluster, and their clusters. Pools are sorted by content hash, so these are random ones."""
    order = np.argsort(assignment, kind="stable")
    size = np.bincount(assignment)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    rows = np.sort(order[rank < NAME_TEXTS])
    return rows, assignment[rows]


def _indicator(cluster_of: np.ndarray, k: int) -> csr_matrix:
    from scipy.sparse import csr_matrix

    n = len(cluster_of)
    return csr_matrix((np.ones(n), (np.arange(n), cluster_of)), shape=(n, k))


def _top_terms(row: csr_matrix, terms: np.ndarray) -> str:
    """The heaviest terms of one cluster."""
    order = np.lexsort((terms[row.indices], -row.data))[:NAME_TERMS]
    return ", ".join(terms[row.indices[order]])


def _distinct(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def project(embeddings: np.ndarray) -> np.ndarray:
    """(n, 2) float32 principal components for the report's map; fitted on at most 20,000 rows, evenly spaced."""
    from sklearn.decomposition import PCA

    n, d = embeddings.shape
    rows = np.unique(np.linspace(0, n - 1, min(n, PROJECTION_SAMPLE)).astype(np.int64))
    size = min(2, len(rows), d)
    pca = PCA(n_components=size, svd_solver="full").fit(unit(embeddings[rows]))
    result = np.zeros((n, 2), dtype=np.float32)
    for block in blocks(np.arange(n)):
        result[block, :size] = pca.transform(unit(embeddings[block]))
    return result
