"""Near-duplicates by cosine of embeddings.

Groups form around leaders (Hartigan 1975, chapter 3): examples come in order of preference, and each joins the nearest earlier leader
within the threshold, or becomes a leader. So every member is near its representative, and A–B–C never chain into one group if A and C
differ. No n × n matrix is formed.

Up to EXACT_UP_TO examples, every leader is compared; memory is a float32 copy of the leaders' vectors. Above, an inverted index finds
candidates by the first PROJECTED principal components in float16, and the exact cosines to the CANDIDATES nearest of them decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from selection.answers import Answered, joint_cosine, own_cosine
from selection.kmeans import k_means
from selection.randomness import derive_seed
from selection.shares import Shares
from selection.vectors import BLOCK, blocks, unit

if TYPE_CHECKING:
    from selection.candidates import Vectors

EXACT_UP_TO = 50_000
"""Up to this many examples, every leader is compared; above, only leaders in the neighbouring cells of an inverted index."""
PROJECTED, CANDIDATES = 96, 4
SLACK = 0.05
"""Candidates whose cosine by principal components is this far below the threshold are not compared exactly."""
INDEX_ITERATIONS, PER_CELL, INDEX_SHARE = 5, 32, 1 / 8
"""k-means of the index: iterations, examples per cell, and its share of the whole time, as the progress shows it."""
IN_BLOCK = 512
"""Examples that are compared with the leaders together, and with each other; that takes the square of it."""
PLACED = 4096
"""Examples whose nearest cells are found together: faiss takes twice as long for each of them in blocks of less than 2,048."""


@dataclass(frozen=True)
class Groups:
    """`representative`: (n,) int64, the leader of each row; a leader is its own. `cosine`: (n,) float32 to the representative."""

    representative: np.ndarray
    cosine: np.ndarray


def near_duplicate_groups(
    embeddings: np.ndarray,
    preference: np.ndarray,
    threshold: float,
    neighbours: int,
    progress: Callable[[int], None] = lambda n: None,
    answers: np.ndarray | None = None,
) -> Groups:
    """Group near-duplicates around leaders.

    Args:
        embeddings: (n, d) float, may be memory-mapped.
        preference: (n,) int; rows with a lower value can lead rows with a higher one, ties by row.
        threshold: lowest cosine at which a row joins a leader.
        neighbours: cells to search above `EXACT_UP_TO` rows (faiss' nprobe).
        progress: called with the number of rows just processed.
        answers: (n,) uint64 of `answers.answer_codes`; a row with a short answer joins leaders with the same one alone.
    """
    if answers is not None:
        joint = Answered(embeddings, answers)
        return _by_embedding(near_duplicate_groups(joint, preference, joint_cosine(threshold), neighbours, progress))
    n, exact = len(embeddings), len(embeddings) <= EXACT_UP_TO
    order = np.argsort(preference, kind="stable")
    representative, cosine = np.arange(n), np.ones(n, dtype=np.float32)
    advance = Shares(n, progress)
    leaders: _AllLeaders | _IndexedLeaders = _AllLeaders(*embeddings.shape)
    if not exact:
        leaders = _IndexedLeaders(embeddings, threshold, neighbours, lambda share: advance(share * INDEX_SHARE))
        advance.upto(INDEX_SHARE)
    weight = 1.0 if exact else 1 - INDEX_SHARE
    for many in blocks(order, PLACED):
        placed = leaders.place(unit(embeddings[many]), many)
        for part in blocks(np.arange(len(many)), IN_BLOCK):
            block = placed.of(part)
            best, leader = leaders.nearest(block)
            new = _lead_within(block.vectors, block.rows, best, leader, threshold)
            member = np.setdiff1d(np.arange(len(part)), new)
            joined = block.rows[member]
            representative[joined], cosine[joined] = leader[member], np.minimum(best[member], 1.0)
            leaders.add(block.of(new))
            advance(len(part) / n * weight)
    advance.upto(1.0)
    return Groups(representative, cosine)


def _by_embedding(found: Groups) -> Groups:
    """Groups of `Answered` vectors with the cosines of the embeddings."""
    return Groups(found.representative, own_cosine(found.cosine))


def _lead_within(
    vectors: np.ndarray, rows: np.ndarray, best: np.ndarray, leader: np.ndarray, threshold: float
) -> np.ndarray:
    """Positions of a block's new leaders. Updates the block's `best` and `leader` in place."""
    cosines = vectors @ vectors.T
    alike = np.triu(cosines >= threshold, 1)
    for i in np.flatnonzero(alike.any(axis=1)):
        if best[i] < threshold:
            closer = np.flatnonzero(alike[i] & (cosines[i] > best))
            best[closer], leader[closer] = cosines[i][closer], rows[i]
    return np.flatnonzero(best < threshold)


@dataclass(frozen=True)
class _Placed:
    """Unit vectors (k, d) of the rows (k,), and what an index needs of them: `projected` (k, p) unit vectors of principal components,
    their nearest `cells` (k, c) int64, the nearest first, and the squared `distance` (k, c) to these."""

    vectors: np.ndarray
    rows: np.ndarray
    projected: np.ndarray
    cells: np.ndarray
    distance: np.ndarray

    def of(self, at: np.ndarray) -> _Placed:
        """Some of them, by position."""
        return _Placed(*(np.ascontiguousarray(array[at]) for array in vars(self).values()))


class _AllLeaders:
    """Leaders that are all compared."""

    def __init__(self, most: int, dimensions: int):
        import faiss

        self._index, self._rows = faiss.IndexFlatIP(dimensions), np.empty(most, dtype=np.int64)

    def place(self, vectors: np.ndarray, rows: np.ndarray) -> _Placed:
        """Prepare unit vectors (k, d) of the rows (k,) for `nearest` and `add`."""
        nothing = np.empty((len(rows), 0))
        return _Placed(vectors, rows, nothing, nothing, nothing)

    def add(self, new: _Placed) -> None:
        """Add leaders."""
        first = self._index.ntotal
        self._index.add(new.vectors)
        self._rows[first : self._index.ntotal] = new.rows

    def nearest(self, block: _Placed) -> tuple[np.ndarray, np.ndarray]:
        """Cosine of each vector to the nearest leader, and the leader's row; -1 for both if there is none."""
        if not self._index.ntotal:
            return _none(len(block.rows))
        cosine, at = self._index.search(block.vectors, 1)
        return cosine[:, 0], self._rows[at[:, 0]]


class _IndexedLeaders:
    """Leaders in an inverted index, which searches the nearest `neighbours` cells."""

    def __init__(
        self,
        embeddings: np.ndarray,
        threshold: float,
        neighbours: int,
        progress: Callable[[float], None],
    ):
        import faiss

        n = len(embeddings)
        cells = int(4 * np.sqrt(n))
        seed = derive_seed(n, cells)
        draw = np.sort(np.random.default_rng(seed).choice(n, size=min(n, PER_CELL * cells), replace=False))
        sample = unit(embeddings[draw])
        self._axes = _principal_axes(sample)
        centres, _ = k_means(
            sample @ self._axes, cells, INDEX_ITERATIONS, spherical=False, seed=seed, progress=progress
        )
        self._cells, self._probes = faiss.IndexFlatL2(centres.shape[1]), min(neighbours, cells)
        self._cells.add(centres)
        self._index = faiss.IndexIVFScalarQuantizer(
            self._cells, centres.shape[1], cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        self._index.train(centres)
        self._index.nprobe = self._probes
        self._embeddings, self._least = embeddings, threshold - SLACK
        self._rows = np.empty(n, dtype=np.int64)

    def place(self, vectors: np.ndarray, rows: np.ndarray) -> _Placed:
        """As `_AllLeaders.place`: the principal components, and the cells to search."""
        projected = unit(vectors @ self._axes)
        distance, cells = self._cells.search(projected, self._probes)
        return _Placed(vectors, rows, projected, cells, distance)

    def add(self, new: _Placed) -> None:
        """As `_AllLeaders.add`."""
        from faiss import swig_ptr

        first, count = self._index.ntotal, len(new.rows)
        place, cell = np.arange(first, first + count), np.ascontiguousarray(new.cells[:, 0])
        self._index.add_core(count, swig_ptr(new.projected), swig_ptr(place), swig_ptr(cell))
        self._rows[first : first + count] = new.rows

    def nearest(self, block: _Placed) -> tuple[np.ndarray, np.ndarray]:
        """As `_AllLeaders.nearest`, of the leaders that the index finds within SLACK of the threshold."""
        best, leader = _none(len(block.rows))
        if not self._index.ntotal:
            return best, leader
        likeness, at = self._index.search_preassigned(block.projected, CANDIDATES, block.cells, block.distance)
        some, which = np.nonzero((at >= 0) & (likeness >= self._least))
        rows = self._rows[at[some, which]]
        exact = np.einsum("kd,kd->k", block.vectors[some], unit(self._embeddings[rows]))
        order = np.lexsort((rows, -exact, some))
        some, rows, exact = some[order], rows[order], exact[order]
        first = np.flatnonzero(np.diff(some, prepend=-1))
        best[some[first]], leader[some[first]] = exact[first], rows[first]
        return best, leader


def _none(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows where no leader is found."""
    return np.full(count, -1.0, dtype=np.float32), np.full(count, -1, dtype=np.int64)


def _principal_axes(sample: np.ndarray) -> np.ndarray:
    """(d, PROJECTED) float32: the first principal axes of unit vectors, not centred, rounded so that the number of threads changes no
    bit; all dimensions as they are if there are no more."""
    d = sample.shape[1]
    if d <= PROJECTED:
        return np.eye(d, dtype=np.float32)
    _, axes = np.linalg.eigh(sum(unit(part).T.astype(np.float64) @ unit(part) for part in blocks(sample)))
    axes = axes[:, : -PROJECTED - 1 : -1]
    return (np.rint(axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(PROJECTED)]) * 2**16) / 2**16).astype(
        np.float32
    )


def near(
    embeddings: np.ndarray | Vectors, others: np.ndarray, progress: Callable[[int], None] = lambda n: None
) -> tuple[np.ndarray, np.ndarray]:
    """For each row, the exact nearest row of `others` by cosine.

    Args:
        embeddings: (n, d) float, may be memory-mapped. others: (m, d) float, m ≥ 1.
        progress: called with the number of rows just compared.

    Returns:
        (n,) int64 index into `others`, (n,) float32 cosine.
    """
    import faiss

    index = faiss.IndexFlatIP(others.shape[1])
    index.add(unit(others))
    at, cosine = np.empty(len(embeddings), dtype=np.int64), np.empty(len(embeddings), dtype=np.float32)
    for rows in blocks(np.arange(len(embeddings)), BLOCK):
        found, where = index.search(unit(embeddings[rows]), 1)
        at[rows], cosine[rows] = where[:, 0], np.minimum(found[:, 0], 1.0)
        progress(len(rows))
    return at, cosine


GROWN_UP_TO = 8192
"""Above `EXACT_UP_TO` examples, at most so many are compared with every leader when a pool has grown; grouping all again is then faster."""
ROUNDING = 1e-6
"""By which the same cosine differs when another product computes it."""


def grow_groups(
    embeddings: np.ndarray,
    preference: np.ndarray,
    threshold: float,
    known: Groups,
    progress: Callable[[int], None] = lambda n: None,
    answers: np.ndarray | None = None,
) -> Groups | None:
    """The groups of `near_duplicate_groups` for a pool that has grown, where only new examples are compared with all leaders.

    A leader stays one unless a new example that comes before it in the order of preference is within the threshold. Then it, and what
    joined it, are decided again like new examples. All others keep their leader, or join a new leader that is nearer and comes first.
    O((m + l) · n · d) time for m new examples and l that are decided again, all cosines exact.

    Args:
        embeddings: (n, d) of the whole pool, as for `near_duplicate_groups`; so are the next two.
        preference: (n,).
        threshold: cosine.
        known: groups of the earlier examples in rows of the whole pool; `representative` is -1 for new examples. Earlier examples must
            have had the same order of preference among themselves.
        progress: called with numbers of new examples, m in total.
        answers: (n,), as `known` was made with.

    Returns:
        None if there are more than `GROWN_UP_TO` examples to decide, and all to be grouped again are faster.
    """
    if answers is not None:
        joint, then = Answered(embeddings, answers), Groups(known.representative, joint_cosine(known.cosine))
        grown = grow_groups(joint, preference, joint_cosine(threshold), then, progress)
        return None if grown is None else _by_embedding(grown)
    n, added = len(embeddings), int((known.representative < 0).sum())
    position = np.empty(n, dtype=np.int64)
    position[np.argsort(preference, kind="stable")] = np.arange(n)
    undecided = _undecided(embeddings, known.representative, position, threshold)
    if undecided.sum() > GROWN_UP_TO and n > EXACT_UP_TO:
        return None
    advance = Shares(added, progress)
    representative, cosine = known.representative.copy(), known.cosine.copy()
    settled = np.flatnonzero((representative == np.arange(n)) & ~undecided)
    rows = np.flatnonzero(undecided)
    rows = rows[np.argsort(position[rows])]
    leaders = _AllLeaders(len(rows), embeddings.shape[1])
    for some in blocks(rows, IN_BLOCK):
        block = leaders.place(unit(embeddings[some]), some)
        best, leader = _nearest_before(embeddings, some, settled, position)
        among_new = leaders.nearest(block)
        nearer = among_new[0] > best
        best[nearer], leader[nearer] = among_new[0][nearer], among_new[1][nearer]
        new = _lead_within(block.vectors, some, best, leader, threshold)
        representative[some], cosine[some] = leader, np.minimum(best, 1.0)
        representative[some[new]], cosine[some[new]] = some[new], 1.0
        leaders.add(block.of(new))
        advance(len(some) / len(rows))
    _join_nearer(
        embeddings, representative, cosine, ~undecided, rows[representative[rows] == rows], position, threshold
    )
    advance.upto(1.0)
    return Groups(representative, cosine)


def _undecided(embeddings: np.ndarray, known: np.ndarray, position: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) bool: new examples, leaders that one of these comes before and is near to, and what joined those leaders."""
    result = known < 0
    leads, fresh = known == np.arange(len(known)), np.flatnonzero(result)
    while len(fresh):
        asked = np.flatnonzero(leads & ~result & (position > position[fresh].min()))
        best, _ = _nearest_before(embeddings, asked, fresh, position)
        lost = np.isin(known, asked[best >= threshold - ROUNDING])
        fresh = np.flatnonzero(lost & ~result)
        result |= lost
    return result


def _join_nearer(
    embeddings: np.ndarray,
    representative: np.ndarray,
    cosine: np.ndarray,
    decided: np.ndarray,
    leaders: np.ndarray,
    position: np.ndarray,
    threshold: float,
) -> None:
    """Move `decided` members to those of `leaders` that come before them and are nearer than their own. Changes `representative` and
    `cosine` in place."""
    if not len(leaders):
        return
    member = decided & (representative != np.arange(len(representative))) & (position > position[leaders].min())
    for rows in blocks(np.flatnonzero(member), IN_BLOCK):
        best, leader = _nearest_before(embeddings, rows, leaders, position)
        nearer = (best >= threshold) & (best > cosine[rows] + ROUNDING)
        representative[rows[nearer]], cosine[rows[nearer]] = leader[nearer], np.minimum(best[nearer], 1.0)


def _nearest_before(
    embeddings: np.ndarray, rows: np.ndarray, leaders: np.ndarray, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `_AllLeaders.nearest` for each of `rows`, among the `leaders` that come before it. Reads both in blocks."""
    best, leader = _none(len(rows))
    leaders = leaders[np.argsort(position[leaders])]
    for places in blocks(np.arange(len(rows)), IN_BLOCK):
        vectors, own = unit(embeddings[rows[places]]), position[rows[places]]
        for others in blocks(leaders[: np.searchsorted(position[leaders], own.max())], BLOCK):
            cosines = vectors @ unit(embeddings[others]).T
            if position[others[-1]] > own.min():
                cosines[position[others] > own[:, None]] = -1.0
            at = cosines.argmax(axis=1)
            found = cosines[np.arange(len(places)), at]
            nearer = places[found > best[places]]
            best[nearer], leader[nearer] = found[found > best[places]], others[at[found > best[places]]]
    return best, leader
