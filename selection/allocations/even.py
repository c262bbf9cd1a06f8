"""Equal shares of all picks of the run, for groups that are more than a round's budget can serve."""

from __future__ import annotations

import numpy as np

from selection.allocate import Situation, Weights, allocation, largest_remainder


@allocation("even")
def even_allocation(situation: Situation) -> Weights:
    """The same share of all quotas of the run for every cluster. O(k log k) time.

    `uniform` forgets: with 400 clusters and 200 examples a round it would serve the same 200 clusters in every round. This one divides
    the quotas of all rounds so far alike, and gives what the rounds before did not. Their quotas are taken to be what was picked
    less the share that `explore` picks at random.
    """
    size, candidates = situation.size, situation.candidates
    spent = np.zeros(len(size))
    for entry in situation.past:
        known = min(len(size), len(entry.spent))
        spent[:known] += entry.spent[:known]
    alike = (size > 0).astype(np.float64)
    worth = candidates.tokens if situation.unit == "tokens" else np.ones(len(candidates))
    left = np.bincount(candidates.cluster, weights=worth, minlength=len(size))
    whole = (left + spent).astype(np.int64) * (
        size > 0
    )  # the same in every round, and so is which cluster a tie goes to
    before = min(round((1 - situation.strategy.explore) * float(spent.sum())), int(whole.sum()))
    after = min(before + situation.total, int(whole.sum()))
    missing = largest_remainder(alike, after, whole) - largest_remainder(alike, before, whole)
    weight = np.maximum(missing, 0).astype(np.float64)
    picked = (f", {amount:g} picked in earlier rounds" if situation.past else "" for amount in spent)
    reason = [f"the same share of the run as every group, {n} selectable{p}" for n, p in zip(size, picked, strict=True)]
    return Weights(weight if weight.any() else alike, reason)
