"""Examples far from each other."""

from __future__ import annotations

from selection.candidates import Strategy
from selection.greedy import k_center
from selection.pick import ClusterView, Ranking, picker, ranking_of


@picker("k_center", vectors=frozenset({"embedding"}))
def k_center_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Farthest first over embeddings, outliers last (`selection.greedy.k_center`)."""
    found = k_center(view.vectors("embedding"), view.count)
    return ranking_of(view, found, lambda value: f"the farthest from the picks before, distance {value:.2f},")
