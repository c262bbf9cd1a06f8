"""The examples of the whole pool that are nearest to the target: by embeddings, by hidden states, by gradients."""

from __future__ import annotations

import numpy as np

from selection.candidates import Candidates, Strategy, Vectors
from selection.greedy import measured
from selection.pick import ClusterView, Ranking, picker, then_the_rest
from selection.randomness import PICK, keyed_draw
from selection.turns import round_robin
from selection.vectors import unit


def _nearest_by_embedding(candidates: Candidates, count: int) -> np.ndarray:
    """The first `count` candidates that the targets take by embeddings, in turn."""
    vectors = candidates.vectors["embedding"]
    return round_robin(vectors, vectors.targets, count).order


@picker("nearest", vectors=frozenset({"embedding"}), whole_pool=True, aims=True)
def nearest_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Each target example in turn takes the example with the nearest embedding. It needs no forward pass."""
    return _aimed(view, "embedding")


@picker("rds_centered", vectors=frozenset({"hidden_states"}), whole_pool=True, aims=True)
def centered_rds_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """RDS+ on the base model's hidden states less their mean over the pool. Hidden states of a language model all point the same way, and
    what they have in common hides what a target is about (docs/selection.md has what it gains)."""
    return _aimed(view, "hidden_states", centered=True)


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


def _aimed(view: ClusterView, name: str, centered: bool = False) -> Ranking:
    """Each target in turn, in an order drawn for this selection."""
    targets = np.asarray(view.candidates.vectors[name].targets, dtype=np.float32)
    vectors: Vectors | np.ndarray = view.stored_vectors(name)
    if centered and len(known := measured(own := view.vectors(name))):
        vectors, targets = unit(own), unit(targets)
        mean = vectors[known].mean(axis=0)
        vectors -= mean
        targets -= mean
    turns = np.argsort(keyed_draw(np.arange(len(targets), dtype=np.uint64), *view.seed_parts, PICK), kind="stable")
    found = round_robin(vectors, targets[turns], view.count)
    of = turns[found.target]
    order = then_the_rest(found.order, len(view.rows))

    def explain(i: int) -> str:
        """The target example that took it."""
        if i >= len(found.order) or found.target[i] < 0:
            return "random, no measured one is left"
        return f"nearest left to target example {of[i] + 1} of {len(targets)}, cosine {found.value[i]:.2f},"

    return Ranking(order, explain)
