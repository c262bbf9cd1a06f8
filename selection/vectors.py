"""Scale embeddings to unit length, and process them in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from selection.candidates import Vectors

BLOCK = 4096
"""Rows copied to float32 at a time: 6 MB at 384 dimensions."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, d) float32, every row scaled to length 1; rows of zeros stay zeros.

    Stored float16 vectors are up to 0.1% off unit length, enough to miss a threshold of 1.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def scaled(vectors: np.ndarray | Vectors, rows: np.ndarray) -> np.ndarray:
    """(k, d) float32: the vectors at `rows`, scaled to unit length block by block."""
    result = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
    for places in blocks(np.arange(len(rows))):
        result[places] = unit(vectors[rows[places]])
    return result


def blocks(rows: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    """`rows` in pieces of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
