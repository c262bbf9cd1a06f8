"""More for clusters whose loss falls fastest per amount spent on them."""

from __future__ import annotations

import numpy as np

from selection.allocate import Situation, Weights, allocation, loss_allocation, loss_reason
from selection.evidence import gather
from selection.randomness import DRAW


@allocation("learnability", first_measured=1)
def learnability_allocation(situation: Situation) -> Weights:
    """Thompson sampling (1933): the arms are the clusters, the reward is the fall of loss per doubling of what a cluster had. O(n) time.

    `selection.evidence` estimates the reward and its error. The first round is as `loss`; without evidence all clusters have the
    same chance.
    """
    if len(situation.past) == 0:
        return loss_allocation(situation)
    evidence = gather(situation.past, situation.losses)
    rng = np.random.default_rng([*situation.seed_parts, DRAW])
    drawn = evidence.gain + evidence.gain_error * rng.standard_normal(len(situation.size))
    least = 0.05 * max(float(np.nanmean(np.maximum(evidence.gain, 0))), 1e-12)
    weight = np.where(situation.size > 0, np.maximum(drawn, least), 0.0)
    reason = [loss_reason(situation.losses, c, situation.past) for c in range(len(weight))]
    formula = [
        f"by a line through all rounds the loss changes by {0 - gain:+.2g} ± {error:.1g} nats per doubling of its picks, "
        f"apart from what all groups gain; drawn {0 - draw:+.2g}"
        for gain, error, draw in zip(evidence.gain, evidence.gain_error, drawn, strict=True)
    ]
    return Weights(weight, reason, formula)
