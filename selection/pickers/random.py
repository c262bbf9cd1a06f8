"""Random inside a cluster: the default, and the baseline."""

from __future__ import annotations

import numpy as np

from selection.candidates import Strategy
from selection.pick import ClusterView, Ranking, picker


@picker("random")
def random_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Uniformly at random. O(m)."""
    return Ranking(
        np.arange(len(view.rows)),
        lambda i: f"drawn at random: number {i + 1} of the {len(view.rows)} that could be picked",
    )
