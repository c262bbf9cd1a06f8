"""Near-duplicates by cosine of embeddings.

Groups form around leaders (Hartigan 1975, chapter 3): examples come in order of preference, and each joins the nearest earlier leader
within the threshold, or becomes a leader. So every member is near its representative, and A–B–C never chain into one group if A and C
differ. Memory is one copy of the leaders' vectors (float16 above EXACT_UP_TO); no n × n matrix is formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from selection.randomness import derive_seed
from selection.vectors import BLOCK, blocks, unit

if TYPE_CHECKING:
    import faiss

EXACT_UP_TO = 50_000
"""Up to this many examples, every leader is compared; above, only leaders in the neighbouring cells of an inverted index."""


@dataclass(frozen=True)
class Groups:
    """`representative`: (n,) int64, the leader of each row; a leader is its own. `cosine`: (n,) float32 to the representative."""

    representative: np.ndarray
    cosine: np.ndarray


def near_duplicate_groups(
    embeddings: np.ndarray,
    preference: np.ndarray,
    threshold: float,
    neighbours: int,
    progress: Callable[[int], None] = lambda n: None,
) -> Groups:
    """Group near-duplicates around leaders.

    Args:
        embeddings: (n, d) float, may be memory-mapped.
        preference: (n,) int; rows with a lower value can lead rows with a higher one, ties by row.
        threshold: lowest cosine at which a row joins a leader.
        neighbours: cells to search above `EXACT_UP_TO` rows (faiss' nprobe).
        progress: called with the number of rows just processed.
    """
    n = len(embeddings)
    order = np.argsort(preference, kind="stable")
    representative, cosine = np.arange(n), np.ones(n, dtype=np.float32)
    index, leaders = vector_index(embeddings, np.arange(n), neighbours), np.empty(0, dtype=np.int64)
    for rows in blocks(order):
        vectors = unit(embeddings[rows])
        best, leader = _nearest(index, vectors, leaders)
        new = _lead_within(vectors, rows, best, leader, threshold)
        member = np.setdiff1d(np.arange(len(rows)), new)
        representative[rows[member]], cosine[rows[member]] = leader[member], np.minimum(best[member], 1.0)
        index.add(vectors[new])
        leaders = np.concatenate([leaders, rows[new]])
        progress(len(rows))
    return Groups(representative, cosine)


def _lead_within(
    vectors: np.ndarray, rows: np.ndarray, best: np.ndarray, leader: np.ndarray, threshold: float
) -> np.ndarray:
    """Positions of a block's new leaders. Updates the block's `best` and `leader` in place."""
    cosines = vectors @ vectors.T
    new = []
    for i in range(len(rows)):
        if best[i] >= threshold:
            continue
        new.append(i)
        closer = cosines[i] > best
        closer[: i + 1] = False
        best[closer], leader[closer] = cosines[i][closer], rows[i]
    return np.array(new, dtype=np.int64)


def vector_index(embeddings: np.ndarray, rows: np.ndarray, cells_searched: int) -> faiss.Index:
    """An empty inner-product index for the unit vectors of `rows` of `embeddings` (n, d).

    Up to `EXACT_UP_TO` rows the index is exact. Above, it is an inverted index in float16, trained on a random sample, that searches the
    nearest `cells_searched` cells.
    """
    import faiss

    n, d = len(rows), embeddings.shape[1]
    if n <= EXACT_UP_TO:
        return faiss.IndexFlatIP(d)
    cells = int(4 * np.sqrt(n))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(d), d, cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.nprobe, index.cp.seed = min(cells_searched, cells), derive_seed(n, cells)
    draw = np.random.default_rng(derive_seed(n, cells)).choice(n, size=min(n, 64 * cells), replace=False)
    index.train(unit(embeddings[rows[np.sort(draw)]]))
    return index


def _nearest(index: faiss.Index, vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine to the nearest indexed vector and its row; -1 for both if none is found."""
    if not len(rows):
        return np.full(len(vectors), -1.0, dtype=np.float32), np.full(len(vectors), -1, dtype=np.int64)
    cosine, at = index.search(vectors, 1)
    found = at[:, 0] >= 0
    return np.where(found, cosine[:, 0], -1.0).astype(np.float32), np.where(found, rows[at[:, 0]], -1)


def near(embeddings: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row, the exact nearest row of `others` by cosine.

    Args:
        embeddings: (n, d) float, may be memory-mapped. others: (m, d) float, m ≥ 1.

    Returns:
        (n,) int64 index into `others`, (n,) float32 cosine.
    """
    import faiss

    index = faiss.IndexFlatIP(others.shape[1])
    index.add(unit(others))
    at, cosine = np.empty(len(embeddings), dtype=np.int64), np.empty(len(embeddings), dtype=np.float32)
    for rows in blocks(np.arange(len(embeddings)), BLOCK):
        found, where = index.search(unit(embeddings[rows]), 1)
        at[rows], cosine[rows] = where[:, 0], np.minimum(found[:, 0], 1.0)
    return at, cosine
