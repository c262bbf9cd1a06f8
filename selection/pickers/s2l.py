"""Loss trajectories in equal numbers."""

from __future__ import annotations

from selection.candidates import Strategy
from selection.pick import ClusterView, Ranking, picker, ranking_of
from selection.turns import trajectory_balanced

TRAJECTORIES = 100
"""S2L's clusters of loss trajectories (arXiv 2403.07384, section 5)."""


@picker("s2l", vectors=frozenset({"trajectory"}))
def s2l_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """The same number from every cluster of loss trajectories over earlier rounds; random if there are none yet."""
    found = trajectory_balanced(view.vectors("trajectory"), view.count, TRAJECTORIES, view.generator())
    return ranking_of(view, found, lambda value: f"one of {value:.0f} with a similar loss trajectory")
