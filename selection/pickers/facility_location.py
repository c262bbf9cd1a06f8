"""Examples that cover the cluster."""

from __future__ import annotations

from selection.candidates import Strategy
from selection.pick import ClusterView, Ranking, picker, ranking_of
from selection.submodular import facility_location


@picker("facility_location", vectors=frozenset({"embedding"}))
def facility_location_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Greedy coverage: every example of the cluster gets a similar one among the picks (`selection.submodular`)."""
    found = facility_location(view.stored_vectors("embedding"), view.count)
    return ranking_of(view, found, lambda value: f"raises the group's coverage by {value:.4f}")
