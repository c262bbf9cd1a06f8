"""Random numbers keyed by example, not by row.

An example's number is a hash of its 64-bit key and the seed parts. So it does not depend on the order of the pool, and adding examples
does not change the numbers of the others.
"""

from __future__ import annotations

import numpy as np

DRAW, HOLDOUT, CLUSTER, EXPLORE, PICK, LOOK = 201, 202, 203, 204, 205, 206
"""Purposes of draws. The measured sample and the random picker share DRAW, so most random picks are measured already."""


def derive_seed(*parts: int) -> int:
    """A 31-bit seed, for faiss and scikit-learn, from non-negative integers by numpy's SeedSequence.

    SeedSequence treats (1,) and (1, 0) alike. So end the parts with a purpose; no purpose is 0.
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0] >> np.uint32(1))


def keyed_draw(keys: np.ndarray, *parts: int) -> np.ndarray:
    """(n,) uint64, uniform and independent for each key.

    It is splitmix64 (Steele, Lea & Flood 2014, doi 10.1145/2660193.2660195) of the mixed key XOR a word derived from `parts`, which are
    non-negative integers.
    """
    word = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    x = splitmix64(np.asarray(keys, dtype=np.uint64))
    return splitmix64(x ^ word)


def splitmix64(x: np.ndarray) -> np.ndarray:
    """(n,) uint64: a bijection in which every input bit flips about half of the output bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
