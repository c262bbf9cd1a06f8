"""Random numbers that belong to an example, not to its place in a table.

Each example's number is a hash of its 64-bit key and the seed parts, so it is the same in whatever order the pool comes,
and adding examples changes nobody else's number.
"""

from __future__ import annotations

import numpy as np

DRAW, HOLDOUT, CLUSTER, EXPLORE, PICK, LOOK = 201, 202, 203, 204, 205, 206
"""Purposes. The sample that is measured and the random picker share DRAW: the examples drawn are then mostly measured already."""


def derive_seed(*parts: int) -> int:
    """A 31-bit seed (what faiss and scikit-learn take) out of non-negative integers, by numpy's SeedSequence,
    to which (1,) and (1, 0) are the same: end with a purpose, none of which is 0."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0] >> np.uint32(1))


def keyed_draw(keys: np.ndarray, *parts: int) -> np.ndarray:
    """(n,) uint64, uniform and independent per key: splitmix64 (Steele, Lea & Flood 2014, doi 10.1145/2660193.2660195) of
    the key exclusive-or a word derived from `parts` (non-negative integers)."""
    word = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    x = splitmix64(np.asarray(keys, dtype=np.uint64))
    return splitmix64(x ^ word)


def splitmix64(x: np.ndarray) -> np.ndarray:
    """(n,) uint64 mixed so that every bit of the input moves half of the output's; a bijection."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
