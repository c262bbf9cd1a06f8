"""Examples that cover the cluster."""

from __future__ import annotations

from selection.candidates import Strategy
from selection.pick import ClusterView, Ranking, picker, ranking_of
from selection.submodular import facility_location


@picker("facility_location", vectors=frozenset({"embedding"}))
def facility_location_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """What makes every example of the cluster have a similar one among the picks, greedily."""
    found = facility_location(view.vectors("embedding"), view.count)
    return ranking_of(view, found, lambda value: f"covers {value:.4f} more of the cluster")
