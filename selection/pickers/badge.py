"""Gradients far apart and long."""

from __future__ import annotations

import numpy as np

from selection.candidates import Strategy
from selection.greedy import k_means_plus_plus
from selection.pick import ClusterView, Ranking, picker, ranking_of


@picker("badge", vectors=frozenset({"gradient"}))
def badge_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """k-means++ over projected gradients: they are far apart, and long where the model is wrong (BADGE, arXiv 1906.03671).

    Stored gradients have unit length. Each is scaled by its example's NLL, to which the length is roughly proportional.
    """
    loss = np.nan_to_num(view.candidates.loss[view.rows], nan=0.0).astype(np.float32)
    found = k_means_plus_plus(view.vectors("gradient") * loss[:, None], view.count, view.generator())
    return ranking_of(
        view,
        found,
        lambda value: f"drawn by the squared distance {value:.2g} of its gradient to the picks before",
    )
