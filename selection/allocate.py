"""How a budget is divided over clusters.

An allocation gives each cluster a weight and says why; `largest_remainder` turns weights into whole numbers that sum to the
budget and ask no cluster for more than it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selection.candidates import Candidates, PastRound, Strategy
from selection.errors import SelectionError
from selection.evidence import Evidence, gather
from selection.losses import ClusterLosses, cluster_means
from selection.randomness import DRAW, keyed_draw


@dataclass(frozen=True)
class Situation:
    """What an allocation may look at.

    `open_` (n,) bool: candidates that quotas are for (not explored, not held back). `size` (k,): how many of them. `capacity`
    (k,): what each cluster can surely give, in the budget's unit. `total`: the budget that is left, or all there is if that is
    less. `past`: earlier rounds. `distinct`: how far clusters are kinds of example, 0 to 1. The candidates are sorted by key.
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
        """(k,) what each cluster holds, in the budget's unit."""
        return self.size if self.unit == "examples" else self.capacity


@dataclass(frozen=True)
class Weights:
    """Weight of each cluster (k,), of any scale, 0 for a cluster that gets nothing; and one reason for each."""

    weight: np.ndarray
    reason: list[str]


Weigh = Callable[[Situation], Weights]


@dataclass(frozen=True)
class Allocation:
    """`weigh` gives the clusters' weights. `first_measured`: the first round in which it looks at losses; None: never. `aims`:
    whether it needs embeddings of a target. `optional`: whether it makes do without losses where measuring would not pay."""

    weigh: Weigh
    first_measured: int | None
    aims: bool = False
    optional: bool = False

    def looks_at_losses(self, number: int) -> bool:
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
        if name in ALLOCATIONS:
            raise ValueError(f"allocation {name!r} is registered twice")
        ALLOCATIONS[name] = Allocation(function, first_measured, aims, optional)
        return function

    return register


@allocation("random")
def random_allocation(situation: Situation) -> Weights:
    """As if there were no clusters: a uniform draw from all candidates, counted by cluster.

    The draw is the one the random picker makes, so the two together pick exactly its first examples. O(n log n).
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
    """Every cluster alike, whatever its size. O(k)."""
    size = situation.size
    return Weights((size > 0).astype(np.float64), [f"as every cluster, {n} selectable" for n in size])


@allocation("size")
def size_allocation(situation: Situation) -> Weights:
    """What a cluster holds, in the budget's unit, ^ temperature: 1 keeps the pool's proportions, 0 is uniform (temperature sampling
    of multilingual pretraining, arXiv 1911.02116, section 3.1). O(k)."""
    amount, temperature = situation.amount, situation.strategy.temperature
    weight = np.where(situation.size > 0, np.maximum(amount, 1.0) ** temperature, 0.0)
    unit = " tokens" if situation.unit == "tokens" else ""
    return Weights(weight, [f"{n}{unit} selectable ^ {temperature:g}" for n in amount])


@allocation("loss", first_measured=1)
def loss_allocation(situation: Situation) -> Weights:
    """Expected mean NLL of the cluster under the current adapter ^ temperature; the estimate is shrunk as
    `selection.losses.cluster_losses` says. In the manner of the 2023 efficiency challenge's winner on one 4090, who sampled
    the tasks more where the model scored low. Equal weights if nothing is measured. O(n)."""
    losses, temperature = situation.losses, situation.strategy.temperature
    level = np.where(situation.size > 0, np.nan_to_num(losses.expected, nan=1.0), 0.0)
    weight = np.where(situation.size > 0, np.maximum(level, 1e-9) ** temperature, 0.0)
    return Weights(weight, [_loss_reason(losses, c) + _power(temperature) for c in range(len(level))])


@allocation("confidence", first_measured=1)
def confidence_allocation(situation: Situation) -> Weights:
    """How unsure the model is of its first choices in a cluster (one minus their mean probability, shrunk as losses are)
    ^ temperature: by what it does not know, whatever the answers say, so that wrong answers do not attract. O(n)."""

    candidates, temperature = situation.candidates, situation.strategy.temperature
    unsure = np.full(len(candidates), np.nan) if candidates.confidence is None else 1 - candidates.confidence
    found = cluster_means(candidates, unsure)
    level = np.where(situation.size > 0, np.nan_to_num(found.expected, nan=1.0), 0.0)
    weight = np.where(situation.size > 0, np.maximum(level, 1e-9) ** temperature, 0.0)
    reason = [
        f"unsure of {value:.0%} of its tokens ({m} measured)" if m else "nothing measured here; as the average cluster"
        for value, m in zip(level, found.measured, strict=True)
    ]
    return Weights(weight, [text + _power(temperature) for text in reason])


@allocation("adaptive", first_measured=2, optional=True)
def adaptive_allocation(situation: Situation) -> Weights:
    """What each cluster should have had by the end of this round, less what it has had.

    With a power law L(n) = L(1) n^-α for a cluster's loss after n examples, an example more is worth about α L(n) / n, and that is the
    same everywhere when n is in proportion to α L. So the shares of all that is picked in the end are

        size ^ (1 - d) · (loss ^ temperature · (fall / mean fall) ^ learn) ^ d

    loss: the cluster's now, shrunk (`selection.losses`); fall: α, how fast it fell so far, shrunk (`selection.evidence`), 1 of the mean
    where nothing is known; d: how distinct the clusters are (`selection.cluster.distinctness`). Where they are kinds of task every one
    counts alike whatever its size; where they are cuts through a continuum, which over-sampling would only distort, the shares are
    those of the pool, as at random. In the first round nothing is known of what training changes, and losses of a model
    that does not know the tasks' form yet say little: the shares go by d alone. O(n).
    """
    size, amount, past, d = situation.size, situation.amount, situation.past, situation.distinct
    kind = f"clusters {d:.0%} distinct: {_size_counts(1 - d)}"
    if not past or np.isnan(situation.losses.pool_mean):
        even = np.where(size > 0, np.maximum(amount, 1.0) ** (1 - d), 0.0)
        return Weights(even, [f"nothing learned yet; {kind}, {n} selectable" for n in size])
    evidence, strategy = gather(past, situation.losses), situation.strategy
    even = np.where(size > 0, np.maximum(amount + evidence.spent, 1.0) ** (1 - d), 0.0)
    level = np.maximum(situation.losses.expected, 1e-9) ** strategy.temperature
    worth = even * (level * evidence.relative_fall**strategy.learn) ** d
    weight = _fill_up(worth, evidence.spent, situation.total)
    reason = [
        _loss_reason(situation.losses, c)
        + _power(strategy.temperature)
        + _fall_reason(evidence, c)
        + f"; {kind}; had {evidence.spent[c]:g} so far"
        for c in range(len(size))
    ]
    return Weights(weight, reason)


def _size_counts(exponent: float) -> str:
    """How the size of a cluster counts, in words."""
    return "size does not count" if exponent == 0 else f"size ^ {exponent:.2g} counts"


def _fill_up(worth: np.ndarray, spent: np.ndarray, total: int) -> np.ndarray:
    """(k,) what to add to `spent` so that all together is in proportion to `worth`, as far as `total` goes and nothing is taken
    back: max(0, s · worth - spent) with the s at which it sums to `total`; nothing where nothing has worth."""
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


def _loss_reason(losses: ClusterLosses, c: int) -> str:
    if np.isnan(losses.expected[c]):
        return "no example of the pool is measured; as every cluster"
    ratio = f"{losses.expected[c] / losses.pool_mean:.2f} × the pool's" if losses.pool_mean > 0 else "as the pool's"
    if losses.measured[c] == 0:
        return f"nothing measured here; expected NLL {losses.expected[c]:.2f} as of the average cluster, {ratio}"
    error = f" ± {losses.stderr[c]:.2f}" if np.isfinite(losses.stderr[c]) else ""
    return (
        f"mean NLL {losses.mean[c]:.2f}{error} over {losses.measured[c]} measured, "
        f"shrunk to {losses.expected[c]:.2f}, {ratio}"
    )


def _fall_reason(evidence: Evidence, c: int) -> str:
    if np.isnan(evidence.fall[c]):
        return ""
    return (
        f", fell by {evidence.fall[c]:.0%} ± {evidence.fall_error[c]:.0%} at each doubling, "
        f"counted as {evidence.relative_fall[c]:.2f} × the mean"
    )


def _running_total(group: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """(n,) sum of `amount` up to and with each row over the rows of the same group."""
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

    What a full cluster cannot take goes to the others in proportion to their weights; clusters of weight 0 get something only
    when all others are full, then in proportion to capacity. Remainders tie by larger capacity, then lower index.

    Args:
        weights: (k,) float, 0 or more, finite.
        total: what to divide, 0 or more.
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
        raise SelectionError(
            f"allocation: {total} cannot be divided over clusters that hold {capacity.sum()} together."
        )
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
