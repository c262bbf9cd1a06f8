"""Greedy orders of a group's examples that avoid examples similar to those taken before, and the contract of all orders.

Arrays over a group's m examples are in a random order that depends on the examples' keys. Ties go to the lower index, so they are
random too. Every function takes `count` examples, or all m if there are fewer, best first. Unmeasured examples (NaN in their row or
score) come last, in the given order. An order for a smaller `count` is the beginning of the order for a larger one. Memory is a
float32 copy of the vectors and a few blocks; no m × m matrix is formed. Orders that cover a group are in selection/submodular.py,
orders that take turns in selection/turns.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selection.candidates import Vectors
from selection.vectors import blocks, scaled, unit

STEPS = 2.0**20
"""Cosines are compared in whole steps of 1/STEPS, several times float32's error in a sum of 384 products. So equal vectors tie in
any order of BLAS additions, and sums of steps in float64 are exact."""
BLOCK_VALUES = 2**21
"""Cosines computed at a time: 8 MB in float32."""


@dataclass(frozen=True)
class Order:
    """`order`: (count,) int64 distinct indices into the group, best first. `value`: (count,) float64, the criterion when each was taken,
    NaN if unmeasured. `target`: (count,) int64, the target that took each, -1 for none; only `round_robin` sets it."""

    order: np.ndarray
    value: np.ndarray
    target: np.ndarray | None = None


def k_center(vectors: np.ndarray, count: int, trim: float = 0.02) -> Order:
    """Farthest first: the next example is the farthest from all taken before (Gonzalez 1985, doi 10.1016/0304-3975(85)90224-5;
    Sener & Savarese 2018, arXiv 1708.00489). The largest distance of an untrimmed example to a taken one is then at most twice that of
    the best choice of the same size.

    The order starts at the example nearest to the group's mean direction. Farthest-first prefers outliers, so the share `trim` that is
    farthest from that direction comes after the others, nearest first. A small mode far from the rest is trimmed as well.
    O(m · count · d) time.

    Args:
        vectors: (m, d) float, scaled to unit length here.
        trim: share of the measured examples, 0 ≤ trim < 1; rounded down to whole examples.

    Returns:
        Values are Euclidean distances of unit vectors, 0 … 2, to the nearest example taken before; NaN for the first.
    """
    known = measured(vectors)
    points = scaled(vectors, known)
    centre = unit(points.mean(axis=0, dtype=np.float64)[None]) if len(known) else points
    inward = np.argsort(-cosine_steps(centre, points).ravel(), kind="stable")
    kept = len(known) - int(round(len(known) * trim, 6))
    waiting = np.ones(len(known), dtype=bool)
    waiting[inward[kept:]] = False
    nearest = np.full(len(known), -STEPS, dtype=np.float32)
    order, value = np.empty(min(count, len(known)), dtype=np.int64), np.full(min(count, len(known)), np.nan)
    for step in range(len(order)):
        if 0 < step < kept:
            order[step] = np.argmin(np.where(waiting, nearest, np.inf))
        else:
            order[step] = inward[step]
        if step:
            value[step] = np.sqrt(2 - 2 * nearest[order[step]] / STEPS)
        waiting[order[step]] = False
        np.maximum(nearest, cosine_steps(points[order[step], None], points)[0], out=nearest)
    return completed(len(vectors), count, known[order], value)


def k_means_plus_plus(vectors: np.ndarray, count: int, uniform: np.random.Generator) -> Order:
    """Draw each example with probability proportional to its squared distance to the nearest example taken before; the first
    uniformly (Arthur & Vassilvitskii 2007). On gradients of the loss at the last layer this is BADGE (Ash et al. 2020,
    arXiv 1906.03671): examples far apart, with long gradients, where the model is unsure. O(m · count · d) time.

    If every remaining example equals a taken one, the rest comes in the given order.

    Args:
        vectors: (m, d) float, not scaled here, because their length matters.
        uniform: gives one number for each example taken.

    Returns:
        Values are the squared distances, NaN for the first.
    """
    known = measured(vectors)
    points = np.asarray(vectors[known], dtype=np.float32)
    nearest = np.full(len(known), np.inf)
    order, value = np.empty(min(count, len(known)), dtype=np.int64), np.full(min(count, len(known)), np.nan)
    taken = np.zeros(len(known), dtype=bool)
    for step in range(len(order)):
        weights = nearest if step else np.ones(len(known))
        order[step] = _draw(weights, uniform.random()) if weights.any() else np.argmin(taken)
        if step:
            value[step] = nearest[order[step]]
        taken[order[step]] = True
        for rows in blocks(np.arange(len(known))):
            apart = points[rows] - points[order[step]]
            nearest[rows] = np.minimum(nearest[rows], np.einsum("id,id->i", apart, apart))
    return completed(len(vectors), count, known[order], value)


def score_then_filter(vectors: np.ndarray, score: np.ndarray, count: int, threshold: float = 0.9) -> Order:
    """Highest score first, without examples too similar to one taken before (the filter of DEITA, Liu et al. 2024,
    arXiv 2312.15685). The filtered examples come last, again highest score first. O(m · count · d) time.

    Args:
        vectors: (m, d) float, scaled to unit length here.
        score: (m,) float, NaN where not measured.
        threshold: an example whose cosine to a taken one exceeds it is passed over.

    Returns:
        Values are the scores.
    """
    score = np.asarray(score, dtype=np.float64)
    known = measured(vectors)
    known = known[~np.isnan(score[known])]
    falling = known[np.argsort(-score[known], kind="stable")]
    points = scaled(vectors, falling)
    taken: list[int] = []
    for rows in blocks(np.arange(len(falling)), 512):
        if len(taken) >= count:
            break
        highest = np.full(len(rows), -STEPS)
        for earlier in blocks(np.array(taken, dtype=np.int64)):
            np.maximum(highest, cosine_steps(points[rows], points[earlier]).max(axis=1), out=highest)
        among = cosine_steps(points[rows], points[rows])
        for i, row in enumerate(rows):
            if highest[i] <= threshold * STEPS:
                taken.append(row)
                np.maximum(highest, among[i], out=highest)
    passed_over = np.ones(len(falling), dtype=bool)
    passed_over[taken] = False
    order = falling[np.concatenate([np.array(taken, dtype=np.int64), np.flatnonzero(passed_over)])]
    return completed(len(vectors), count, order, score[order])


def _draw(weights: np.ndarray, at: float) -> int:
    """An index drawn with probability proportional to its weight, from `at`, uniform in [0, 1). Weight 0 is never drawn."""
    upto = np.cumsum(weights)
    return int(np.searchsorted(upto, min(at * upto[-1], np.nextafter(upto[-1], 0)), side="right"))


def measured(vectors: np.ndarray | Vectors) -> np.ndarray:
    """(k,) int64: the rows whose numbers are all finite, ascending."""
    finite = [np.isfinite(vectors[rows]).all(axis=1) for rows in blocks(np.arange(len(vectors)))]
    return np.flatnonzero(np.concatenate(finite)) if finite else np.empty(0, dtype=np.int64)


def cosine_steps(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(k, n) float: cosines of unit vectors (k, d) to unit vectors (n, d), in whole steps of 1/STEPS."""
    cosines = (some * some.dtype.type(STEPS)) @ others.T
    return np.rint(cosines, out=cosines)


def completed(m: int, count: int, order: np.ndarray, value: np.ndarray, target: np.ndarray | None = None) -> Order:
    """An `Order` of `count` of m examples: first `order` (k,), with its values and targets, then the other, unmeasured examples."""
    unmeasured = np.ones(m, dtype=bool)
    unmeasured[order] = False
    rest = np.flatnonzero(unmeasured)[: max(count - len(order), 0)]
    return Order(
        np.concatenate([order, rest])[:count],
        np.concatenate([value, np.full(len(rest), np.nan)])[:count],
        None if target is None else np.concatenate([target, np.full(len(rest), -1)])[:count],
    )
