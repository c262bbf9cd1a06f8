"""Estimates of the number of examples a round will measure and the time for it."""

from __future__ import annotations

from al.config import Config
from al.planning.pool_estimate import PoolEstimate
from al.preparation.groups import may_choose_groups
from al.scoring.amount import LEAST_SAMPLE, affordable, first_look, sample_per_cluster, warmup_size
from al.scoring.checkpoints import checkpoints_summed
from selection.cluster import choose_k
from selection.registry import PICKERS
from selection.scores import needs
from selection.shortlist import SPARE
from selection.strategy import (
    by_default,
    can_do_without_losses,
    measures,
    needs_losses,
    resolve,
    vectors_needed,
)

RESPONSE_SHARE = 0.5
"""Share of an example's tokens that belong to its responses."""


def seconds_per_token(config: Config, forward: float, speed: float, number: int) -> float:
    """Seconds per token of all passes that scores, picker and the noise check need; gradients cost as much as training, for each
    checkpoint that they are summed over.

    Args:
        forward, speed: tokens per second of a forward pass and of training.
    """
    wanted = measured(config)
    if _looks_for_noise(config, number):
        wanted |= {"unprompted"}
    passes = 1 + RESPONSE_SHARE * ("unprompted" in wanted) + ("reference" in wanted)
    return passes / forward + checkpoints_summed(config) * ("gradient" in wanted) / speed


def measured(config: Config) -> frozenset[str]:
    """Measurements that scores and picker need in addition to the response's loss."""
    return needs(config.score.by, *config.score.also) | measures(config.select)


def examples_scored(config: Config, pool: PoolEstimate, tokens: float, number: int) -> float:
    """Number of examples measured: the sample of every cluster, plus the picker's shortlist or the noise check; at most the pool."""
    picked, strategy = tokens / max(pool.mean_tokens, 1), resolve(config.select)
    picker = PICKERS[strategy.picker]
    sample = _sampled(config, pool, picked, number)
    if sample and (picker.uses_score or picker.vectors & {"pooled", "gradient"}):
        more = picked * strategy.shortlist_factor / (1 - strategy.tail_cut)
    else:
        more = _looked_at(config, picked, number, sample)
    return min(float(pool.examples), sample + more)


def examples_warmed_up(config: Config, pool: PoolEstimate, tokens: float, number: int) -> int:
    """Number of examples that the warm-up before the first round's gradients trains on; 0 where there is none."""
    nothing = number > 1 or checkpoints_summed(config) == 1 or not examples_scored(config, pool, tokens, number)
    return 0 if nothing else warmup_size(pool.examples)


def examples_of_hidden_states(config: Config, pool: PoolEstimate, number: int) -> float:
    """Number of examples whose hidden states by the base model are measured in round `number`: in the first one, for a target."""
    aimed = bool(config.target.files) and by_default(config.select)
    asked = "hidden_states" in vectors_needed(config.select)
    return float(min(pool.examples, config.target.measured)) if number == 1 and (aimed or asked) else 0.0


def _sampled(config: Config, pool: PoolEstimate, picked: float, number: int) -> float:
    unmeasured = by_default(config.select) and (config.target.files or config.goal == "pool")
    by_groups = may_choose_groups(config) and pool.several_sources
    if unmeasured or by_groups or not needs_losses(config.select, number):
        return 0.0
    per_cluster, clusters = config.score.sample_per_cluster, choose_k(config.cluster.k, pool.examples)
    if per_cluster == "all":
        return float(pool.examples)
    if per_cluster == "auto":
        per_cluster = sample_per_cluster(_affordable(config, picked, number), clusters)
        if per_cluster < LEAST_SAMPLE:
            per_cluster = 0 if can_do_without_losses(config.select) else LEAST_SAMPLE
    return float(clusters * per_cluster)


def _affordable(config: Config, picked: float, number: int) -> float:
    trained = config.train.epochs * picked * (number if config.train.mode == "retrain" else 1)
    return affordable(trained, 1 + RESPONSE_SHARE * _looks_for_noise(config, number))


def _looked_at(config: Config, picked: float, number: int, sample: float) -> float:
    """Picks checked for noise: all, or only the first ones if they are needed to find out how noisy the pool is. How noisy `auto`
    will find the pool is unknown here."""
    if not _looks_for_noise(config, number) or not config.noise.hold:
        return 0.0
    unknown = config.noise.look == "auto" and number == 2 and not sample
    return (
        SPARE * picked
        if config.noise.look == "picks"
        else float(unknown * first_look(_affordable(config, picked, number)))
    )


def _looks_for_noise(config: Config, number: int) -> bool:
    return config.noise.look != "none" and number > 1
