"""What a pool version's stages say of its examples, row by row."""

from __future__ import annotations

import numpy as np

from al.pool.store import Pool
from al.run.artifacts import Artifact
from trainer.tokens import OK, TRUNCATED, TokenTable


def load_embeddings(artifact: Artifact) -> np.ndarray:
    """(n, d) float16, memory-mapped."""
    return np.load(artifact.path / "embeddings.npy", mmap_mode="r")


def trainable(pool: Artifact, tokens: Artifact) -> np.ndarray:
    """(n,) bool: has a response and fits (whole or truncated)."""
    return Pool.open(pool.path).labelled & np.isin(TokenTable.open(tokens.path).status, (OK, TRUNCATED))
