"""Take examples from ranked clusters until a token budget is spent."""

from __future__ import annotations

import heapq

import numpy as np

BLOCK = 256
"""Rows searched at a time for one that fits."""


def prefix_within(tokens: np.ndarray, quota: int) -> int:
    """How many of the first examples fit together into `quota` tokens."""
    return int(np.searchsorted(np.cumsum(tokens), quota, side="right"))


def fill_tokens(ranked: list[np.ndarray], quota: np.ndarray, budget: int) -> tuple[list[tuple[int, int]], int]:
    """Take the longest prefix of each cluster that fits its quota, then spend the rest of the budget.

    The rest goes one example at a time to the cluster furthest below its quota, which gives its best-ranked example that still
    fits. The search ends when no example of any cluster fits. The first pass takes prefixes only, so a long example is passed over
    only at the end, when nothing else fits. O(n + leftover · log k) time.

    Args:
        ranked: for each cluster the lengths in tokens, best example first.
        quota: (k,) tokens.
        budget: total tokens, at least the sum of the quotas.

    Returns:
        (cluster, place in its ranking) in the order taken, and how many of them the first pass took.
    """
    taken: list[tuple[int, int]] = []
    place, heap, left = [], [], budget
    for c, tokens in enumerate(ranked):
        count = prefix_within(tokens, int(quota[c]))
        used = int(tokens[:count].sum())
        taken += [(c, i) for i in range(count)]
        left -= used
        place.append(count)
        heap.append((used - int(quota[c]), c))
    prefixes = len(taken)
    heapq.heapify(heap)
    while heap:
        over, c = heapq.heappop(heap)
        at = _next_fit(ranked[c], place[c], left)
        if at < 0:
            continue
        taken.append((c, at))
        place[c] = at + 1
        used = int(ranked[c][at])
        left -= used
        heapq.heappush(heap, (over + used, c))
    return taken, prefixes


def _next_fit(tokens: np.ndarray, start: int, left: int) -> int:
    for at in range(start, len(tokens), BLOCK):
        fits = np.flatnonzero(tokens[at : at + BLOCK] <= left)
        if len(fits):
            return at + int(fits[0])
    return -1
