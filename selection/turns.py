"""Orders of a group's examples in which clusters of loss trajectories, or target examples, take turns. They keep the contract of
selection/greedy.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from selection.candidates import Vectors
from selection.greedy import BLOCK_VALUES, Order, completed, cosine_steps, measured
from selection.vectors import blocks, scaled, unit

AIMS_AT_ONCE = 4096


def trajectory_balanced(trajectories: np.ndarray, count: int, groups: int, uniform: np.random.Generator) -> Order:
    """The same number of examples from every kind of loss trajectory, so rare kinds come early (S2L, Yang et al. 2024,
    arXiv 2403.07384). O(m · groups · r) time per k-means step.

    k-means clusters the trajectories. The clusters then take turns, the smallest first, until they run out. Inside a cluster the
    given random order holds. S2L gives the remainder of the division to the largest clusters, the turns give it to the smallest; that
    is at most one example per cluster.

    The mean of its round replaces a missing loss. An example without any loss is unmeasured. Without rounds (r = 0) the order is the
    given one.

    Args:
        trajectories: (m, r) float, an example's loss in each of r rounds, NaN where not measured.
        groups: number of clusters; fewer if there are fewer distinct trajectories.
        uniform: gives one number, the seed of k-means.

    Returns:
        Values are the sizes of the examples' clusters.
    """
    from sklearn.cluster import KMeans

    seed = int(uniform.integers(2**31))
    missing = np.isnan(trajectories)
    known, rounds = np.flatnonzero(~missing.all(axis=1)), np.flatnonzero(~missing.all(axis=0))
    if not len(known):
        return completed(len(trajectories), count, known, np.empty(0))
    losses = np.asarray(trajectories, dtype=np.float64)[np.ix_(known, rounds)]
    losses = np.where(np.isnan(losses), np.nanmean(losses, axis=0), losses)
    kinds = min(groups, len(np.unique(losses, axis=0)))
    cluster = KMeans(kinds, n_init=1, random_state=seed).fit_predict(losses)
    size = np.bincount(cluster)
    by_cluster = np.argsort(cluster, kind="stable")
    turn = np.empty(len(known), dtype=np.int64)
    turn[by_cluster] = np.arange(len(known)) - (np.cumsum(size) - size)[cluster[by_cluster]]
    order = np.lexsort((size[cluster], turn))
    return completed(len(trajectories), count, known[order], size[cluster[order]])


def round_robin(vectors: np.ndarray | Vectors, targets: np.ndarray, count: int) -> Order:
    """Each target in turn takes the most similar example that is not taken yet (Ivison et al. 2025, arXiv 2503.01807), so every target
    gets its share. If there are more targets than `count`, only the first `count` get a turn.

    Each target keeps a list of its most similar examples, which is recomputed when it runs out. O(m · t · d) time, plus O(m · d) for each
    recomputed list; that is frequent only if many targets take the same examples. O(count + t) memory for the lists, and a block of
    vectors at a time.

    Args:
        vectors: (m, d) float, or `Vectors`, which are read in blocks; scaled to unit length here.
        targets: (t, d) float, finite, t ≥ 1, scaled to unit length here.

    Returns:
        Values are cosines to the target in `target`.
    """
    known = measured(vectors)
    wanted = min(count, len(known))
    # float64, because lists of different lengths, made at different times, must agree on every cosine.
    aims = unit(targets[:wanted]).astype(np.float64)
    size = 4 * -(-wanted // max(len(aims), 1)) + 32
    waiting = np.ones(len(known), dtype=bool)
    lists: list[Iterator[np.int64]] = []
    for some in blocks(np.arange(len(aims)), AIMS_AT_ONCE):
        lists += map(iter, _most_similar(vectors, known, aims[some], np.arange(len(known)), size))
    order, target = np.empty(wanted, dtype=np.int64), np.arange(wanted) % max(len(aims), 1)
    for step, j in enumerate(target):
        found = next((i for i in lists[j] if waiting[i]), None)
        if found is None:
            lists[j] = iter(_most_similar(vectors, known, aims[[j]], np.flatnonzero(waiting), size)[0])
            found = next(lists[j])
        order[step], waiting[found] = found, False
    value = np.empty(wanted)
    for steps in blocks(np.arange(wanted)):
        value[steps] = np.einsum("id,id->i", scaled(vectors, known[order[steps]]), aims[target[steps]]).clip(-1, 1)
    return completed(len(vectors), count, known[order], value, target)


def _most_similar(
    vectors: np.ndarray | Vectors, known: np.ndarray, aims: np.ndarray, among: np.ndarray, size: int
) -> np.ndarray:
    """(t, up to `size`) int64: for each of `aims` (t, d) the most similar of the examples `known[among]`, as places in `known`, best
    first, ties by place. One integer holds a cosine and a place, so that a cut through ties is exact."""
    n = len(among)
    best = np.empty((len(aims), 0), dtype=np.int64)
    for places in blocks(np.arange(n), max(1024, BLOCK_VALUES // max(len(aims), 1))):
        steps = cosine_steps(aims, scaled(vectors, known[among[places]]).astype(np.float64))
        best = np.concatenate([best, steps.astype(np.int64) * n + (n - 1 - places)], axis=1)
        if size < best.shape[1]:
            best = np.partition(best, best.shape[1] - size, axis=1)[:, -size:]
    return among[n - 1 - np.sort(best, axis=1)[:, ::-1] % n]
