"""More to clusters whose loss falls fastest for what is spent on them."""

from __future__ import annotations

import numpy as np

from selection.allocate import Situation, Weights, allocation, loss_allocation
from selection.evidence import gather
from selection.randomness import DRAW


@allocation("learnability", first_measured=1)
def learnability_allocation(situation: Situation) -> Weights:
    """By how much a cluster's loss falls for what is spent on it: Thompson sampling (1933) over clusters, whose arms are the
    clusters and whose reward is the fall of loss per unit, known with the error that `selection.evidence` gives. In the
    first round: as `loss`; where earlier rounds tell nothing, every cluster alike. O(n)."""
    if len(situation.past) == 0:
        return loss_allocation(situation)
    evidence = gather(situation.past, situation.losses)
    rng = np.random.default_rng([*situation.seed_parts, DRAW])
    drawn = evidence.gain + evidence.gain_error * rng.standard_normal(len(situation.size))
    least = 0.05 * max(float(np.nanmean(np.maximum(evidence.gain, 0))), 1e-12)
    weight = np.where(situation.size > 0, np.maximum(drawn, least), 0.0)
    reason = [
        f"loss fell by {gain:.2g} ± {error:.1g} for each doubling of what it had, drawn {draw:.2g}"
        for gain, error, draw in zip(evidence.gain, evidence.gain_error, drawn, strict=True)
    ]
    return Weights(weight, reason)
