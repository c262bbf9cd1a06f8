"""Passages shared word for word: what templates put around the same underlying text, and embeddings of long prompts miss.

Texts are compared by their runs of 13 words (shingles; the length GPT-3 used against contamination, arXiv 2005.14165, appendix C).
Runs that are common in the held-out example's own source are the task's instructions and say nothing of the underlying text.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from selection.randomness import splitmix64

RUN = 13
COMMON_SHARE = 0.25
"""A run in more than this share of a source's examples (and in more than 2) is one of its instructions."""
COMMON_ANYWHERE = 50
"""With `apart`: a run in more texts than this is an instruction, too."""
_WORD = re.compile(r"\w+")


def shares_passages(
    texts: Sequence[str],
    sources: np.ndarray,
    held: np.ndarray,
    threshold: float,
    progress: Callable[[int], None] = lambda n: None,
    apart: bool = False,
) -> np.ndarray:
    """Which examples share a passage with a held-out one.

    Args:
        texts: n texts. sources: (n,) str. held: (m,) rows of the held-out ones.
        threshold: share of the held-out example's telling runs, or of the other example's runs, above which they overlap.
        progress: called with numbers of texts, 2n in all.
        apart: the held-out ones are all of their sources that there is (a target beside a pool), so that what is common in a
            source is judged among them; a passage that several pool examples ask about is none of a small target's instructions.

    Returns:
        (n,) bool, False for the held-out rows themselves. Time O(words), memory O(words of the held-out texts).
    """
    n, result = len(texts), np.zeros(len(texts), dtype=bool)
    runs, owner = _runs_of(texts, held)
    if not len(runs) or threshold >= 1:
        return result
    known, slot = np.unique(runs, return_inverse=True)
    _, code, size = np.unique(sources, return_inverse=True, return_counts=True)
    seen = np.zeros(len(known), dtype=np.int64)
    for row in range(n):
        seen[_found(texts[row], known)] += 1
        progress(1)
    telling = _telling(seen, slot, code[held], owner, None if apart else size)
    slot, owner = slot[telling], owner[telling]
    order = np.argsort(slot, kind="stable")
    slot, owner, total = slot[order], owner[order], np.bincount(owner, minlength=len(held))
    is_held = np.zeros(n, dtype=bool)
    is_held[held] = True
    for row in range(n):
        progress(1)
        if not is_held[row]:
            result[row] = _overlaps(texts[row], known, slot, owner, total, threshold)
    return result


def _telling(
    seen: np.ndarray, slot: np.ndarray, source: np.ndarray, owner: np.ndarray, size: np.ndarray | None
) -> np.ndarray:
    """Which of the held-out examples' runs say something of their texts. `source` (m,) of each held-out example; `size` of each
    source, None: held-out examples alone make it up."""
    of = source[owner]
    if size is not None:
        return seen[slot] <= np.maximum(2, COMMON_SHARE * size[of])
    _, pair, count = np.unique(slot * (source.max() + 1) + of, return_inverse=True, return_counts=True)
    common = count[pair] > np.maximum(2, COMMON_SHARE * np.bincount(source)[of])
    return ~common & (seen[slot] <= COMMON_ANYWHERE)


def _overlaps(
    text: str, known: np.ndarray, slot: np.ndarray, owner: np.ndarray, total: np.ndarray, threshold: float
) -> bool:
    """Whether `text` has more than the threshold of one held-out example's telling runs, or that example more than so much of its."""
    own = runs_of_words(text)
    found = _slots(own, known)
    first, last = np.searchsorted(slot, found, "left"), np.searchsorted(slot, found, "right")
    owners = np.concatenate([owner[a:b] for a, b in zip(first, last, strict=True)] or [owner[:0]])
    if not len(owners):
        return False
    held, shared = np.unique(owners, return_counts=True)
    return bool((shared > threshold * np.minimum(total[held], len(own))).any())


def _runs_of(texts: Sequence[str], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct runs of each text at `rows`, and which of `rows` each belongs to."""
    runs = [runs_of_words(texts[int(row)]) for row in rows]
    owner = np.repeat(np.arange(len(rows)), [len(entry) for entry in runs])
    return np.concatenate(runs or [np.empty(0, np.uint64)]), owner


def _found(text: str, known: np.ndarray) -> np.ndarray:
    return _slots(runs_of_words(text), known)


def _slots(runs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Positions in the sorted `known` of those runs that are there."""
    at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
    return at[known[at] == runs]


def runs_of_words(text: str) -> np.ndarray:
    """(k,) uint64: a hash of each distinct run of 13 words, case and punctuation aside; sorted. None for shorter texts."""
    words = np.fromiter((zlib.crc32(word.encode()) for word in _WORD.findall(text.lower())), dtype=np.uint64)
    if len(words) < RUN:
        return np.empty(0, dtype=np.uint64)
    values = splitmix64(words)
    hashed = np.zeros(len(words) - RUN + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(RUN):
            hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + values[offset : offset + len(hashed)]
    return np.unique(hashed)
