"""Short answers as part of the vectors in which near-duplicates are searched.

Two questions of one template are near in any embedding of their texts; that they are two shows in their answers. So an example with a
short answer gets some columns more, a direction that only its answer decides. With weights of 1 − SHARE and SHARE the cosine of two
examples is (1 − SHARE) · c + SHARE for the same answer, c being that of their embeddings, and (1 − SHARE) · c + SHARE · r for two answers,
r being that of two random directions. Long answers all have the same direction: what they say is in the embedding.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from selection.randomness import splitmix64
from selection.vectors import unit

if TYPE_CHECKING:
    from selection.candidates import Vectors

SHORT = 10
"""Words of an answer up to which it must be the same."""
LONG = 0
"""The code of longer answers, and of none."""
SHARE, COLUMNS = 0.2, 16
"""Of the directions of two answers, one pair in 65,536 is the same and one in 4,096 so near (0.875) that examples with a cosine of 0.98
pass as near-duplicates at a threshold of 0.95; all others are too far apart for any."""
_WORDS = re.compile(r"\w+")


def answer_codes(answers: Iterable[str]) -> np.ndarray:
    """(n,) uint64: equal for short answers with the same words in any case, LONG for longer ones and empty ones."""
    return np.fromiter((_code(answer) for answer in answers), dtype=np.uint64)


def _code(answer: str) -> int:
    if len(answer) > 40 * SHORT:
        return LONG
    words = _WORDS.findall(answer.casefold())
    text = " ".join(words) or answer.strip()
    if not text or len(words) > SHORT:
        return LONG
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") | 1


def joint_cosine(cosine: float | np.ndarray) -> float | np.ndarray:
    """Of two examples with the same answer, by that of their embeddings."""
    return (1 - SHARE) * cosine + SHARE


def own_cosine(joint: np.ndarray) -> np.ndarray:
    """The inverse of `joint_cosine`."""
    return (joint - SHARE) / (1 - SHARE)


@dataclass(frozen=True)
class Answered:
    """Vectors of n examples with their answers, made for the rows that are asked for.

    `embeddings` (n, d), may be memory-mapped; `codes` (n,) uint64 of `answer_codes`.
    """

    embeddings: np.ndarray | Vectors
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d + COLUMNS)."""
        return len(self.codes), self.embeddings.shape[1] + COLUMNS

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """(k, d + COLUMNS) float32, of unit length."""
        found = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        found[:, :-COLUMNS] = unit(self.embeddings[rows]) * np.float32((1 - SHARE) ** 0.5)
        found[:, -COLUMNS:] = directions(self.codes[rows]) * np.float32(SHARE**0.5)
        found[~found[:, :-COLUMNS].any(axis=1)] = 0  # without an embedding near to nothing, as before
        return found


def directions(codes: np.ndarray) -> np.ndarray:
    """(k, COLUMNS) float32 unit vectors, corners of a cube: the same for the same code."""
    bits = splitmix64(np.asarray(codes, dtype=np.uint64))[:, None] >> np.arange(COLUMNS, dtype=np.uint64)
    return ((bits & np.uint64(1)).astype(np.float32) * 2 - 1) / np.float32(COLUMNS**0.5)
