"""Adapt clusters to measured losses: split a cluster with uneven losses, merge two neighbours with similar losses.

A cluster gets one quota, from its mean loss. If it holds two tasks, one learned and one not, the mean describes neither. If two clusters
hold one task, the task is measured twice. Splits use the embeddings and tests use the losses, so the test is valid: the halves do not
depend on the tested values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from selection.candidates import Vectors
from selection.vectors import blocks, unit


@dataclass(frozen=True)
class Change:
    """`old` clusters that became `new` ones, one into two or two into one, with the reason."""

    old: tuple[int, ...]
    new: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Adapted:
    """`assignment`: (n,) int32, clusters 0 … k' - 1. `parent`: for each new cluster, the old clusters that it comes from."""

    assignment: np.ndarray
    parent: list[tuple[int, ...]]
    splits: list[Change]
    merges: list[Change]


@dataclass(frozen=True)
class _Measured:
    """The latest measurement of each example; arrays (m,). `cluster`: its old cluster."""

    rows: np.ndarray
    loss: np.ndarray
    epoch: np.ndarray
    cluster: np.ndarray


@dataclass(frozen=True)
class _Split:
    """Two halves of a cluster. `second`: bool, the members in the half with the higher loss. `difference`: of the halves' losses, nats.
    `effect`: the difference in standard deviations. `counts`: measured examples of each half."""

    cluster: int
    second: np.ndarray
    difference: float
    effect: float
    p: float
    counts: tuple[int, int]


@dataclass(frozen=True)
class _Merge:
    """Two old clusters, the lower first, whose `means` (nats) differ by at most `stderr`."""

    clusters: tuple[int, int]
    cosine: float
    means: tuple[float, float]
    stderr: float


def adapt(
    embeddings: np.ndarray,
    assignment: np.ndarray,
    rows: np.ndarray,
    loss: np.ndarray,
    epoch: np.ndarray,
    *,
    level: float = 0.05,
    least: int = 6,
    effect: float = 0.5,
    near: float = 0.8,
) -> Adapted:
    """Split uneven clusters, and merge at most as many pairs of similar ones, so that k stays about the same.

    2-means on the embeddings of a cluster's measured examples gives two halves. The cluster is split if the halves' losses differ: by
    Welch's test within rounds (see `within_rounds`), at a false discovery rate of `level` over all tested clusters (Benjamini & Hochberg
    1995), and by at least `effect` standard deviations. Two clusters are merged if each is the other's nearest by cosine of centroids,
    neither is split, and their mean losses of the latest round differ by at most one standard error; the nearest pairs come first. An
    example that was measured more than once counts once, with its latest loss.

    On the 60,410 examples and 391 tasks of `evals` (benchmarks/study_pools.py), 256 clusters with 32 random ones of each measured: 19 to 31
    splits, 17 to 22 merges; the clusters explain 0.77 of the variance of all losses instead of 0.74. With 16 of each, 2 to 7 splits.

    New clusters keep the order of the old ones: the two halves follow each other, the lower loss first; a merged pair takes the place of
    its lower index. There is no randomness; the order of rows changes results only by rounding. Leave suspected noise out of `rows`.

    Args:
        embeddings: (n, d) float, may be memory-mapped; one cluster's measured rows and one block at a time are copied to float32.
        assignment: (n,) int, clusters 0 … k - 1.
        rows: (m,) int, measured rows.
        loss: (m,) their losses, nats per response token; NaN is skipped.
        epoch: (m,) int, the round of each measurement; losses are compared only within a round.
        least: the fewest measured examples in each half of a split, and in each cluster of a merge.
        near: the lowest cosine of centroids for a merge.
    """
    k = int(assignment.max()) + 1
    measured = _latest(assignment, rows, loss, epoch)
    splits = _splits(embeddings, assignment, measured, k, level, least, effect)
    merges: list[_Merge] = []
    if splits:
        whole = np.setdiff1d(np.arange(k), [split.cluster for split in splits])
        merges = _merges(_centroids(embeddings, assignment, k), measured, whole, least, near)[: len(splits)]
    return _relabelled(assignment, k, splits, merges)


def extend(embeddings: np.ndarray, own: np.ndarray, adapted: np.ndarray, k: int) -> np.ndarray:
    """Clusters of new examples of a pool whose clusters were adapted: the nearest by cosine of centroids among those that hold older
    examples of the same `own` cluster; among all where there is none.

    Args:
        embeddings: (n, d) float, may be memory-mapped. own: (n,) int, the cluster before any was adapted.
        adapted: (n,) int, 0 … k - 1, and -1 for new examples.

    Returns:
        (n,) int32, as `adapted` for older examples.
    """
    old, new, result = np.flatnonzero(adapted >= 0), np.flatnonzero(adapted < 0), adapted.astype(np.int32)
    centroids = _centroids(Vectors(embeddings, old), adapted[old], k)
    within = np.zeros((int(own.max()) + 1, k), dtype=bool)
    within[own[old], adapted[old]] = True
    within[~within.any(axis=1)] = True
    for rows in blocks(new):
        cosine = np.where(within[own[rows]], unit(embeddings[rows]) @ centroids.T, -2.0)
        result[rows] = cosine.argmax(axis=1)
    return result


def within_rounds(loss: np.ndarray, second: np.ndarray, epoch: np.ndarray) -> tuple[float, float, float]:
    """Test whether two halves differ in loss, comparing losses only within rounds.

    The test is a least-squares fit of the loss on the half (x = 0 or 1) and the round. With residuals e, and x centred within rounds:

        difference = Σ x · loss / Σ x²
        variance   = Σ x² e² / (1 - h) / (Σ x²)²,   h = 1 / (measured in the round) + x² / Σ x²      (HC2: MacKinnon & White 1985)

    The degrees of freedom are Satterthwaite's, from the halves' parts of the variance. With one round this is exactly Welch's test. With
    more rounds, Welch's test on deviations from the rounds' means would treat every mean as known and give too small p.

    Args:
        loss: (m,) nats. second: (m,) bool, the half. epoch: (m,) int.

    Returns:
        The second half's loss minus the first's in nats, the same in standard deviations within halves, and the two-sided p. The last two
        are 0 and 1 if no round has both halves, or if too few examples are measured.
    """
    from scipy.stats import t

    _, group = np.unique(epoch, return_inverse=True)
    size = np.bincount(group)
    x = second - (np.bincount(group, weights=second) / size)[group]
    y = loss - (np.bincount(group, weights=loss) / size)[group]
    squares, degrees = float(x @ x), len(loss) - len(size) - 1
    if squares < 1e-12 or degrees < 1:
        return 0.0, 0.0, 1.0
    difference = float(x @ y) / squares
    residual = y - difference * x
    free = np.maximum(1 - 1 / size[group] - x**2 / squares, 1e-12)
    parts = np.where(size[group] > 1, x**2 * residual**2 / free, 0.0) / squares**2
    halves = np.array([parts[~second].sum(), parts[second].sum()])
    deviation = float(np.sqrt(residual @ residual / degrees))
    rounding = 1e-9 * max(1.0, float(np.abs(loss).max()))
    if deviation < rounding:
        return (difference, np.copysign(np.inf, difference), 0.0) if abs(difference) > rounding else (0.0, 0.0, 1.0)
    if halves.sum() < rounding**2:  # no residual in rounds with both halves: take the spread of the others
        p = 2 * t.sf(abs(difference) / (deviation / np.sqrt(squares)), degrees)
        return difference, difference / deviation, float(p)
    counts = np.array([(~second).sum(), second.sum()])
    freedom = halves.sum() ** 2 / float((halves**2 / np.maximum(counts - 1, 1)).sum()) - (len(size) - 1)
    p = 2 * t.sf(abs(difference) / np.sqrt(halves.sum()), max(freedom, 1.0))
    return difference, difference / deviation, float(p)


def _latest(assignment: np.ndarray, rows: np.ndarray, loss: np.ndarray, epoch: np.ndarray) -> _Measured:
    known = np.flatnonzero(np.isfinite(loss))
    order = known[np.lexsort((loss[known], epoch[known], rows[known]))]
    last = order[np.append(np.diff(rows[order]) != 0, True)] if len(order) else order
    return _Measured(rows[last], np.asarray(loss[last], dtype=np.float64), epoch[last], assignment[rows[last]])


def _splits(
    embeddings: np.ndarray, assignment: np.ndarray, measured: _Measured, k: int, level: float, least: int, effect: float
) -> list[_Split]:
    """The significant splits, by cluster."""
    from scipy.stats import false_discovery_control

    count = np.bincount(measured.cluster, minlength=k)
    tested = []
    for cluster, members in _members(assignment, np.flatnonzero(count >= 2 * least)):
        at = np.flatnonzero(measured.cluster == cluster)
        second = _halves(embeddings, measured.rows[at], members)
        side = second[np.searchsorted(members, measured.rows[at])]
        if min(side.sum(), (~side).sum()) < least:
            continue
        difference, size, p = within_rounds(measured.loss[at], side, measured.epoch[at])
        if difference < 0:
            difference, size, second, side = -difference, -size, ~second, ~side
        tested.append(_Split(cluster, second, difference, size, p, (int((~side).sum()), int(side.sum()))))
    if not tested:
        return []
    adjusted = false_discovery_control([split.p for split in tested])
    return [split for split, p in zip(tested, adjusted, strict=True) if p <= level and split.effect >= effect]


def _members(assignment: np.ndarray, clusters: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each of `clusters` and its rows, ascending. O(n log n) time for all."""
    order = np.argsort(assignment, kind="stable")
    bounds = np.searchsorted(assignment[order], [clusters, clusters + 1])
    for cluster, start, stop in zip(clusters, *bounds, strict=True):
        yield int(cluster), order[start:stop]


def _halves(embeddings: np.ndarray, measured: np.ndarray, members: np.ndarray) -> np.ndarray:
    """(members,) bool, the half of each member: 2-means of the unit vectors of the `measured` rows; the others go to the nearer mean. It
    starts from the two sides of the first principal component (Su & Dy 2007, doi 10.3233/IDA-2007-11402), so it needs no seed and does not
    depend on the order."""
    from sklearn.cluster import KMeans

    vectors = unit(embeddings[measured])
    centred = vectors - vectors.mean(axis=0)
    side = centred @ np.linalg.svd(centred, full_matrices=False)[2][0] > 0
    if side.all() or not side.any():
        return np.zeros(len(members), dtype=bool)
    start = np.stack([vectors[~side].mean(axis=0), vectors[side].mean(axis=0)])
    kmeans = KMeans(2, init=start, n_init=1).fit(vectors)
    return np.concatenate([kmeans.predict(unit(embeddings[block])) for block in blocks(members)]) == 1


def _centroids(embeddings: np.ndarray | Vectors, assignment: np.ndarray, k: int) -> np.ndarray:
    """(k, d) mean of each cluster's unit vectors, scaled to unit length; zeros for an empty cluster."""
    from scipy.sparse import csr_matrix

    sums = np.zeros((k, embeddings.shape[1]), dtype=np.float64)
    for block in blocks(np.arange(len(assignment))):
        one, at = np.ones(len(block), dtype=np.float32), np.arange(len(block))
        sums += csr_matrix((one, (assignment[block], at)), shape=(k, len(block))) @ unit(embeddings[block])
    return unit(sums)


def _merges(centroids: np.ndarray, measured: _Measured, whole: np.ndarray, least: int, near: float) -> list[_Merge]:
    """Pairs of the unsplit clusters `whole` that may be merged, the nearest first."""
    cosine = centroids @ centroids.T
    np.fill_diagonal(cosine, -2.0)
    nearest = cosine.argmax(axis=1)
    found = []
    for a in whole:
        b = nearest[a]
        if a < b and nearest[b] == a and b in whole and cosine[a, b] >= near:
            losses = [_latest_losses(measured, c) for c in (a, b)]
            if min(map(len, losses)) >= least:
                means = losses[0].mean(), losses[1].mean()
                stderr = np.sqrt(sum(values.var(ddof=1) / len(values) for values in losses))
                if abs(means[0] - means[1]) <= stderr:
                    found.append(_Merge((int(a), int(b)), float(cosine[a, b]), means, stderr))
    return sorted(found, key=lambda pair: (-pair.cosine, pair.clusters))


def _latest_losses(measured: _Measured, cluster: int) -> np.ndarray:
    return measured.loss[(measured.cluster == cluster) & (measured.epoch == measured.epoch.max())]


def _relabelled(assignment: np.ndarray, k: int, splits: list[_Split], merges: list[_Merge]) -> Adapted:
    halved = {split.cluster: split for split in splits}
    into = {merge.clusters[1]: merge.clusters[0] for merge in merges}
    parent: list[tuple[int, ...]] = []
    new = np.zeros(k, dtype=np.int32)
    for old in range(k):
        if old in into:
            new[old] = new[into[old]]
            parent[new[old]] += (old,)
            continue
        new[old] = len(parent)
        parent += [(old,)] * (2 if old in halved else 1)
    result = new[assignment]
    for old, members in _members(assignment, np.array(sorted(halved), dtype=np.int64)):
        result[members] += halved[old].second
    return Adapted(
        result,
        parent,
        [Change((s.cluster,), (int(new[s.cluster]), int(new[s.cluster]) + 1), _why_split(s)) for s in splits],
        [Change(m.clusters, (int(new[m.clusters[0]]),), _why_merged(m)) for m in merges],
    )


def _why_split(split: _Split) -> str:
    low, high = split.counts
    return (
        f"cluster {split.cluster} split: the NLL of {high} measured in one half is {split.difference:.2f} above that of {low} in the other"
        f" ({split.effect:.1f} standard deviations, p {split.p:.1g})"
    )


def _why_merged(merge: _Merge) -> str:
    (a, b), (low, high) = merge.clusters, merge.means
    return (
        f"clusters {a} and {b} merged: cosine {merge.cosine:.2f}, NLL {low:.2f} and {high:.2f},"
        f" a difference within one standard error ({merge.stderr:.2f})"
    )
