"""What every strategy, and every pair of allocation and picker, keeps on any pool; and what each parameter does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_pools import SEED, budget_for, candidates, pick_from, play, pools, reveal

from selection.config import SelectConfig
from selection.pick import suspects
from selection.sample import stratified_sample
from selection.strategy import OUTCOMES, STRATEGIES, Budget, allocate, registry, resolve, select, shortlist

PAIRS = list(product(registry("allocation"), registry("picker")))
CONFIGS = [pytest.param(SelectConfig(strategy=name), id=name) for name in STRATEGIES] + [
    pytest.param(SelectConfig(allocation=a, picker=p), id=f"{a}-{p}") for a, p in PAIRS
]
every_strategy = pytest.mark.parametrize("config", CONFIGS)
every_unit = pytest.mark.parametrize("unit", ["examples", "tokens"])
on_any_pool = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
shares = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
tail_cuts = st.sampled_from([None, 0.0, 0.05, 0.3, 0.6])


def with_cut(config, tail_cut):
    return SelectConfig(**{**config.model_dump(), "tail_cut": tail_cut})


# What every strategy keeps


@every_unit
@every_strategy
@on_any_pool
@given(pool=pools(), share=shares, tail_cut=tail_cuts, per_cluster=st.sampled_from([1, 4, 9, "all"]))
def test_budgets_are_met_and_everything_is_accounted_for(config, unit, pool, share, tail_cut, per_cluster):
    config = with_cut(config, tail_cut)
    budget = budget_for(pool, unit, share, config)
    played = play(pool, budget, config, per_cluster=per_cluster)
    check_quotas(pool, budget, played.quotas)
    check_picks(pool, budget, played)
    check_outcomes(played, resolve(config))


def check_quotas(pool, budget, quotas):
    size = np.bincount(pool.cluster)
    assert quotas.quota.sum() == (budget.amount if budget.unit == "examples" else min(budget.amount, pool.tokens.sum()))
    assert (quotas.quota >= 0).all() and (quotas.quota[size == 0] == 0).all()
    assert len(quotas.reason) == len(size) == len(quotas.quota) and all(quotas.reason)
    assert np.isclose(quotas.weight.sum(), 1) or (quotas.weight == 0).all()


def check_picks(pool, budget, played):
    picked = played.selection.picked
    assert len(set(picked.tolist())) == len(picked) == len(played.selection.step) and all(played.selection.step)
    assert ((0 <= picked) & (picked < len(pool))).all()
    if budget.unit == "examples":
        assert np.bincount(pool.cluster[picked], minlength=pool.clusters).tolist() == played.quotas.quota.tolist()
        assert played.selection.short_by == 0
    else:
        left = budget.amount - pool.tokens[picked].sum()
        assert played.selection.short_by == left >= 0
        passed_over = np.isin(played.selection.outcome, ["quota_full", "no_quota"])
        assert (pool.tokens[passed_over] > left).all(), "something that still fits was left out"


def check_outcomes(played, strategy):
    known, outcome = played.known, played.selection.outcome
    assert len(outcome) == len(known) and set(outcome) <= set(OUTCOMES)
    assert set(np.flatnonzero(outcome == "selected")) == set(played.selection.picked)
    for c in np.unique(known.cluster):
        rows = np.flatnonzero(known.cluster == c)
        assert (outcome[rows] == "tail_cut").tolist() == suspects(known.loss[rows], strategy.tail_cut).tolist()
        expected = "no_quota" if played.quotas.quota[c] == 0 else "quota_full"
        assert set(outcome[rows]) <= {expected, "selected", "tail_cut"}


@every_unit
@every_strategy
@on_any_pool
@given(pool=pools(), share=shares, shuffle=st.randoms(use_true_random=False))
def test_neither_another_run_nor_the_order_of_rows_changes_anything(config, unit, pool, share, shuffle):
    budget = budget_for(pool, unit, share, config)
    first, again = play(pool, budget, config), play(pool, budget, config)
    order = np.array(shuffle.sample(range(len(pool)), len(pool)))
    shuffled = play(pool.take(order), budget, config)
    for other in (again, shuffled):
        assert other.keys == first.keys
        assert other.selection.step == first.selection.step
        assert other.quotas.reason == first.quotas.reason
        assert other.quotas.weight.tobytes() == first.quotas.weight.tobytes(), "sums in another order"
    assert shuffled.selection.outcome.tolist() == first.selection.outcome[order].tolist()


@pytest.fixture(scope="module")
def town():
    """800 examples in 6 uneven clusters, small ones harder; loss falls with length; one in twenty is mislabelled."""
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(6), [400, 200, 80, 50, 40, 30])
    tokens = rng.integers(20, 500, 800)
    loss = 0.5 + 0.4 * cluster + 60 / (tokens + 20) + rng.normal(0, 0.2, 800) ** 2
    return candidates(cluster, tokens=tokens, loss=np.where(np.arange(800) % 20 == 7, loss + 3, loss))


@every_unit
@every_strategy
def test_another_seed_or_round_picks_others(config, unit, town):
    budget = budget_for(town, unit, 0.1, config)
    keys = [set(play(town, budget, config, seed).keys) for seed in [(1, 1), (2, 1), (1, 2)]]
    assert keys[0] != keys[1] and keys[0] != keys[2] and keys[1] != keys[2]


@every_strategy
def test_any_first_part_of_the_picks_is_spread_over_clusters_like_the_whole(config, town):
    played = play(town, Budget("examples", 120), config)
    quota, half = played.quotas.quota, played.selection.picked[:60]
    assert np.abs(np.bincount(town.cluster[half], minlength=6) - quota / 2).max() <= 1.5


@every_strategy
def test_no_more_is_measured_than_the_strategy_needs(config, town):
    strategy, budget = resolve(config), Budget("examples", 80)
    played = play(town, budget, config, per_cluster=4)
    by_score = registry("picker")[strategy.picker].uses_score
    sampled = 24
    if not by_score and strategy.tail_cut == 0:
        assert len(played.measured) == sampled
    else:
        wanted = budget.amount * (strategy.shortlist_factor if by_score else 1)
        assert len(played.measured) <= wanted / (1 - strategy.tail_cut) + 2 * 6 + sampled
        assert not np.isnan(played.known.loss[played.selection.picked]).any(), "picked without knowing its loss"


@every_strategy
def test_nothing_is_measured_twice(config, town):
    quotas = allocate(town, Budget("examples", 80), config, SEED)
    assert len(shortlist(town, quotas, config, SEED)) == 0
    half = np.arange(0, len(town), 2)
    assert not np.isin(shortlist(reveal(town, half), quotas, config, SEED), half).any()


@pytest.mark.parametrize("tail_cut", [0.05, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("picker", registry("picker"))
def test_the_tail_cut_never_leads_to_a_pick_that_was_not_measured(picker, tail_cut, town):
    config = SelectConfig(picker=picker, allocation="size", tail_cut=tail_cut, shortlist_factor=1)
    played = play(town, budget_for(town, "examples", 0.9, config), config)
    assert not np.isnan(played.known.loss[played.selection.picked]).any()


@pytest.mark.parametrize("allocation", registry("allocation"))
def test_the_random_picker_ignores_scores(allocation, town):
    config, budget = SelectConfig(allocation=allocation, picker="random"), Budget("examples", 80)
    unscored = replace(town, score=np.full(800, np.nan))
    assert pick_from(town, budget, config).picked.tolist() == pick_from(unscored, budget, config).picked.tolist()


@every_unit
@pytest.mark.parametrize("name", ["random", "uniform", "size"])
def test_strategies_that_need_no_loss_ignore_it(name, unit, town):
    config = SelectConfig(strategy=name)
    budget = budget_for(town, unit, 0.1, config)
    unmeasured = reveal(town, np.empty(0, dtype=np.int64))
    assert pick_from(town, budget, config).picked.tolist() == pick_from(unmeasured, budget, config).picked.tolist()
    assert len(shortlist(unmeasured, allocate(unmeasured, budget, config, SEED), config, SEED)) == 0


def test_a_million_candidates_take_seconds_at_each_step():
    rng = np.random.default_rng(0)
    n, k = 1_000_000, 2000
    cluster = np.r_[np.arange(k), rng.zipf(1.3, n - k) % k].astype(np.int32)
    pool = candidates(cluster, tokens=rng.integers(20, 2000, n), loss=rng.gamma(2, 0.5, n))
    config, budget = SelectConfig(strategy="top"), Budget("examples", 50_000)
    seen = reveal(pool, stratified_sample(pool.cluster, pool.keys, np.ones(n, bool), 8, SEED))
    seconds = {}

    def timed(step, *arguments):
        start = time.process_time()
        result = step(*arguments, config, SEED)
        seconds[step.__name__] = time.process_time() - start
        return result

    quotas = timed(allocate, seen, budget)
    known = reveal(pool, np.union1d(np.flatnonzero(~np.isnan(seen.loss)), timed(shortlist, seen, quotas)))
    assert len(timed(select, known, quotas, budget).picked) == 50_000
    assert max(seconds.values()) < 10, seconds


# What each parameter does


@dataclass(frozen=True)
class Behaviour:
    """Setting `parameter` to `high` instead of `low` raises `measure` of a round on average, all else being `base`."""

    says: str
    parameter: str
    low: object
    high: object
    measure: Callable
    base: dict

    def __str__(self):
        return f"{self.parameter}: {self.says}"


def hardest_quota(played):
    return played.quotas.quota[-1]


def largest_quota(played):
    return played.quotas.quota[0]


def evenness(played):
    return -np.ptp(played.quotas.quota)


def mean_length(played):
    return played.known.tokens[played.selection.picked].mean()


def typical_score(played):
    """Median score of the picks, above that of their cluster."""
    return np.median(_excess(played))


def spread_of_scores(played):
    return np.std(_excess(played))


def closeness_of_scores(played):
    return -spread_of_scores(played)


def _excess(played):
    known, picked = played.known, played.selection.picked
    level = np.array([np.nanmedian(known.score[known.cluster == c]) for c in range(known.clusters)])
    return known.score[picked] - level[known.cluster[picked]]


def held_back(played):
    return (played.selection.outcome == "tail_cut").sum()


def worst_loss(played):
    return played.known.loss[played.selection.picked].max()


def measured(played):
    return len(played.measured)


BEHAVIOURS = [
    Behaviour("loss gives the hardest more than its size would", "allocation", "size", "loss", hardest_quota, {}),
    Behaviour("size gives the largest cluster the most", "allocation", "uniform", "size", largest_quota, {}),
    Behaviour("uniform treats clusters alike", "allocation", "random", "uniform", evenness, {}),
    Behaviour("random follows size, not loss", "allocation", "loss", "random", largest_quota, {}),
    Behaviour("top takes higher scores than random", "picker", "random", "top", typical_score, {}),
    Behaviour("mid takes them closer together", "picker", "random", "mid", closeness_of_scores, {}),
    Behaviour("random measures less than mid", "picker", "random", "mid", measured, {}),
    Behaviour("default gives the hardest more than random", "strategy", "random", "default", hardest_quota, {}),
    Behaviour("random gives the largest more than uniform does", "strategy", "uniform", "random", largest_quota, {}),
    Behaviour("uniform is evener than size", "strategy", "size", "uniform", evenness, {}),
    Behaviour("size is less uneven than the pool", "strategy", "random", "size", evenness, {}),
    Behaviour("top takes higher scores than mid", "strategy", "mid", "top", typical_score, {}),
    Behaviour("random holds nothing back", "strategy", "random", "default", held_back, {}),
    Behaviour("sharpens towards the hardest", "temperature", 0.5, 4, hardest_quota, {"allocation": "loss"}),
    Behaviour("sharpens towards the largest", "temperature", 0.5, 1, largest_quota, {"allocation": "size"}),
    Behaviour("0 is uniform", "temperature", 1, 0, evenness, {"allocation": "size"}),
    Behaviour("holds more back", "tail_cut", 0.05, 0.2, held_back, {}),
    Behaviour("0 holds nothing back", "tail_cut", 0, 0.05, held_back, {}),
    Behaviour("keeps the worst losses out of the picks", "tail_cut", 0.2, 0, worst_loss, {"picker": "top"}),
    Behaviour("more bins favour short examples less", "length_bins", 1, 4, mean_length, {"picker": "top"}),
    Behaviour("a wider band takes scores further apart", "mid_band", 0.1, 0.9, spread_of_scores, {"picker": "mid"}),
    Behaviour("more follows the score more closely", "shortlist_factor", 1, 6, typical_score, {"picker": "top"}),
    Behaviour("more costs more measurements", "shortlist_factor", 1, 6, measured, {"picker": "top"}),
]


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=str)
def test_the_parameter_does_what_it_says(behaviour, town):
    def outcome(value):
        config = SelectConfig(**behaviour.base, **{behaviour.parameter: value})
        return np.mean([behaviour.measure(play(town, Budget("examples", 100), config, (seed, 1))) for seed in range(8)])

    low, high = outcome(behaviour.low), outcome(behaviour.high)
    assert high > low


def test_no_parameter_is_without_a_behaviour():
    assert {behaviour.parameter for behaviour in BEHAVIOURS} == set(SelectConfig.model_fields)


@pytest.mark.parametrize("kind", ["strategy", "allocation", "picker"])
def test_no_name_is_without_a_behaviour(kind):
    named = {value for b in BEHAVIOURS if b.parameter == kind for value in (b.low, b.high)}
    assert named == set(registry(kind))
