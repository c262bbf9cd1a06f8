"""Score and coverage together."""

from __future__ import annotations

from selection.candidates import Strategy
from selection.pick import ClusterView, Ranking, picker, ranking_of
from selection.submodular import quality_diversity

QUALITY = 0.5
"""Weight of quality in the paper's sum, whose diversity is not divided by the group's size."""


@picker("qdit", uses_score=True, vectors=frozenset({"embedding"}))
def qdit_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Greedy on the mean of quality (the rank of the score) and diversity (the gain of facility location)."""
    weight = QUALITY / (QUALITY + (1 - QUALITY) * len(view.rows))
    found = quality_diversity(view.vectors("embedding"), view.candidates.score[view.rows], view.count, weight)
    return ranking_of(view, found, lambda value: f"quality and diversity {value:.3g}")
