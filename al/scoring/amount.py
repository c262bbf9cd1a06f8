"""How much is measured in a round: the sample of each cluster, and the picks that are measured for the noise check."""

from __future__ import annotations

from typing import Literal

import numpy as np

from al.lineage.round_state import RoundState
from al.run.artifacts import Artifact
from al.scoring.noise import suspected_share
from al.scoring.stage import looks_for_noise
from selection.strategy import can_do_without_losses
from trainer.tokens import TokenTable

SCORING_SHARE = 1 / 9
"""sample_per_cluster auto: what scoring may take of the time of training."""
LEAST_SAMPLE = 2
"""Of each cluster. One example cannot show how much of a difference between clusters is chance."""
FORWARD_COST = 1 / 3
"""Cost of a forward pass, in passes of training."""
FIRST_LOOK = 512
"""Most picks that are measured to learn how much noise the pool has."""
WARM_UP_SHARE, WARM_UP_MOST = 0.05, 1_000
"""Share of the pool, and the most examples, that the warm-up of score `less` trains on."""
NOISY = 0.05
"""Share of suspects among measured examples from which on picks are measured before they are made."""


def sample_size(state: RoundState) -> int | Literal["all"]:
    """`score.sample_per_cluster`; for auto, what this round's training time affords.

    auto is 0 where the allocation makes do without losses and measuring would not pay: two a cluster cost too much, or the clusters
    are no kinds of example, so that losses cannot distinguish them.
    """
    config, pool = state.session.config, state.pool
    wanted = config.score.sample_per_cluster
    if wanted != "auto":
        return wanted
    clusters = len(np.unique(pool.cluster[pool.rows]))
    found = sample_per_cluster(examples_affordable(state), clusters)
    pays = found >= LEAST_SAMPLE and state.distinctness > 0
    return max(found, LEAST_SAMPLE) if pays or not can_do_without_losses(state.select) else 0


def examples_affordable(state: RoundState) -> float:
    """How many examples can be measured in SCORING_SHARE of this round's training time."""
    config, pool, budget = state.session.config, state.pool, state.budget
    examples = budget.amount if budget.unit == "examples" else budget.amount / pool.tokens[pool.rows].mean()
    if config.train.mode == "retrain":
        examples += len(state.history.all_picked())
    return affordable(config.train.epochs * examples, _passes_of_measuring(state))


def _passes_of_measuring(state: RoundState) -> float:
    """Forward passes over an example that measuring takes: a second one over its responses where noise is checked."""
    if not looks_for_noise(state.session.config, state.adapter):
        return 1.0
    table, rows = TokenTable.open(state.prepared.tokens.path), state.pool.rows
    return 1.0 + float(np.asarray(table.target_counts)[rows].sum() / np.asarray(table.lengths)[rows].sum())


def affordable(trained: float, passes: float) -> float:
    """How many examples can be measured in SCORING_SHARE of the time of training on `trained`, with `passes` forward passes each."""
    return SCORING_SHARE * trained / (FORWARD_COST * passes)


def sample_per_cluster(examples: float, clusters: int) -> int:
    """How many of each cluster `examples` come to; at most 8."""
    return int(min(examples / max(clusters, 1), 8))


def warmup_size(examples: int) -> int:
    """How many of a pool's `examples` the warm-up of score `less` trains on."""
    return min(max(1, round(WARM_UP_SHARE * examples)), WARM_UP_MOST, examples)


def picks_checked(state: RoundState, sample: Artifact, suspects: Artifact) -> int:
    """How many picks are measured for the noise check before they are made (`noise.look`)."""
    config = state.session.config
    if not looks_for_noise(config, state.adapter) or not config.noise.hold or config.noise.look == "measured":
        return 0
    if config.noise.look == "picks":
        return len(state.pool.keys)
    left = max(0, int(examples_affordable(state)) - sample.json("score.json")["examples"])
    measured, share = suspected_share(state.history, suspects)
    return left if share >= NOISY else (0 if measured else first_look(left))


def first_look(affordable: float) -> int:
    """How many picks are measured where nothing was measured yet that shows how much noise the pool has."""
    return int(min(affordable, FIRST_LOOK))
