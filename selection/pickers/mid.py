"""The middle of the scores; with `rising`, a band that moves up in every round."""

from __future__ import annotations

import numpy as np

from selection.candidates import Strategy
from selection.pick import ClusterView, Ranking, picker, then_the_rest


@picker("mid", uses_score=True)
def mid_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Random inside a band of `mid_band` quantiles around the cluster's median score, then outwards. Unmeasured come last.

    With `rising` the band moves up in every round (a curriculum: Bengio et al. 2009). O(m log m) time.
    """
    score = view.candidates.score[view.rows]
    measured = np.flatnonzero(~np.isnan(score))
    quantile = np.empty(len(measured))
    quantile[np.argsort(score[measured], kind="stable")] = (np.arange(len(measured)) + 0.5) / max(len(measured), 1)
    half = strategy.mid_band / 2
    centre = min(1 - 1 / (view.seed_parts[-1] + 1), 1 - half) if strategy.rising else 0.5
    distance = np.maximum(np.abs(quantile - centre) - half, 0.0)
    outward = np.argsort(distance, kind="stable")
    order = measured[outward]

    def explain(i: int) -> str:
        """The quantile, and whether it is in the band."""
        if i >= len(order):
            return "random, no one with a score is left"
        where = "in" if distance[outward[i]] == 0 else "nearest outside"
        low, high = max(centre - half, 0.0), min(centre + half, 1.0)
        return f"quantile {quantile[outward[i]]:.2f} of {len(measured)} measured, {where} {low:.0%} to {high:.0%}"

    return Ranking(then_the_rest(order, len(view.rows)), explain)
