"""How a budget is divided over clusters.

An allocation gives each cluster a weight and says why; `largest_remainder` turns weights into whole numbers that sum to the
budget and ask no cluster for more than it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selection.candidates import Budget, Candidates, Strategy
from selection.errors import SelectionError
from selection.losses import ClusterLosses
from selection.randomness import DRAW, keyed_draw


@dataclass(frozen=True)
class Situation:
    """What an allocation may look at. `capacity` (k,): what each cluster can surely give, in the budget's unit.

    `total`: the budget, or all there is if that is less. The candidates are sorted by key.
    """

    candidates: Candidates
    losses: ClusterLosses
    budget: Budget
    capacity: np.ndarray
    total: int
    strategy: Strategy
    seed_parts: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """Weight of each cluster (k,), of any scale, 0 for a cluster that gets nothing; and one reason for each."""

    weight: np.ndarray
    reason: list[str]


Allocation = Callable[[Situation], Weights]
ALLOCATIONS: dict[str, Allocation] = {}


def allocation(name: str) -> Callable[[Allocation], Allocation]:
    """Register an allocation under `name`."""

    def register(function: Allocation) -> Allocation:
        ALLOCATIONS[name] = function
        return function

    return register


@allocation("random")
def random_allocation(situation: Situation) -> Weights:
    """As if there were no clusters: a uniform draw from all candidates, counted by cluster.

    The draw is the one the random picker makes, so the two together pick exactly its first examples. O(n log n).
    """
    candidates = situation.candidates
    draw = keyed_draw(candidates.keys, *situation.seed_parts, DRAW)
    order = np.argsort(draw, kind="stable")
    unit = candidates.tokens[order] if situation.budget.unit == "tokens" else np.ones(len(order), dtype=np.int64)
    within = _running_total(candidates.cluster[order], unit)
    order, unit = (values[within <= situation.capacity[candidates.cluster[order]]] for values in (order, unit))
    drawn = np.cumsum(unit) <= situation.total
    count = np.bincount(candidates.cluster[order[drawn]], minlength=candidates.clusters)
    weight = np.bincount(candidates.cluster[order[drawn]], weights=unit[drawn], minlength=candidates.clusters)
    size = situation.losses.size
    reason = [
        f"{c} of {drawn.sum()} drawn from the whole pool, {n} selectable" for c, n in zip(count, size, strict=True)
    ]
    return Weights(weight, reason)


@allocation("uniform")
def uniform_allocation(situation: Situation) -> Weights:
    """Every cluster alike, whatever its size. O(k)."""
    size = situation.losses.size
    return Weights((size > 0).astype(np.float64), [f"as every cluster, {n} selectable" for n in size])


@allocation("size")
def size_allocation(situation: Situation) -> Weights:
    """Number of candidates ^ temperature: 1 keeps the pool's proportions, 0 is uniform (temperature sampling of multilingual
    pretraining, arXiv 1911.02116, section 3.1). O(k)."""
    size, temperature = situation.losses.size, situation.strategy.temperature
    weight = np.where(size > 0, np.maximum(size, 1.0) ** temperature, 0.0)
    return Weights(weight, [f"{n} selectable ^ {temperature:g}" for n in size])


@allocation("loss")
def loss_allocation(situation: Situation) -> Weights:
    """Expected mean NLL of the cluster under the current adapter ^ temperature; the estimate is shrunk as
    `selection.losses.cluster_losses` says. In the manner of the 2023 efficiency challenge's winner on one 4090, who sampled
    the tasks more where the model scored low. Equal weights if nothing is measured. O(n)."""
    losses, temperature = situation.losses, situation.strategy.temperature
    level = np.where(losses.size > 0, np.nan_to_num(losses.expected, nan=1.0), 0.0)
    weight = np.where(losses.size > 0, np.maximum(level, 1e-9) ** temperature, 0.0)
    power = "" if temperature == 1 else f" ^ {temperature:g}"
    return Weights(weight, [_loss_reason(losses, c) + power for c in range(len(level))])


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


def _running_total(group: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """(n,) sum of `amount` up to and with each row over the rows of the same group."""
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
