"""Find examples that share passages word for word: the same text in different templates, which embeddings of long prompts miss.

Texts are compared by their runs of 13 words (shingles; GPT-3 used this length against contamination, arXiv 2005.14165, appendix C).
Runs that are common in the held-out example's own source are the task's instructions. They do not identify the text and are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from selection.words import hashed_words, text_blocks

RUN = 13
COMMON_SHARE = 0.25
"""A run in more than this share of a source's examples (and in more than 2 of them) is an instruction."""
COMMON_ANYWHERE = 50
"""With `apart`: a run in more texts than this is also an instruction."""
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
FILTER_BITS = 22
"""Leading bits by which most unknown runs are passed over: a table of 4 MB, of which the runs of 1,500 held-out texts fill about 2%."""


@dataclass(frozen=True)
class Counted:
    """What was compared with held-out examples before. `runs` (k,) uint64, ascending: their distinct runs; `seen` (k,) int64: how many
    examples have each; `rows`: (n,) bool, the examples of the pool that these are."""

    runs: np.ndarray
    seen: np.ndarray
    rows: np.ndarray


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
    return compare_passages(texts, sources, held, threshold, progress, apart)[0]


def compare_passages(
    texts: Sequence[str],
    sources: np.ndarray,
    held: np.ndarray,
    threshold: float,
    progress: Callable[[int], None] = lambda n: None,
    apart: bool = False,
    before: Counted | None = None,
) -> tuple[np.ndarray, Counted]:
    """As `shares_passages`, for a pool that may have grown.

    Args:
        before: what was compared before. If the held-out examples have the same runs as then, only the other examples are read, counted
            and compared; the result is False for those compared before. Else all are.

    Returns:
        (n,) bool, and what is compared now, of all n.
    """
    n, result = len(texts), np.zeros(len(texts), dtype=bool)
    everything = np.ones(n, dtype=bool)
    runs, owner = _distinct(*_runs_of([texts[int(row)] for row in held]))
    if not len(runs) or threshold >= 1:
        return result, Counted(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64), everything)
    known = _Known(runs)
    slot = known.find(runs)[1]
    seen, asked = np.zeros(len(known.runs), dtype=np.int64), everything
    if before is not None and np.array_equal(before.runs, known.runs):
        seen, asked = before.seen.copy(), ~before.rows
        progress(2 * int(before.rows.sum()))
    _, code, size = np.unique(sources, return_inverse=True, return_counts=True)
    hit = np.zeros(n, dtype=bool)
    for rows, block in text_blocks(texts, asked):
        found, of = _runs_of(block)
        place, slots = known.find(found)
        slots, of = _distinct(slots, of[place])
        seen += np.bincount(slots, minlength=len(seen))
        hit[rows[of]] = True
        progress(len(block))
    telling = _telling(seen, slot, code[held], owner, None if apart else size)
    holders = _Holders(slot[telling], owner[telling], len(known.runs), len(held))
    hit[held] = False
    progress(int((asked & ~hit).sum()))
    for rows, block in text_blocks(texts, hit):
        result[rows] = holders.overlap(*_distinct(*_runs_of(block)), len(block), known, threshold)
        progress(len(block))
    return result, Counted(known.runs, seen, everything)


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


class _Known:
    """The distinct runs of the held-out texts, `runs` (k,) uint64, ascending. A run's slot is its place in them."""

    def __init__(self, runs: np.ndarray):
        self.runs = np.unique(runs)
        self._maybe = np.zeros(2**FILTER_BITS, dtype=bool)
        self._maybe[self._high(self.runs)] = True

    def find(self, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places in `runs` of those that are known, and their slots. Most others stop at a table of their leading bits."""
        place = np.flatnonzero(self._maybe[self._high(runs)])
        at = np.minimum(np.searchsorted(self.runs, runs[place]), len(self.runs) - 1)
        same = self.runs[at] == runs[place]
        return place[same], at[same]

    @staticmethod
    def _high(runs: np.ndarray) -> np.ndarray:
        return (runs >> np.uint64(64 - FILTER_BITS)).astype(np.int64)


class _Holders:
    """Which held-out examples have each informative run. `slot`, `owner`: a pair for each informative run of each held-out example."""

    def __init__(self, slot: np.ndarray, owner: np.ndarray, slots: int, held: int):
        self.owner = owner[np.argsort(slot, kind="stable")]
        self.count = np.bincount(slot, minlength=slots)
        self.first = np.cumsum(self.count) - self.count
        self.total = np.bincount(owner, minlength=held)

    def overlap(self, runs: np.ndarray, of: np.ndarray, texts: int, known: _Known, threshold: float) -> np.ndarray:
        """(texts,) bool: which texts share more than the threshold of a held-out example's informative runs, or of their own runs,
        with that example. `runs`, `of`: the distinct runs of each text."""
        place, slot = known.find(runs)
        times = self.count[slot]
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        held = self.owner[np.repeat(self.first[slot], times) + within]
        text = np.repeat(of[place], times)
        pair, shared = np.unique(text * len(self.total) + held, return_counts=True)
        text, held = pair // len(self.total), pair % len(self.total)
        own = np.bincount(of, minlength=texts)
        result = np.zeros(texts, dtype=bool)
        result[text[shared > threshold * np.minimum(self.total[held], own[text])]] = True
        return result


def _runs_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The runs of each text, uint64, in order, and the index of the text that each is of."""
    words, of = hashed_words(texts)
    if len(words) < RUN:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    hashed = np.zeros(len(words) - RUN + 1, dtype=np.uint64)
    for offset in range(RUN):
        hashed *= MULTIPLIER
        hashed += words[offset : offset + len(hashed)]
    inside = of[: len(hashed)] == of[RUN - 1 :]
    return hashed[inside], of[: len(inside)][inside]


def _distinct(values: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of each text, ascending inside a text, and their texts."""
    order = np.lexsort((values, of))
    values, of = values[order], of[order]
    first = np.ones(len(values), dtype=bool)
    first[1:] = (values[1:] != values[:-1]) | (of[1:] != of[:-1])
    return values[first], of[first]
