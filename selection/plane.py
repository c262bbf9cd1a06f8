"""Two principal components of embeddings, for the report's map of a small pool and of new examples of a grown one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from selection.vectors import blocks, unit

if TYPE_CHECKING:
    from selection.candidates import Vectors

PLANE_SAMPLE = 20_000
"""Examples that the components are fitted on, evenly spaced."""


def principal_plane(embeddings: np.ndarray) -> np.ndarray:
    """(3, d) float32: the mean of the unit vectors of `embeddings` (n, d) and their first two principal axes, zeros for one that they do
    not have."""
    from sklearn.decomposition import PCA

    n, d = embeddings.shape
    rows = np.unique(np.linspace(0, n - 1, min(n, PLANE_SAMPLE)).astype(np.int64))
    size = min(2, len(rows), d)
    with np.errstate(invalid="ignore"):  # one row has no variance, which sklearn divides all the same and nothing reads
        pca = PCA(n_components=size, svd_solver="full").fit(unit(embeddings[rows]))
    result = np.zeros((3, d), dtype=np.float32)
    result[0], result[1 : 1 + size] = pca.mean_, pca.components_
    return result


def on_plane(embeddings: np.ndarray | Vectors, plane: np.ndarray) -> np.ndarray:
    """(n, 2) float32: the unit vectors of `embeddings` (n, d) on a plane that `principal_plane` gives."""
    result = np.empty((len(embeddings), 2), dtype=np.float32)
    for block in blocks(np.arange(len(embeddings))):
        result[block] = (unit(embeddings[block]) - plane[0]) @ plane[1:].T
    return result
