"""The highest scores of each length."""

from __future__ import annotations

import numpy as np

from selection.candidates import Strategy
from selection.pick import ClusterView, Ranking, picker, then_the_rest


@picker("top", uses_score=True)
def top_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Highest score first inside each quantile bin of length; the bins take turns in proportion to their size. Unmeasured come last.

    Without the bins, scores per token favour short examples. The first bin is random, because quotas smaller than the number of
    bins would otherwise always go to the shortest. The tail cut has removed likely noise before. O(m log m) time.
    """
    score = view.candidates.score[view.rows]
    measured = np.flatnonzero(~np.isnan(score))
    lengths = view.candidates.tokens[view.rows[measured]]
    bins = _quantile_bins(lengths, strategy.length_bins)
    by_score = np.lexsort((-score[measured], bins))
    size = np.bincount(bins, minlength=strategy.length_bins)
    rank = np.arange(len(measured)) - (np.cumsum(size) - size)[bins[by_score]]
    random_place = (by_score + 0.5) / max(len(measured), 1)
    turn = np.argsort((rank + random_place) / size[bins[by_score]], kind="stable")
    order = measured[by_score[turn]]
    place_bin, place_rank = bins[by_score[turn]], rank[turn]
    spans = {b: f"{lengths[bins == b].min()} to {lengths[bins == b].max()} tokens" for b in np.flatnonzero(size)}

    def explain(i: int) -> str:
        """The rank inside the length bin."""
        if i >= len(order):
            return "random, no one with a score is left"
        b = place_bin[i]
        return f"rank {place_rank[i] + 1} of {size[b]} measured with {spans[b]}"

    return Ranking(then_the_rest(order, len(view.rows)), explain)


def _quantile_bins(values: np.ndarray, count: int) -> np.ndarray:
    """(m,) bin 0 … count - 1 of each value. Equal values share a bin, so bins can differ in size or be empty."""
    edges = np.quantile(values, np.arange(1, count) / count) if len(values) else np.empty(0)
    return np.searchsorted(edges, values, side="left")
