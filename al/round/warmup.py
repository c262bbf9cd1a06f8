"""The warm-up of score `less`. The gradients of a new adapter say little (those of LoRA's A are zero), so in a round without an adapter a
LoRA is first trained on a few random examples (arXiv 2402.04333, section 3.1). They are not picks, and no adapter continues it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from al.config import Config
from al.lineage.artifacts import Keep
from al.lineage.history import Lineage
from al.lineage.round_state import RoundState
from al.round import train as stages
from al.scoring.amount import sample_size, warmup_size
from al.scoring.checkpoints import checkpoints_summed
from selection.strategy import needs_losses

WARM_UP = Lineage("warm-up", "warm up", "warmup.")


def warmed_up(state: RoundState, keep: Keep) -> RoundState:
    """`state` with its `warmup`, if gradients are summed over checkpoints and no round before left any."""
    session = state.session
    if checkpoints_summed(session.config) == 1 or state.adapter is not None:
        return state
    if not needs_losses(state.select, state.number) or sample_size(state) == 0:
        return state  # nothing will be measured
    session = session.with_config(_without_evaluation(session.config))
    rows = np.sort(_drawn(state))
    packs = keep(f"{WARM_UP.prefix}packs", stages.plan_packs(session, state.prepared, rows, WARM_UP))
    trained = stages.train(session, state.prepared, packs, None, state.number, WARM_UP)
    return replace(state, warmup=keep(f"{WARM_UP.prefix}train", trained))


def _without_evaluation(config: Config) -> Config:
    train = config.train.model_copy(update={"eval_every": None, "patience": 0})
    return config.model_copy(update={"train": train})


def _drawn(state: RoundState) -> np.ndarray:
    rng = np.random.default_rng([*state.seed, 0x3A2B])
    return rng.choice(state.pool.rows, warmup_size(len(state.pool.rows)), replace=False)
