"""Divide a budget over clusters.

An allocation gives each cluster a weight and a reason. `largest_remainder` turns the weights into whole numbers that sum to the
budget and exceed no cluster's capacity. Further allocations are in selection/allocations/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from selection.candidates import Candidates, PastRound, Strategy
from selection.errors import SelectionError
from selection.evidence import Evidence, gather
from selection.losses import ClusterLosses, cluster_means
from selection.randomness import DRAW, keyed_draw


@dataclass(frozen=True)
class Situation:
    """The input of an allocation.

    `candidates`: sorted by key. `open_`: (n,) bool, candidates that quotas can take: not explored, not held back. `size`: (k,) their
    number. `capacity`: (k,) the most that each cluster's quota can be, in the budget's unit. `total`: the budget without what was
    explored, or the sum of all capacities if that is less. `past`: earlier rounds, oldest first. `distinct`: how distinct the
    clusters are, 0 to 1.
    """

    candidates: Candidates
    open_: np.ndarray
    size: np.ndarray
    losses: ClusterLosses
    unit: str
    capacity: np.ndarray
    total: int
    strategy: Strategy
    seed_parts: tuple[int, ...]
    past: tuple[PastRound, ...]
    distinct: float

    @property
    def amount(self) -> np.ndarray:
        """(k,) size of each cluster, in the budget's unit."""
        return self.size if self.unit == "examples" else self.capacity


@dataclass(frozen=True)
class Weights:
    """`weight`: (k,) float, of any scale, 0 for no quota. `reason`: k lines, one for each cluster, never empty: what was measured, in
    words. `formula`: k lines on how the weight follows, for readers who ask; empty where the reason says it all."""

    weight: np.ndarray
    reason: list[str]
    formula: list[str] = field(default_factory=list)


Weigh = Callable[[Situation], Weights]


@dataclass(frozen=True)
class Allocation:
    """An allocation and what it needs.

    `weigh`: gives the clusters' weights. `first_measured`: the first round in which it uses losses; None: never. `aims`: whether it needs
    embeddings of a target. `optional`: whether it also works without losses, if measuring would cost too much.
    """

    weigh: Weigh
    first_measured: int | None
    aims: bool = False
    optional: bool = False

    def uses_losses(self, number: int) -> bool:
        """Whether round `number` needs measured losses for it."""
        return self.first_measured is not None and number >= self.first_measured


ALLOCATIONS: dict[str, Allocation] = {}
"""Filled when `selection.registry` imports the modules of selection/allocations/; take it from there."""


def allocation(
    name: str, first_measured: int | None = None, aims: bool = False, optional: bool = False
) -> Callable[[Weigh], Weigh]:
    """Register an allocation under `name`.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Weigh) -> Weigh:
        """Add the function to ALLOCATIONS."""
        if name in ALLOCATIONS:
            raise ValueError(f"allocation {name!r} is registered twice")
        ALLOCATIONS[name] = Allocation(function, first_measured, aims, optional)
        return function

    return register


@allocation("random")
def random_allocation(situation: Situation) -> Weights:
    """A uniform draw from all candidates, counted by cluster, as if there were no clusters.

    The random picker makes the same draw, so the two together pick exactly its first examples. O(n log n) time.
    """
    candidates = situation.candidates
    rows = np.flatnonzero(situation.open_)
    draw = keyed_draw(candidates.keys[rows], *situation.seed_parts, DRAW)
    order = rows[np.argsort(draw, kind="stable")]
    unit = candidates.tokens[order] if situation.unit == "tokens" else np.ones(len(order), dtype=np.int64)
    within = _running_total(candidates.cluster[order], unit)
    order, unit = (values[within <= situation.capacity[candidates.cluster[order]]] for values in (order, unit))
    drawn = np.cumsum(unit) <= situation.total
    count = np.bincount(candidates.cluster[order[drawn]], minlength=candidates.clusters)
    weight = np.bincount(candidates.cluster[order[drawn]], weights=unit[drawn], minlength=candidates.clusters)
    reason = [
        f"{c} of {drawn.sum()} drawn from the whole pool, {n} selectable"
        for c, n in zip(count, situation.size, strict=True)
    ]
    return Weights(weight, reason)


@allocation("uniform")
def uniform_allocation(situation: Situation) -> Weights:
    """The same weight for every cluster, whatever its size. O(k) time."""
    size = situation.size
    return Weights((size > 0).astype(np.float64), [f"the same as every group, {n} selectable" for n in size])


@allocation("size")
def size_allocation(situation: Situation) -> Weights:
    """size ^ temperature, in the budget's unit: 1 keeps the pool's proportions, 0 is uniform. O(k) time.

    This is the temperature sampling of multilingual pretraining (arXiv 1911.02116, section 3.1).
    """
    amount, temperature = situation.amount, situation.strategy.temperature
    weight = np.where(situation.size > 0, np.maximum(amount, 1.0) ** temperature, 0.0)
    unit = " tokens" if situation.unit == "tokens" else ""
    return Weights(weight, [f"{n}{unit} selectable ^ {temperature:g}" for n in amount])


@allocation("loss", first_measured=1)
def loss_allocation(situation: Situation) -> Weights:
    """(expected mean NLL of the cluster under the current adapter) ^ temperature; equal weights if nothing is measured. O(n) time.

    `selection.losses.cluster_losses` gives the estimate. It follows the winner of the 2023 efficiency challenge on one 4090, who
    sampled a task more if the model scored low on it.
    """
    losses, temperature = situation.losses, situation.strategy.temperature
    level = np.where(situation.size > 0, np.nan_to_num(losses.expected, nan=1.0), 0.0)
    weight = np.where(situation.size > 0, np.maximum(level, 1e-9) ** temperature, 0.0)
    clusters = range(len(level))
    formula = [_loss_formula(losses, c) + _power(temperature) for c in clusters]
    return Weights(weight, [loss_reason(losses, c) for c in clusters], formula)


@allocation("confidence", first_measured=1)
def confidence_allocation(situation: Situation) -> Weights:
    """(1 - mean probability of the model's first choices in the cluster) ^ temperature, shrunk as losses are. O(n) time.

    Unlike loss it does not depend on the given answers, so wrong answers get no larger share.
    """
    candidates, temperature = situation.candidates, situation.strategy.temperature
    unsure = np.full(len(candidates), np.nan) if candidates.confidence is None else 1 - candidates.confidence
    found = cluster_means(candidates, unsure)
    level = np.where(situation.size > 0, np.nan_to_num(found.expected, nan=1.0), 0.0)
    weight = np.where(situation.size > 0, np.maximum(level, 1e-9) ** temperature, 0.0)
    reason = [
        f"unsure of {value:.0%} of its tokens ({m} measured)"
        if m
        else "nothing measured here; the average group's value"
        for value, m in zip(level, found.measured, strict=True)
    ]
    return Weights(weight, [text + _power(temperature) for text in reason])


@allocation("adaptive", first_measured=2, optional=True)
def adaptive_allocation(situation: Situation) -> Weights:
    """Each cluster's target share of all picks of the run, minus what earlier rounds picked of it. O(n) time.

    Suppose a cluster's loss follows a power law L(n) = L(1) n^-α in the number n of its examples. One more example then lowers it by
    about α L(n) / n, which is the same for all clusters if n is proportional to α L. So the target shares are

        size ^ (1 - d) · (loss ^ temperature · (fall / mean fall) ^ learn) ^ d

    loss: the cluster's current loss, shrunk (`selection.losses`). fall: α, the speed of its fall so far, shrunk (`selection.evidence`);
    the mean if unknown. d: how distinct the clusters are (`selection.cluster.distinctness`). Clusters that are kinds of task (d = 1) count
    alike, whatever their size. Clusters that cut a continuum (d = 0) get the pool's own shares, because over-sampling some would only
    distort it. The first round has no evidence on training, and losses of a model that does not know the tasks' form are not
    informative, so its shares depend on d alone.
    """
    size, amount, past, d = situation.size, situation.amount, situation.past, situation.distinct
    by_size = f"{_by_size(1 - d)} (cluster distinctness {d:.0%})"
    if not past or np.isnan(situation.losses.pool_mean):
        even = np.where(size > 0, np.maximum(amount, 1.0) ** (1 - d), 0.0)
        return Weights(
            even,
            [f"{'no losses to compare' if past else 'first round'}: quota {by_size}, {n} selectable" for n in size],
        )
    evidence, strategy = gather(past, situation.losses), situation.strategy
    even = np.where(size > 0, np.maximum(amount + evidence.spent, 1.0) ** (1 - d), 0.0)
    level = np.maximum(situation.losses.expected, 1e-9) ** strategy.temperature
    worth = even * (level * evidence.relative_fall**strategy.learn) ** d
    weight = _fill_up(worth, evidence.spent, situation.total)
    clusters = range(len(size))
    reason = [loss_reason(situation.losses, c, past) + _picked_before(evidence, c) for c in clusters]
    formula = [
        _loss_formula(situation.losses, c)
        + _power(strategy.temperature)
        + ("" if np.isnan(evidence.fall[c]) else f", speed of its fall {evidence.relative_fall[c]:.2f} × the mean")
        + f"; target share {by_size}; {evidence.spent[c]:g} picked in earlier rounds"
        for c in clusters
    ]
    return Weights(weight, reason, formula)


def _by_size(exponent: float) -> str:
    return "independent of size" if exponent == 0 else f"proportional to size^{exponent:.2g}"


def _fill_up(worth: np.ndarray, spent: np.ndarray, total: int) -> np.ndarray:
    """(k,) what to add to `spent` to bring the sums near to proportions of `worth`: max(0, s · worth - spent), where s makes the sum
    `total`. Zeros if no cluster has worth."""
    if not (worth > 0).any():
        return np.zeros(len(worth))
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(worth > 0, spent / worth, np.inf)
    order = np.argsort(level, kind="stable")
    heads, floor = np.cumsum(worth[order]), np.cumsum(spent[order])
    with np.errstate(divide="ignore", invalid="ignore"):
        s = (total + floor) / heads
    reaches = np.append(level[order][1:], np.inf)
    first = int(np.argmax(s <= reaches))
    return np.maximum(0.0, s[first] * worth - spent)


def _power(temperature: float) -> str:
    return "" if temperature == 1 else f" ^ {temperature:g}"


BAD, GOOD = 1.5, 0.67
"""Loss of a cluster, relative to the pool's mean, from which the model is called bad at it, and up to which good."""


def loss_reason(losses: ClusterLosses, c: int, past: Sequence[PastRound] = ()) -> str:
    """What was measured of cluster `c`, in words: its loss against the pool's, and what it was when first measured in `past`."""
    if np.isnan(losses.expected[c]):
        return "no example of the pool is measured; the same as every group"
    if losses.measured[c] == 0:
        return f"nothing measured here: taken as the average group, loss {losses.expected[c]:.2f}"
    loss = losses.mean[c]
    ratio = loss / losses.pool_mean if losses.pool_mean > 0 else 1.0
    bad = "still bad here" if past else "bad here"
    level = bad if ratio >= BAD else "good here" if ratio <= GOOD else "about as good here as elsewhere"
    return f"the model is {level}: loss {loss:.2f}, {ratio:.1f} × the pool's{_before(past, c, loss)}"


def _before(past: Sequence[PastRound], c: int, loss: float) -> str:
    """Between which losses the cluster moved since it was first measured; "" if it was not."""
    known = [
        (n, entry.loss[c]) for n, entry in enumerate(past, 1) if c < len(entry.loss) and not np.isnan(entry.loss[c])
    ]
    if not known:
        return ""
    number, first = known[0]
    if f"{first:.2f}" == f"{loss:.2f}":
        return f", unchanged since round {number}"
    return f", {'fell' if loss < first else 'rose'} from {first:.2f} since round {number}"


def _picked_before(evidence: Evidence, c: int) -> str:
    return f"; {evidence.spent[c]:g} picked in earlier rounds" if evidence.spent[c] else ""


def _loss_formula(losses: ClusterLosses, c: int) -> str:
    if np.isnan(losses.expected[c]):
        return "equal weights"
    ratio = losses.expected[c] / losses.pool_mean if losses.pool_mean > 0 else 1.0
    shrunk = f"{losses.expected[c]:.2f}, {ratio:.2f} × the pool's {losses.pool_mean:.2f}"
    if losses.measured[c] == 0:
        return f"NLL {shrunk}"
    error = f" ± {losses.stderr[c]:.2f}" if np.isfinite(losses.stderr[c]) else ""
    return f"NLL {losses.mean[c]:.2f}{error}, mean of {losses.measured[c]} measured, shrunk to {shrunk}"


def _running_total(group: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """(n,) running sum of `amount` inside each group, up to and including each row."""
    if not len(group):
        return np.empty(0, dtype=np.int64)
    order = np.argsort(group, kind="stable")
    total = np.cumsum(amount[order])
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
    before = np.repeat(total[starts] - amount[order][starts], np.diff(np.r_[starts, len(group)]))
    result = np.empty(len(group), dtype=np.int64)
    result[order] = total - before
    return result


def largest_remainder(weights: np.ndarray, total: int, capacity: np.ndarray) -> np.ndarray:
    """Whole numbers in proportion to `weights` that sum to `total`, none above its capacity (Hamilton's method).

    The part that a full cluster cannot take goes to the others in proportion to their weights. Clusters of weight 0 get a part only if
    all others are full, in proportion to capacity. Equal remainders go to the larger capacity, then to the lower index.

    Args:
        weights: (k,) float, 0 or more, finite.
        total: the sum to reach, 0 or more.
        capacity: (k,) int, 0 or more.

    Returns:
        (k,) int64.

    Raises:
        SelectionError: `total` exceeds the sum of the capacities, or a weight is negative or not finite.
    """
    weights, capacity = np.asarray(weights, dtype=np.float64), np.asarray(capacity, dtype=np.int64)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise SelectionError("allocation: expected finite weights of 0 or more.")
    if not 0 <= total <= capacity.sum():
        raise SelectionError(f"allocation: {total} exceed the {capacity.sum()} that all clusters hold together.")
    quota = np.zeros(len(weights), dtype=np.int64)
    for share in (weights, capacity.astype(np.float64)):
        room = capacity - quota
        active = (share > 0) & (room > 0)
        left = min(int(total - quota.sum()), int(room[active].sum()))
        quota += _divide(np.where(active, share, 0.0), left, np.where(active, room, 0))
    return quota


def _divide(weights: np.ndarray, total: int, capacity: np.ndarray) -> np.ndarray:
    quota = np.zeros(len(weights), dtype=np.int64)
    if total == 0:
        return quota
    open_ = weights > 0
    while True:
        left = total - int(quota.sum())
        ideal = np.where(open_, weights, 0.0)
        ideal = ideal / ideal.max()
        ideal *= left / ideal.sum()
        full = open_ & (ideal >= capacity)
        if not full.any():
            break
        quota[full] = capacity[full]
        open_ &= ~full
        if not open_.any():
            return quota
    base = np.floor(ideal).astype(np.int64)
    order = np.lexsort((np.arange(len(weights)), -capacity, -(ideal - base)))
    order = order[open_[order]]
    quota[open_] += base[open_]
    quota[order[: total - int(quota.sum())]] += 1
    return quota
