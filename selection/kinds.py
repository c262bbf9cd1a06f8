"""Kinds of example found in the wording of prompts: clusters that are tasks, where sentence embeddings give topics.

What makes examples one task is that their prompts ask in the same words ("Is this review positive?"), whatever the text is about. So a
prompt is described by which common runs of one to three words and signs it holds, not by what it means: no model is needed, and
frequent runs count as much as rare ones (weights such as IDF would bring the topics back). k-means makes cells, which are joined from
the bottom up (average linkage, Sokal & Michener 1958) until the nearest two are too far apart. A prompt without a template holds
few common runs and lies near the origin, with all others of its sort: a large task of free questions stays one kind, where
vectors of unit length would scatter it over many.

How kinds compare with hidden tasks: docs/selection.md. Time is about 1 s for 1,500 prompts, memory 400 bytes an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from selection.config import KindsConfig
from selection.randomness import CLUSTER, derive_seed
from selection.vectors import blocks

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD

WORDS_AND_SIGNS = r"(?u)\w+|[^\w\s]"
"""A token is a word or one sign: how a question is laid out ("A)", "###", "?") says much of its task."""
FIT_TEXTS = 20_000
"""At most so many prompts, drawn at random, decide which runs of words are common and what their components are."""
CHARACTERS = 1000
"""So much of a prompt is read."""
MOST_RUNS = 20_000
FEW_RUNS = 10
"""Added to the number of runs that a prompt holds, so that one with next to none is not described by chance."""
MOST_CELLS, EXAMPLES_PER_CELL, TRAINED_PER_CELL = 500, 8, 64
ITERATIONS = 10


def find_kinds(prompts: Sequence[str], config: KindsConfig, seed: int) -> np.ndarray:
    """(n,) int32, the kind of each example from 0 on, in order of their first examples; the same for the same prompts, config and seed.

    Args:
        prompts: n texts, an example's messages but the response; read once or twice in order, never held as a list.
    """
    n = len(prompts)
    vectors = prompt_vectors(prompts, config, seed)
    cells = min(MOST_CELLS, n // EXAMPLES_PER_CELL)
    if vectors is None or cells < 2:
        return np.zeros(n, dtype=np.int32)
    centres, cell = _cells(vectors, cells, seed)
    used, cell = np.unique(cell, return_inverse=True)
    label = _joined(centres[used], config)[cell]
    _, first, label = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[label].astype(np.int32)


def prompt_vectors(prompts: Sequence[str], config: KindsConfig, seed: int) -> np.ndarray | None:
    """(n, d) float32: the leading components of which common runs of words a prompt holds, by randomized SVD (Halko et al. 2011, arXiv
    0909.4061), over the square root of how many it holds: two prompts of the same runs are 0 apart, two with none in common √2. The
    length of a vector is how much of the prompt the components explain. None where the prompts have next to no run in common.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import CountVectorizer

    n = len(prompts)
    rng = np.random.default_rng([seed, CLUSTER])
    fitted = np.sort(rng.choice(n, size=min(n, FIT_TEXTS), replace=False))
    counter = CountVectorizer(
        ngram_range=(1, config.longest_run),
        token_pattern=WORDS_AND_SIGNS,
        binary=True,
        min_df=max(3, round(config.least_share * len(fitted))),
        max_features=MOST_RUNS,
        dtype=np.float32,
    )
    try:
        counts = counter.fit_transform(prompts[int(row)][:CHARACTERS] for row in fitted)
    except ValueError:  # no run is common enough
        return None
    width = min(config.components, min(counts.shape) - 1)
    if width < 2:
        return None
    svd = TruncatedSVD(width, n_iter=2, random_state=derive_seed(seed, CLUSTER)).fit(counts)
    result = np.empty((n, width), dtype=np.float32)
    result[fitted] = _scaled(svd, counts)
    del counts
    for rows in blocks(np.setdiff1d(np.arange(n), fitted, assume_unique=True)):
        texts = (prompts[int(row)][:CHARACTERS] for row in rows)
        result[rows] = _scaled(svd, counter.transform(texts))
    return result


def _scaled(svd: TruncatedSVD, counts: csr_matrix) -> np.ndarray:
    runs = np.asarray(counts.sum(axis=1))
    return svd.transform(counts) / np.sqrt(runs + FEW_RUNS)


def _cells(vectors: np.ndarray, cells: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (cells, d) by k-means (faiss) and the cell of each row (n,)."""
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1],
        cells,
        niter=ITERATIONS,
        seed=derive_seed(seed, CLUSTER),
        min_points_per_centroid=1,
        max_points_per_centroid=TRAINED_PER_CELL,
    )
    kmeans.train(vectors)
    cell = np.empty(len(vectors), dtype=np.int64)
    for rows in blocks(np.arange(len(vectors))):
        cell[rows] = kmeans.index.search(vectors[rows], 1)[1][:, 0]
    return kmeans.centroids, cell


def _joined(centres: np.ndarray, config: KindsConfig) -> np.ndarray:
    """(cells,) the kind of each cell."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(centres) < 2:
        return np.zeros(len(centres), dtype=np.int64)
    tree = linkage(centres, "average")
    return fcluster(tree, config.apart, "distance") if config.k == "auto" else fcluster(tree, config.k, "maxclust")


STRAY = 0.1
"""Examples of a source that are fewer than this share both of it and of the kind they were put in are strays."""
KINDS_PER_SOURCE = 2.0
"""Sources that hold more kinds than this on average are collections of tasks, and are split by kinds."""


def split_sources(source: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, float]:
    """What the budget is spread over where rows carry a source: the sources, or the kinds inside each of them.

    A source that is one task needs no splitting: its kinds would be topics. A source that is a collection of tasks ("flan") does.
    Which it is shows in how many kinds a source holds: exp of the entropy of its kinds, strays left out, mean over the sources.

    Args:
        source, kind: (n,) int codes.

    Returns:
        (n,) int32 groups from 0 on, in the order of source and kind; and kinds per source.
    """
    _, source = np.unique(source, return_inverse=True)
    _, kind = np.unique(kind, return_inverse=True)
    count = np.zeros((source.max() + 1, kind.max() + 1), dtype=np.int64)
    np.add.at(count, (source, kind), 1)
    stray = (count < STRAY * count.sum(1, keepdims=True)) & (count < STRAY * count.sum(0))
    kept = np.where(stray, 0, count)
    share = kept / np.maximum(kept.sum(1, keepdims=True), 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1)
    per_source = float(np.exp(entropy).mean())
    if per_source <= KINDS_PER_SOURCE:
        return source.astype(np.int32), per_source
    moved = np.where(stray[source, kind], kept.argmax(1)[source], kind)
    return np.unique(source * count.shape[1] + moved, return_inverse=True)[1].astype(np.int32), per_source
