"""Pickers that look at vectors: how examples lie to each other and to a target. The orders are those of selection.greedy,
selection.submodular and selection.turns, which cite their sources and state their costs; importing this registers them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from selection.candidates import Candidates, Strategy
from selection.greedy import Order, k_center, k_means_plus_plus, score_then_filter
from selection.pick import ClusterView, Ranking, picker, then_the_rest
from selection.randomness import PICK, keyed_draw
from selection.submodular import facility_location, quality_diversity
from selection.turns import round_robin, trajectory_balanced

SIMILAR = 0.9
"""DEITA's threshold (arXiv 2312.15685, section 2.3)."""
QUALITY = 0.5
"""Weight of quality against diversity in `qdit`, of the paper's sum, whose diversity is not divided by the group's size."""
TRAJECTORIES = 100
"""S2L's clusters of loss trajectories (arXiv 2403.07384, section 5)."""


@picker("longest")
def longest_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """The longest first: a baseline that is hard to beat where responses are judged by people (Zhao et al. 2024,
    arXiv 2402.04833). O(m log m)."""
    tokens = view.candidates.tokens[view.rows]
    order = np.argsort(-tokens.astype(np.int64), kind="stable")
    return Ranking(order, lambda i: f"{tokens[order[i]]} tokens, {i + 1} of {len(order)} by length")


@picker("k_center", vectors=frozenset({"embedding"}))
def k_center_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Farthest-first over embeddings, outliers last."""
    found = k_center(view.vectors("embedding"), view.count)
    return _ranking(view, found, lambda value: f"farthest from those before, by {value:.2f}")


@picker("facility_location", vectors=frozenset({"embedding"}))
def facility_location_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """What makes every example of the cluster have a similar one among the picks, greedily."""
    found = facility_location(view.vectors("embedding"), view.count)
    return _ranking(view, found, lambda value: f"covers {value:.4f} more of the cluster")


@picker("badge", vectors=frozenset({"gradient"}))
def badge_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """k-means++ over projected gradients: far apart, and long where the model is wrong. Kept gradients are of unit length; each is
    scaled by its example's NLL, to which the length is roughly proportional."""
    loss = np.nan_to_num(view.candidates.loss[view.rows], nan=0.0).astype(np.float32)
    found = k_means_plus_plus(view.vectors("gradient") * loss[:, None], view.count, _rng(view))
    return _ranking(view, found, lambda value: f"drawn by its gradient's distance {value:.2g} to those before")


@picker("deita", uses_score=True, vectors=frozenset({"embedding"}))
def deita_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Highest score first, passing over what is within cosine 0.9 of an earlier one."""
    score = view.candidates.score[view.rows]
    found = score_then_filter(view.vectors("embedding"), score, view.count, SIMILAR)
    return _ranking(view, found, lambda value: f"score {value:.3g}, no more than {SIMILAR} like those before")


@picker("qdit", uses_score=True, vectors=frozenset({"embedding"}))
def qdit_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Greedy on quality, the rank of the score, and diversity, the gain of facility location, half and half."""
    weight = QUALITY / (QUALITY + (1 - QUALITY) * len(view.rows))
    found = quality_diversity(view.vectors("embedding"), view.candidates.score[view.rows], view.count, weight)
    return _ranking(view, found, lambda value: f"quality and diversity worth {value:.3g}")


@picker("s2l", vectors=frozenset({"trajectory"}))
def s2l_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Equally many of every kind of loss trajectory over earlier rounds; random before there are any."""
    found = trajectory_balanced(view.vectors("trajectory"), view.count, TRAJECTORIES, _rng(view))
    return _ranking(view, found, lambda value: f"one of {value:.0f} with such a loss trajectory")


def _nearest_by_embedding(candidates: Candidates, count: int) -> np.ndarray:
    """The `count` candidates that targets take in turn by embeddings, in that order."""
    vectors = candidates.vectors["embedding"]
    return round_robin(vectors.values(), vectors.targets, count).order


@picker("nearest", vectors=frozenset({"embedding"}), whole_pool=True, aims=True)
def nearest_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """Each target example in turn takes the one of the nearest embedding: as good as RDS+ where measured, without a forward
    pass."""
    return _aimed(view, "embedding")


@picker(
    "rds",
    vectors=frozenset({"embedding", "pooled"}),
    whole_pool=True,
    aims=True,
    prefilter=_nearest_by_embedding,
)
def rds_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """RDS+ (Ivison et al. 2025, arXiv 2503.01807): in turn by position-weighted pooled hidden states."""
    return _aimed(view, "pooled")


@picker(
    "less",
    vectors=frozenset({"embedding", "gradient"}),
    whole_pool=True,
    aims=True,
    prefilter=_nearest_by_embedding,
)
def less_picker(view: ClusterView, strategy: Strategy) -> Ranking:
    """LESS (Xia et al. 2024, arXiv 2402.04333): in turn by projected gradients, the candidates' through Adam."""
    return _aimed(view, "gradient")


def _aimed(view: ClusterView, name: str) -> Ranking:
    """Each target in turn, in an order that belongs to this selection."""
    targets = np.asarray(view.candidates.vectors[name].targets, dtype=np.float32)
    turns = np.argsort(keyed_draw(np.arange(len(targets), dtype=np.uint64), *view.seed_parts, PICK), kind="stable")
    found = round_robin(view.vectors(name), targets[turns], view.count)
    of = turns[found.target]
    order = then_the_rest(found.order, len(view.rows))

    def explain(i: int) -> str:
        if i >= len(found.order) or found.target[i] < 0:
            return "random, none that is measured is left"
        return f"cosine {found.value[i]:.2f} to target example {of[i] + 1} of {len(targets)}, whose turn it was"

    return Ranking(order, explain)


def _ranking(view: ClusterView, found: Order, words: Callable[[float], str]) -> Ranking:
    order = then_the_rest(found.order, len(view.rows))

    def explain(i: int) -> str:
        if i >= len(found.order):
            return "random, beyond what was ranked"
        if np.isnan(found.value[i]):
            return "the first of its cluster" if i == 0 else "random, none that is measured is left"
        return words(float(found.value[i]))

    return Ranking(order, explain)


def _rng(view: ClusterView) -> np.random.Generator:
    return np.random.default_rng([*view.seed_parts, PICK, view.cluster])
