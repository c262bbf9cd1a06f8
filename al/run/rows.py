"""Rows by name, and in parts: what long stages go through piece by piece."""

from __future__ import annotations

import hashlib

import numpy as np


def rows_digest(rows: np.ndarray) -> str:
    """A short name for a list of rows, for fingerprints."""
    return hashlib.sha256(np.ascontiguousarray(rows, dtype=np.int64).tobytes()).hexdigest()[:20]


def split_by_tokens(rows: np.ndarray, lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Cut `rows` into consecutive parts of about `tokens` tokens each; [] for no rows."""
    if not len(rows):
        return []
    part = (np.cumsum(lengths[rows]) - 1) // tokens
    return np.split(rows, np.flatnonzero(np.diff(part)) + 1)
