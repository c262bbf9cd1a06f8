"""The examples of the whole pool that are nearest to the target: by embeddings, by hidden states, by gradients."""

from __future__ import annotations

import numpy as np

from selection.candidates import Candidates, Strategy
from selection.pick import ClusterView, Ranking, picker, then_the_rest
from selection.randomness import PICK, keyed_draw
from selection.turns import round_robin


def _nearest_by_embedding(candidates: Candidates, count: int) -> np.ndarray:
    """The first `count` candidates that the targets take by embeddings, in turn."""
    vectors = candidates.vectors["embedding"]
    return round_robin(vectors, vectors.targets, count).order


@picker("nearest", vectors=frozenset({"embedding"}), whole_pool=True, aims=True)
def nearest_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Each target example in turn takes the example with the nearest embedding. It needs no forward pass and was as good as RDS+ in
    the study (docs/selection.md)."""
    return _aimed(view, "embedding")


@picker(
    "rds",
    vectors=frozenset({"embedding", "pooled"}),
    whole_pool=True,
    aims=True,
    prefilter=_nearest_by_embedding,
)
def rds_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """RDS+ (Ivison et al. 2025, arXiv 2503.01807): each target takes its turn by position-weighted pooled hidden states."""
    return _aimed(view, "pooled")


@picker(
    "less",
    vectors=frozenset({"embedding", "gradient"}),
    whole_pool=True,
    aims=True,
    prefilter=_nearest_by_embedding,
)
def less_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """LESS (Xia et al. 2024, arXiv 2402.04333): each target takes its turn by projected gradients, the candidates' through Adam."""
    return _aimed(view, "gradient")


def _aimed(view: ClusterView, name: str) -> Ranking:
    """Each target in turn, in an order drawn for this selection."""
    targets = np.asarray(view.candidates.vectors[name].targets, dtype=np.float32)
    turns = np.argsort(keyed_draw(np.arange(len(targets), dtype=np.uint64), *view.seed_parts, PICK), kind="stable")
    found = round_robin(view.stored_vectors(name), targets[turns], view.count)
    of = turns[found.target]
    order = then_the_rest(found.order, len(view.rows))

    def explain(i: int) -> str:
        """The target example that took it."""
        if i >= len(found.order) or found.target[i] < 0:
            return "random, no measured one is left"
        return f"nearest left to target example {of[i] + 1} of {len(targets)}, cosine {found.value[i]:.2f},"

    return Ranking(order, explain)
