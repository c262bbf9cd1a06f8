"""Find examples that share passages word for word: the same text in different templates, which embeddings of long prompts miss.

Texts are compared by their runs of 13 words (shingles; GPT-3 used this length against contamination, arXiv 2005.14165, appendix C).
Runs that are common in the held-out example's own source are the task's instructions. They do not identify the text and are ignored.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from selection.randomness import splitmix64

RUN = 13
COMMON_SHARE = 0.25
"""A run in more than this share of a source's examples (and in more than 2 of them) is an instruction."""
COMMON_ANYWHERE = 50
"""With `apart`: a run in more texts than this is also an instruction."""
_WORD = re.compile(r"\w+")


def shares_passages(
    texts: Sequence[str],
    sources: np.ndarray,
    held: np.ndarray,
    threshold: float,
    progress: Callable[[int], None] = lambda n: None,
    apart: bool = False,
) -> np.ndarray:
    """Which examples share a passage with a held-out example. O(words) time, O(words of the held-out texts) memory.

    Args:
        texts: n texts.
        sources: (n,) str.
        held: (m,) int, rows of the held-out examples.
        threshold: two examples overlap above this share of the held-out example's informative runs, or of the other example's runs.
        progress: called with numbers of texts, 2n in total.
        apart: whether the held-out examples are all of their sources (a target next to a pool). Common runs are then counted among the
            held-out examples alone, because a passage that several pool examples use is not one of a small target's instructions.

    Returns:
        (n,) bool, False for the held-out rows themselves.
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
    """Which runs of the held-out examples are informative, not instructions. `source`: (m,) of each held-out example. `size`: examples of
    each source; None if all of a source's examples are held out."""
    of = source[owner]
    if size is not None:
        return seen[slot] <= np.maximum(2, COMMON_SHARE * size[of])
    _, pair, count = np.unique(slot * (source.max() + 1) + of, return_inverse=True, return_counts=True)
    common = count[pair] > np.maximum(2, COMMON_SHARE * np.bincount(source)[of])
    return ~common & (seen[slot] <= COMMON_ANYWHERE)


def _overlaps(
    text: str, known: np.ndarray, slot: np.ndarray, owner: np.ndarray, total: np.ndarray, threshold: float
) -> bool:
    """Whether `text` shares more than the threshold of a held-out example's informative runs, or of its own runs, with that example."""
    own = runs_of_words(text)
    found = _slots(own, known)
    first, last = np.searchsorted(slot, found, "left"), np.searchsorted(slot, found, "right")
    owners = np.concatenate([owner[a:b] for a, b in zip(first, last, strict=True)] or [owner[:0]])
    if not len(owners):
        return False
    held, shared = np.unique(owners, return_counts=True)
    return bool((shared > threshold * np.minimum(total[held], len(own))).any())


def _runs_of(texts: Sequence[str], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct runs of the texts at `rows`, and for each run its index into `rows`."""
    runs = [runs_of_words(texts[int(row)]) for row in rows]
    owner = np.repeat(np.arange(len(rows)), [len(entry) for entry in runs])
    return np.concatenate(runs or [np.empty(0, np.uint64)]), owner


def _found(text: str, known: np.ndarray) -> np.ndarray:
    return _slots(runs_of_words(text), known)


def _slots(runs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Positions in the sorted `known` of those runs that it contains."""
    at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
    return at[known[at] == runs]


def runs_of_words(text: str) -> np.ndarray:
    """(k,) uint64, sorted: a hash of each distinct run of 13 words, ignoring case and punctuation. Empty for shorter texts."""
    words = np.fromiter((zlib.crc32(word.encode()) for word in _WORD.findall(text.lower())), dtype=np.uint64)
    if len(words) < RUN:
        return np.empty(0, dtype=np.uint64)
    values = splitmix64(words)
    hashed = np.zeros(len(words) - RUN + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(RUN):
            hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + values[offset : offset + len(hashed)]
    return np.unique(hashed)
