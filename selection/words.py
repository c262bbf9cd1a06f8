"""Words of many texts at once, as hashes: faster than a regular expression and a hash for each word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from selection.randomness import splitmix64

BLOCK_CHARACTERS = 2**18
"""Characters of the texts that are processed together: about 15 MB of numbers."""
FEW = 1 / 32
"""Up to this share of the texts, each is looked up alone."""
CODES = 0x110000
MULTIPLIER = np.uint64(0xD1342543DE82EF95)


def text_blocks(texts: Sequence[str], wanted: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The `wanted` (n,) bool of n texts in order, in blocks of about `BLOCK_CHARACTERS`: their rows and the texts. A few are looked up by
    their rows, where reading all would take longer."""
    rows: list[int] = []
    block: list[str] = []
    characters = 0
    chosen = np.flatnonzero(wanted).tolist()
    few = len(chosen) < len(wanted) * FEW
    for row, text in ((row, texts[row]) for row in chosen) if few else enumerate(texts):
        if not wanted[row]:
            continue
        rows.append(row)
        block.append(text)
        characters += len(text)
        if characters >= BLOCK_CHARACTERS:
            yield np.array(rows), block
            rows, block, characters = [], [], 0
    if rows:
        yield np.array(rows), block


def hashed_words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    r"""The words of `texts` (regular expression `\w+`, in lower case), in order: a hash of each, uint64, and the index of its text.

    The hash of a word is a polynomial of its characters modulo 2**64, mixed by splitmix64.
    """
    lowered = [text.lower() for text in texts]
    ends = np.cumsum([len(text) + 1 for text in lowered], dtype=np.int64)
    joined = "\n".join(lowered)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    is_word, value = _characters()
    word = is_word[codes]
    starts = word.copy()
    starts[1:] &= ~word[:-1]
    if not starts.any():
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    places = np.flatnonzero(word)
    first = np.flatnonzero(starts[places])
    size = np.diff(first, append=len(places))
    power = _powers(int(size.max()))
    within = np.arange(len(places)) - np.repeat(first, size)
    hashed = np.add.reduceat(value[codes[places]] * power[within], first)
    return splitmix64(hashed), np.searchsorted(ends, places[first], side="right")


@lru_cache(maxsize=1)
def _characters() -> tuple[np.ndarray, np.ndarray]:
    """(0x110000,) bool, whether a character belongs to words as `re` decides, and (0x110000,) uint64, its value in a hash."""
    is_word = np.fromiter((chr(code).isalnum() or code == ord("_") for code in range(CODES)), dtype=bool, count=CODES)
    return is_word, splitmix64(np.arange(CODES, dtype=np.uint64))


def _powers(count: int) -> np.ndarray:
    """(count,) uint64: MULTIPLIER to the power of 0, 1, …"""
    factors = np.full(count, MULTIPLIER, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)
