"""High scores without near copies."""

from __future__ import annotations

from selection.candidates import Strategy
from selection.greedy import score_then_filter
from selection.pick import ClusterView, Ranking, picker, ranking_of

SIMILAR = 0.9
"""DEITA's threshold (arXiv 2312.15685, section 2.3)."""


@picker("deita", uses_score=True, vectors=frozenset({"embedding"}))
def deita_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Highest score first, without examples that are within cosine 0.9 of an earlier pick."""
    score = view.candidates.score[view.rows]
    found = score_then_filter(view.vectors("embedding"), score, view.count, SIMILAR)
    return ranking_of(view, found, lambda value: f"score {value:.3g}, cosine to the picks before at most {SIMILAR}")
