"""What every strategy, and every pair of allocation and picker, keeps on any pool; and what each parameter does."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import pytest
from fuzz import cases as count
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_pools import (
    SEED,
    Case,
    budget_for,
    candidates,
    cases,
    drawn_case,
    handed,
    pick_from,
    play,
    reveal,
    vectors,
)

from selection.config import SelectConfig
from selection.errors import SelectionError
from selection.pick import ClusterView, suspects
from selection.registry import STRATEGIES, registry
from selection.sample import stratified_sample
from selection.shortlist import shortlist
from selection.strategy import (
    OUTCOMES,
    Budget,
    PastRound,
    Vectors,
    aims,
    allocate,
    measures,
    needs_losses,
    resolve,
    select,
)
from selection.vectors import unit as unit_length

UNITS = ["examples", "tokens"]
NAMED = [pytest.param(SelectConfig(strategy=name), id=name) for name in STRATEGIES]
PAIRS = [
    pytest.param(SelectConfig(strategy="random", allocation=a, picker=p), id=f"{a}-{p}")
    for a, p in product(registry("allocation"), registry("picker"))
]
every_named_one = pytest.mark.parametrize("config", NAMED)
every_pair = pytest.mark.parametrize("config", PAIRS)
every_strategy = pytest.mark.parametrize("config", NAMED + PAIRS)
every_unit = pytest.mark.parametrize("unit", UNITS)
on_any_pool = settings(
    max_examples=count(5, 50), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
shares = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
TAIL_CUTS = [None, 0.0, 0.05, 0.3, 0.6]
EXPLORED = [None, 0.0, 0.1, 1.0]
PER_CLUSTER = [1, 4, 9, "all"]
DRAWN_CASES = count(2, 12)


def picker_of(config):
    return registry("picker")[resolve(config).picker]


def changed(config, **values):
    return SelectConfig(**{**config.model_dump(), **values})


def drawn_cases(config):
    """A few cases of this strategy's own, so that all strategies together see hundreds."""
    rng = np.random.default_rng(zlib.crc32(repr(config).encode()))
    for unit in [*UNITS] * (DRAWN_CASES // 2):
        varied = changed(config, tail_cut=TAIL_CUTS[rng.integers(5)], explore=EXPLORED[rng.integers(4)])
        yield drawn_case(rng), unit, rng.choice([0.0, rng.random(), 1.0]), varied, PER_CLUSTER[rng.integers(4)], rng


# What every strategy keeps


@every_unit
@every_named_one
@on_any_pool
@given(
    made=cases(),
    share=shares,
    tail_cut=st.sampled_from(TAIL_CUTS),
    explore=st.sampled_from(EXPLORED),
    per_cluster=st.sampled_from(PER_CLUSTER),
)
def test_budgets_are_met_and_everything_is_accounted_for(config, unit, made, share, tail_cut, explore, per_cluster):
    check_all(made, unit, share, changed(config, tail_cut=tail_cut, explore=explore), per_cluster)


@every_pair
def test_budgets_are_met_and_everything_is_accounted_for_by_every_pair(config):
    for made, unit, share, varied, per_cluster, _ in drawn_cases(config):
        check_all(made, unit, share, varied, per_cluster)


def check_all(made, unit, share, config, per_cluster):
    budget = budget_for(made.pool, unit, share, config)
    played = play(made.pool, budget, config, per_cluster=per_cluster, past=made.past, distinct=made.distinct)
    check_quotas(made.pool, budget, played, config)
    check_picks(made.pool, budget, played, config)
    check_outcomes(played, config)
    check_reasons(played, config)


def amount_of(pool, rows, unit):
    return len(pool.tokens[rows]) if unit == "examples" else int(pool.tokens[rows].sum())


def check_quotas(pool, budget, played, config):
    quotas, whole = played.quotas, picker_of(config).whole_pool
    explored, explore = amount_of(pool, played.explored, budget.unit), resolve(config).explore
    open_ = pool.trusted & ~played.explored
    size = np.bincount(pool.cluster[open_], minlength=pool.clusters)
    assert not played.explored[~pool.trusted].any() and len(quotas.explored) == played.explored.sum()
    assert explored <= explore * budget.amount
    if budget.unit == "examples":
        assert explored == int(explore * budget.amount), "of the budget"
    assert quotas.quota.sum() == min(budget.amount - explored, amount_of(pool, open_, budget.unit))
    assert quotas.quota.shape == quotas.weight.shape == ((1,) if whole else (pool.clusters,))
    assert (quotas.quota >= 0).all() and (whole or (quotas.quota[size == 0] == 0).all())
    assert np.isclose(quotas.weight.sum(), 1) or (quotas.weight == 0).all()
    for values in (quotas.loss_mean, quotas.loss_stderr, quotas.loss_expected, quotas.measured):
        assert values.shape == (pool.clusters,)


def check_picks(pool, budget, played, config):
    picked = played.selection.picked
    assert len(set(picked.tolist())) == len(picked)
    assert ((0 <= picked) & (picked < len(pool))).all()
    assert pool.trusted[picked].all(), "a suspect"
    assert set(np.flatnonzero(played.explored)) <= set(picked)
    left = budget.amount - amount_of(pool, picked, budget.unit)
    assert played.selection.short_by == left >= 0
    if budget.unit == "examples":
        assert left == 0
        by_quota = picked[~played.explored[picked]]
        group = np.zeros(len(pool), dtype=int) if picker_of(config).whole_pool else pool.cluster
        assert np.bincount(group[by_quota], minlength=len(played.quotas.quota)).tolist() == played.quotas.quota.tolist()
    else:
        passed_over = np.isin(played.selection.outcome, ["quota_full", "no_quota"])
        assert (pool.tokens[passed_over] > left).all(), "something that still fits was left out"


def check_outcomes(played, config):
    known, outcome = played.known, played.selection.outcome
    assert len(outcome) == len(known) and set(outcome) <= set(OUTCOMES)
    assert set(np.flatnonzero(outcome == "selected")) == set(played.selection.picked)
    assert ((outcome == "suspected_noise") == ~known.trusted).all()
    loss = np.where(known.trusted, known.loss, np.nan)
    for c in np.unique(known.cluster):
        rows = np.flatnonzero((known.cluster == c) & ~played.explored)
        cut = suspects(loss[known.cluster == c], resolve(config).tail_cut)[~played.explored[known.cluster == c]]
        assert (outcome[rows] == "tail_cut").tolist() == cut.tolist(), "by the true cluster"
        empty = not picker_of(config).whole_pool and played.quotas.quota[c] == 0
        rest = outcome[rows][~np.isin(outcome[rows], ["tail_cut", "suspected_noise", "selected"])]
        assert set(rest) <= {"no_quota" if empty else "quota_full"}


def check_reasons(played, config):
    quotas, chosen = played.quotas, played.selection
    assert len(quotas.reason) == len(quotas.quota)
    for reason in quotas.reason:
        assert reason.split("; weight ")[0].strip() and "nan" not in reason, "the allocation's own words"
    assert len(chosen.step) == len(chosen.picked)
    for row, step in zip(chosen.picked, chosen.step, strict=True):
        picker_says, found, _ = step.partition(f" in group {played.known.cluster[row]}; NLL ")
        assert found and picker_says.strip() and "nan" not in step, "the picker's own words"
        assert step.startswith("exploration: ") == played.explored[row]
        assert ("not measured" in step) == np.isnan(played.known.loss[row])


@every_unit
@every_named_one
@on_any_pool
@given(made=cases(), share=shares, explore=st.sampled_from(EXPLORED), shuffle=st.integers(0, 2**32 - 1))
def test_neither_another_run_nor_the_order_of_rows_changes_anything(config, unit, made, share, explore, shuffle):
    check_invariance(made, unit, share, changed(config, explore=explore), np.random.default_rng(shuffle))


@every_pair
def test_neither_another_run_nor_the_order_of_rows_changes_anything_for_any_pair(config):
    for made, unit, share, varied, _, rng in drawn_cases(config):
        check_invariance(made, unit, share, varied, rng)


def check_invariance(made: Case, unit, share, config, rng):
    budget = budget_for(made.pool, unit, share, config)
    order = rng.permutation(len(made.pool))
    first, again = (play(made.pool, budget, config, past=made.past, distinct=made.distinct) for _ in range(2))
    shuffled = play(made.pool.take(order), budget, config, past=made.past, distinct=made.distinct)
    for other in (again, shuffled):
        assert other.keys == first.keys
        assert other.selection.step == first.selection.step
        assert other.quotas.reason == first.quotas.reason
        assert other.quotas.weight.tobytes() == first.quotas.weight.tobytes(), "sums in another order"
    assert shuffled.selection.outcome.tolist() == first.selection.outcome[order].tolist()


FAST, UNSURE = 3, 2
"""Clusters of the town: whose loss falls fastest, and where the model is least sure."""


@pytest.fixture(scope="module")
def town():
    """800 examples in 6 uneven clusters, small ones harder; loss falls with length; one in twenty is mislabelled, one in forty
    suspected. In each cluster a third are near copies of one another; one in ten has a loss trajectory of another kind."""
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(6), [400, 200, 80, 50, 40, 30])
    tokens = rng.integers(20, 500, 800)
    loss = 0.5 + 0.4 * cluster + 60 / (tokens + 20) + rng.normal(0, 0.2, 800) ** 2
    found = vectors(rng, cluster, dimension=8, targets=4)
    alike = np.arange(800) % 3 == 0
    embedding = 2 * np.eye(6, 8)[cluster] + rng.normal(size=(800, 8)) * np.where(alike, 0.05, 1)[:, None]
    targets = np.eye(4, 8) + 0.5 * rng.normal(size=(4, 8))
    rare = np.arange(800) % 10 == 4
    found["embedding"] = Vectors(embedding.astype(np.float32), np.arange(800), targets)
    found["trajectory"] = Vectors(np.where(rare[:, None], [2, 0.5], [2, 1.9]).astype(np.float32), np.arange(800))
    return candidates(
        cluster,
        tokens=tokens,
        loss=np.where(np.arange(800) % 20 == 7, loss + 3, loss),
        confidence=np.where(cluster == UNSURE, 0.3, 0.8) + 0.1 * rng.random(800),
        suspect=np.arange(800) % 40 == 11,
        vectors=found,
    )


PAST = [
    PastRound(np.array([4.0, 4.0, 4.0, 4.0, 4.2, 4.4]), np.full(6, 0.05), np.array([90.0, 10, 20, 10, 12, 10])),
    PastRound(np.array([2.0, 2.2, 2.2, 2.6, 3.0, 3.2]), np.full(6, 0.05), np.array([40.0, 10, 5, 10, 12, 10])),
]
"""Two rounds of the town: cluster 0 had most, and what cluster FAST had helped it most in the end."""


def without_chance(picker):
    """Whether the picker's entry in BEHAVIOURS says that it may pick the same whatever the seed; with explore it picks others."""
    return any(b.without_chance for b in BEHAVIOURS if b.parameter == "picker" and b.high == picker)


@every_unit
@every_strategy
def test_another_seed_or_round_picks_others(config, unit, town):
    if without_chance(resolve(config).picker):
        config = changed(config, explore=0.1)
    budget = budget_for(town, unit, 0.1, config)
    keys = [set(play(town, budget, config, seed, past=PAST).keys) for seed in [(1, 1), (2, 1), (1, 2)]]
    assert keys[0] != keys[1] and keys[0] != keys[2] and keys[1] != keys[2]


@every_strategy
def test_any_first_part_of_the_picks_is_spread_over_clusters_like_the_whole(config, town):
    played = play(town, Budget("examples", 120), changed(config, explore=0.1), past=PAST)
    picked, explored = played.selection.picked, played.explored
    group = np.zeros(800, dtype=int) if picker_of(config).whole_pool else town.cluster
    group = np.where(explored, 6, group)
    whole = np.bincount(group[picked], minlength=7)
    for part in (0.25, 0.5, 0.75):
        first = np.bincount(group[picked[: int(120 * part)]], minlength=7)
        assert np.abs(first - part * whole).max() <= 1.5


@every_strategy
def test_no_more_is_measured_than_the_strategy_needs(config, town):
    strategy, picker, budget = resolve(config), picker_of(config), Budget("examples", 80)
    played = play(town, budget, config, per_cluster=4, past=PAST)
    assert len(played.sampled) == (24 if needs_losses(config, 1) else 0)
    if not (picker.uses_score or measures(config)):
        assert played.measured.tolist() == played.sampled.tolist()
        return
    quota = played.quotas.quota.sum()
    assert len(played.measured) <= quota * strategy.shortlist_factor / (1 - strategy.tail_cut) + 2 * 6 + 24
    ranked = played.selection.picked[~played.explored[played.selection.picked]]
    assert not np.isnan(played.known.loss[ranked]).any(), "picked without knowing its loss"
    for name in measures(config):
        assert (played.known.vectors[name].row[ranked] >= 0).all(), f"picked without knowing its {name}"


@every_strategy
def test_nothing_is_measured_twice(config, town):
    given = handed(town, config)
    quotas = allocate(given, Budget("examples", 80), config, SEED, PAST)
    assert len(shortlist(given, quotas, config, SEED)) == 0
    half = np.arange(0, len(town), 2)
    assert not np.isin(shortlist(reveal(given, half), quotas, config, SEED), half).any()


@every_strategy
def test_suspects_are_never_measured_for_their_rank(config, town):
    nothing = reveal(handed(town, config), np.empty(0, dtype=np.int64))
    quotas = allocate(nothing, Budget("examples", 80), config, SEED)
    assert town.trusted[shortlist(nothing, quotas, config, SEED)].all()


@every_strategy
def test_bad_input_is_refused(config, town):
    town = handed(town, config)
    with pytest.raises(SelectionError, match="801 examples asked for"):
        allocate(town, Budget("examples", 801), config, SEED)
    with pytest.raises(SelectionError, match="the shortest selectable example has, found 1"):
        allocate(town, Budget("tokens", 1), config, SEED)
    with pytest.raises(SelectionError, match="held back as suspected noise"):
        allocate(replace(town, suspect=np.ones(800, bool)), Budget("examples", 1), config, SEED)
    quotas = allocate(town, Budget("examples", 80), config, SEED)
    for other in (Budget("examples", 79), Budget("tokens", 80)):
        with pytest.raises(SelectionError, match="quotas: expected"):
            select(town, quotas, other, config, SEED)


@pytest.mark.parametrize("picker", [name for name, traits in registry("picker").items() if traits.vectors])
def test_vectors_that_are_not_there_are_refused_by_name(picker, town):
    config = SelectConfig(strategy="random", picker=picker)
    with pytest.raises(SelectionError, match=f"picker {picker}.*(embedding|trajectory|gradient|hidden_states)"):
        pick_from(replace(town, vectors={}), Budget("examples", 5), config)


@pytest.mark.parametrize("picker", [name for name, traits in registry("picker").items() if traits.aims])
def test_a_picker_that_aims_needs_a_target(picker, town):
    config = SelectConfig(strategy="random", picker=picker)
    assert aims(config)
    aimless = {name: replace(found, targets=None) for name, found in town.vectors.items()}
    with pytest.raises(SelectionError, match=f"picker {picker}.*target"):
        pick_from(replace(town, vectors=aimless), Budget("examples", 5), config)


class Reads(dict):
    """Vectors by name that note which of them are read."""

    def __init__(self, vectors):
        super().__init__(vectors)
        self.names = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("picker", registry("picker"))
def test_a_picker_declares_just_what_it_reads(picker, town):
    traits, budget = registry("picker")[picker], Budget("examples", 80)
    config = SelectConfig(strategy="uniform", picker=picker)
    assert needs_losses(config, 1) == (traits.uses_score or bool(traits.vectors - {"embedding", "hidden_states"}))
    quotas = allocate(town, budget, config, SEED)
    reads = Reads(town.vectors)
    view = ClusterView(0, replace(town, vectors=reads), np.flatnonzero(town.trusted), 80, SEED)
    traits.rank(view, resolve(config))
    if traits.prefilter:
        traits.prefilter(view.candidates, 80)
    assert reads.names == traits.vectors
    picked = [
        select(replace(town, score=score), quotas, budget, config, SEED).picked.tolist()
        for score in (town.score, np.roll(town.score, 1))
    ]
    assert (picked[0] != picked[1]) == traits.uses_score


@pytest.mark.parametrize("tail_cut", [0.05, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("picker", [name for name, traits in registry("picker").items() if traits.uses_score])
def test_the_tail_cut_never_leads_to_a_pick_that_was_not_measured(picker, tail_cut, town):
    config = SelectConfig(strategy="size", picker=picker, tail_cut=tail_cut, shortlist_factor=1)
    played = play(town, budget_for(town, "examples", 0.9, config), config)
    assert not np.isnan(played.known.loss[played.selection.picked]).any()


@pytest.mark.parametrize("picker", [name for name, traits in registry("picker").items() if not traits.uses_score])
def test_pickers_that_do_not_rank_by_score_ignore_it(picker, town):
    config, budget = SelectConfig(strategy="loss", picker=picker), Budget("examples", 80)
    unscored = replace(town, score=np.full(800, np.nan))
    assert pick_from(town, budget, config).picked.tolist() == pick_from(unscored, budget, config).picked.tolist()


@every_unit
@pytest.mark.parametrize("number", [1, 2])
@every_strategy
def test_strategies_that_need_no_loss_ignore_it(config, number, unit, town):
    if needs_losses(config, number):
        return
    town = handed(town, config)
    budget, past = budget_for(town, unit, 0.1, config), PAST[: number - 1]
    unmeasured = reveal(town, np.empty(0, dtype=np.int64))
    quotas = [allocate(pool, budget, config, SEED, past) for pool in (town, unmeasured)]
    picked = [select(pool, q, budget, config, SEED).picked for pool, q in zip((town, unmeasured), quotas, strict=True)]
    assert picked[0].tolist() == picked[1].tolist()
    assert len(shortlist(unmeasured, quotas[1], config, SEED)) == 0


def test_trap_15_no_picker_ranks_the_whole_pool_by_loss(town):
    whole = [name for name, traits in registry("picker").items() if traits.whole_pool]
    assert whole and not any(registry("picker")[name].uses_score for name in whole)
    other = np.random.default_rng(0).permutation(town.loss)
    for name in whole:
        config, budget = SelectConfig(strategy="uniform", picker=name), Budget("examples", 80)
        picked = [pick_from(replace(town, loss=x, score=x), budget, config).picked for x in (town.loss, other)]
        assert picked[0].tolist() == picked[1].tolist()


@pytest.mark.parametrize("picker", [name for name, traits in registry("picker").items() if not traits.whole_pool])
def test_trap_15_however_high_a_cluster_s_losses_its_picks_are_its_quota(picker, town):
    config, budget = SelectConfig(strategy="uniform", picker=picker), Budget("examples", 60)
    high = np.where(town.cluster == 1, 100 * town.loss, town.loss)
    picked = pick_from(replace(town, loss=high, score=high), budget, config).picked
    assert np.bincount(town.cluster[picked]).tolist() == [10] * 6


# What a strategy costs

LARGE = [SelectConfig(strategy="uniform", picker=name, tail_cut=0.05) for name in registry("picker")]
LARGE += [SelectConfig(strategy="random", allocation=name, explore=0.02) for name in registry("allocation")]


def large(n, config):
    """A pool of n candidates, a budget of a two-hundredth of them, and a past."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, n // 400, n)
    found = vectors(rng, cluster, dimension=4)
    trajectory = rng.integers(0, 3, (n, 1)).astype(np.float32)
    found["trajectory"] = Vectors(trajectory, np.arange(n))
    pool = candidates(cluster, tokens=rng.integers(20, 500, n), loss=rng.random(n), confidence=rng.random(n))
    past = [PastRound(np.full(n // 400, 2.0), np.full(n // 400, 0.1), np.full(n // 400, 3.0))]
    return handed(replace(pool, vectors=found), config), n // 200, config, past


def peak_memory(n, config):
    """Bytes that a round on n candidates takes beyond the candidates themselves."""
    given = large(n, config)
    tracemalloc.start()
    try:
        assert len(pick_and_allocate(*given).picked) == n // 200
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def pick_and_allocate(pool, amount, config, past):
    budget = Budget("examples", amount)
    quotas = allocate(pool, budget, config, SEED, past)
    shortlist(reveal(pool, np.empty(0, dtype=np.int64)), quotas, config, SEED)
    return select(pool, quotas, budget, config, SEED)


@pytest.mark.parametrize("config", LARGE, ids=lambda config: f"{resolve(config).allocation}-{resolve(config).picker}")
def test_trap_19_memory_grows_with_the_candidates_and_not_with_their_square(config):
    n = 6_000
    pick_and_allocate(*large(2000, config))  # loads libraries, which takes long while memory is traced
    once, twice = peak_memory(n, config), peak_memory(2 * n, config)
    assert twice < 2.2 * once
    assert twice < 1000 * 2 * n, "n x n float32 would be 48 times as much"


def test_a_quarter_of_a_million_candidates_take_a_second_at_each_step():
    rng = np.random.default_rng(0)
    n, k = 250_000, 500
    cluster = np.r_[np.arange(k), rng.zipf(1.3, n - k) % k].astype(np.int32)
    pool = candidates(cluster, tokens=rng.integers(20, 2000, n), loss=rng.gamma(2, 0.5, n))
    config, budget = SelectConfig(strategy="top"), Budget("examples", 12_500)
    seen = reveal(pool, stratified_sample(pool.cluster, pool.keys, np.ones(n, bool), 8, SEED))
    seconds = {}

    def timed(step, *arguments):
        start = time.process_time()
        result = step(*arguments, config, SEED)
        seconds[step.__name__] = time.process_time() - start
        return result

    quotas = timed(allocate, seen, budget)
    known = reveal(pool, np.union1d(np.flatnonzero(~np.isnan(seen.loss)), timed(shortlist, seen, quotas)))
    assert len(timed(select, known, quotas, budget).picked) == 12_500
    assert max(seconds.values()) < 2.5, seconds


# What each parameter does


@dataclass(frozen=True)
class Behaviour:
    """Setting `parameter` to `high` instead of `low` raises `measure` of a round on average, all else being `base`.

    `later`: in the third round, with a past. `per_cluster`: how many are measured for the quotas. `without_chance`: why the picker
    `high` may pick the same whatever the seed.
    """

    says: str
    parameter: str
    low: object
    high: object
    measure: Callable
    base: dict = field(default_factory=lambda: {"strategy": "loss"})
    later: bool = False
    per_cluster: int | str = 4
    without_chance: str = ""

    def __str__(self):
        return f"{self.parameter}: {self.says}"


def hardest_quota(played):
    return played.quotas.quota[-1]


def largest_quota(played):
    return played.quotas.quota[0]


def fastest_quota(played):
    return played.quotas.quota[FAST]


def unsure_quota(played):
    return played.quotas.quota[UNSURE]


def evenness(played):
    return -np.ptp(played.quotas.quota)


def likeness_to_pool(played):
    """Minus how far the clusters' shares of the picks are from those of the pool, summed."""
    of = played.known.cluster
    shares = [np.bincount(some, minlength=of.max() + 1) / len(some) for some in (of[played.selection.picked], of)]
    return -np.abs(shares[0] - shares[1]).sum()


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
    values = known.score[picked] - level[known.cluster[picked]]
    return values[~np.isnan(values)]


def held_back(played):
    return (played.selection.outcome == "tail_cut").sum()


def worst_loss(played):
    return played.known.loss[played.selection.picked].max()


def measured(played):
    return len(played.measured)


def nearness_to_target(name):
    """Mean cosine of the picks to the nearest target example."""

    def nearness(played):
        found = played.truth.vectors[name]
        values = found.take(played.selection.picked).values()
        return (unit_length(values) @ unit_length(found.targets).T).max(1).mean()

    return nearness


def farness_from_target(played):
    return -nearness_to_target("embedding")(played)


def unlikeness(name):
    """Mean distance of the picks of a cluster to the nearest other one of it."""

    def apart(played):
        picked, result = played.selection.picked, []
        for c in np.unique(played.known.cluster[picked]):
            of_cluster = picked[played.known.cluster[picked] == c]
            values = unit_length(played.truth.vectors[name].take(of_cluster).values())
            cosine = values @ values.T - 3 * np.eye(len(values))
            result += (1 - cosine.max(1)).tolist() if len(values) > 1 else []
        return np.mean(result)

    return apart


def cover(played):
    """Mean cosine of all to the nearest pick of their cluster."""
    known, result = played.truth, []
    values = unit_length(known.vectors["embedding"].values())
    for c in np.unique(known.cluster[played.selection.picked]):
        picked = played.selection.picked[known.cluster[played.selection.picked] == c]
        result.append((values[known.cluster == c] @ values[picked].T).max(1).mean())
    return np.mean(result)


def rare_trajectories(played):
    return (played.truth.vectors["trajectory"].take(played.selection.picked).values()[:, 1] == 0.5).mean()


RANDOM_INSIDE = {"strategy": "uniform"}
BEHAVIOURS = [
    Behaviour("loss gives the hardest more than its size would", "allocation", "size", "loss", hardest_quota),
    Behaviour("size gives the largest cluster the most", "allocation", "uniform", "size", largest_quota),
    Behaviour("uniform treats clusters alike", "allocation", "random", "uniform", evenness),
    Behaviour("even treats clusters alike", "allocation", "random", "even", evenness),
    Behaviour("random follows size, not loss", "allocation", "loss", "random", largest_quota),
    Behaviour("confidence goes where the model is unsure", "allocation", "loss", "confidence", unsure_quota),
    Behaviour("learnability goes where loss fell", "allocation", "loss", "learnability", fastest_quota, later=True),
    Behaviour("adaptive goes where loss fell", "allocation", "loss", "adaptive", fastest_quota, later=True),
    Behaviour("adaptive makes up for what one had", "allocation", "adaptive", "loss", largest_quota, later=True),
    Behaviour("adaptive begins evenly", "allocation", "loss", "adaptive", evenness),
    Behaviour("target goes where the target lies", "allocation", "uniform", "target", nearness_to_target("embedding")),
    Behaviour("top takes higher scores than random", "picker", "random", "top", typical_score),
    Behaviour("mid takes them closer together", "picker", "random", "mid", closeness_of_scores),
    Behaviour("random measures less than mid", "picker", "random", "mid", measured),
    Behaviour(
        "k_center goes far apart",
        "picker",
        "random",
        "k_center",
        unlikeness("embedding"),
        RANDOM_INSIDE,
        without_chance="it starts at the middle of a cluster; chance breaks ties only",
    ),
    Behaviour(
        "facility_location covers",
        "picker",
        "random",
        "facility_location",
        cover,
        RANDOM_INSIDE,
        without_chance="greedy on a whole cluster; chance breaks ties only",
    ),
    Behaviour("badge takes gradients apart", "picker", "random", "badge", unlikeness("gradient")),
    Behaviour("deita takes no near copies", "picker", "top", "deita", unlikeness("embedding")),
    Behaviour("deita takes high scores all the same", "picker", "random", "deita", typical_score),
    Behaviour("qdit covers more than deita", "picker", "top", "qdit", cover),
    Behaviour("qdit takes higher scores than random", "picker", "random", "qdit", typical_score),
    Behaviour("s2l takes rare trajectories", "picker", "random", "s2l", rare_trajectories),
    Behaviour(
        "longest takes the longest",
        "picker",
        "random",
        "longest",
        mean_length,
        without_chance="the longest of a cluster are the same whatever the seed",
    ),
    Behaviour(
        "nearest goes to the target",
        "picker",
        "random",
        "nearest",
        nearness_to_target("embedding"),
        without_chance="chance only says which target has the first turn",
    ),
    Behaviour(
        "rds_centered goes there by hidden states of the base",
        "picker",
        "random",
        "rds_centered",
        nearness_to_target("hidden_states"),
        without_chance="chance only says which target has the first turn",
    ),
    Behaviour(
        "rds goes there by hidden states",
        "picker",
        "nearest",
        "rds",
        nearness_to_target("pooled"),
        without_chance="chance only says which target has the first turn; what is measured lies nearest to the target",
    ),
    Behaviour(
        "less goes there by gradients",
        "picker",
        "nearest",
        "less",
        nearness_to_target("gradient"),
        without_chance="chance only says which target has the first turn; what is measured lies nearest to the target",
    ),
    Behaviour("random gives the largest more than uniform does", "strategy", "uniform", "random", largest_quota, {}),
    Behaviour("proportional is the pool, without chance", "strategy", "random", "proportional", likeness_to_pool, {}),
    Behaviour("uniform is evener than size", "strategy", "size", "uniform", evenness, {}),
    Behaviour("size is less uneven than the pool", "strategy", "random", "size", evenness, {}),
    Behaviour("source_uniform is evener than its size", "strategy", "source_size", "source_uniform", evenness, {}),
    Behaviour("source_size is less uneven than the pool", "strategy", "random", "source_size", evenness, {}),
    Behaviour("source_kinds is evener than the pool", "strategy", "random", "source_kinds", evenness, {}),
    Behaviour("kind_uniform is evener than its size", "strategy", "kind_size", "kind_uniform", evenness, {}),
    Behaviour("kind_size is less uneven than the pool", "strategy", "random", "kind_size", evenness, {}),
    Behaviour("default begins evenly", "strategy", "loss", "default", evenness, {}),
    Behaviour("default goes where loss fell", "strategy", "loss", "default", fastest_quota, {}, later=True),
    Behaviour("loss gives the hardest more than random", "strategy", "random", "loss", hardest_quota, {}),
    Behaviour("loss holds the highest back", "strategy", "random", "loss", held_back, {}, per_cluster="all"),
    Behaviour("top takes higher scores than mid", "strategy", "mid", "top", typical_score, {}),
    Behaviour("rising takes harder ones than mid", "strategy", "mid", "rising", typical_score, {}, later=True),
    Behaviour("confidence asks where it is unsure", "strategy", "loss", "confidence", unsure_quota, {}),
    Behaviour("learnability goes where it helps", "strategy", "loss", "learnability", fastest_quota, {}, later=True),
    Behaviour("k_center goes far apart", "strategy", "uniform", "k_center", unlikeness("embedding"), {}),
    Behaviour("facility_location covers", "strategy", "uniform", "facility_location", cover, {}),
    Behaviour("badge takes gradients apart", "strategy", "loss", "badge", unlikeness("gradient"), {}),
    Behaviour("deita takes no near copies", "strategy", "top", "deita", unlikeness("embedding"), {}),
    Behaviour("qdit covers", "strategy", "top", "qdit", cover, {}),
    Behaviour("s2l takes rare trajectories", "strategy", "uniform", "s2l", rare_trajectories, {}),
    Behaviour("longest takes the longest", "strategy", "uniform", "longest", mean_length, {}),
    Behaviour(
        "target goes where the target lies", "strategy", "uniform", "target", nearness_to_target("embedding"), {}
    ),
    Behaviour("nearest goes to the target", "strategy", "uniform", "nearest", nearness_to_target("embedding"), {}),
    Behaviour("rds goes there by hidden states", "strategy", "nearest", "rds", nearness_to_target("pooled"), {}),
    Behaviour(
        "rds_centered goes there by hidden states of the base",
        "strategy",
        "uniform",
        "rds_centered",
        nearness_to_target("hidden_states"),
        {},
    ),
    Behaviour("less goes there by gradients", "strategy", "nearest", "less", nearness_to_target("gradient"), {}),
    Behaviour("sharpens towards the hardest", "temperature", 0.5, 4, hardest_quota),
    Behaviour("sharpens towards the largest", "temperature", 0.5, 1, largest_quota, {"allocation": "size"}),
    Behaviour("sharpens towards the unsure", "temperature", 0.5, 4, unsure_quota, {"allocation": "confidence"}),
    Behaviour("0 is uniform", "temperature", 1, 0, evenness, {"allocation": "size"}),
    Behaviour("makes more of how loss fell", "learn", 0, 1.5, fastest_quota, {"strategy": "default"}, later=True),
    Behaviour("strays from the target", "explore", 0, 0.5, farness_from_target, {"strategy": "nearest"}),
    Behaviour("holds more back", "tail_cut", 0.05, 0.2, held_back, {"strategy": "mid"}),
    Behaviour("0 holds nothing back", "tail_cut", 0, 0.05, held_back, {"strategy": "mid"}),
    Behaviour("keeps the worst losses out of the picks", "tail_cut", 0.2, 0, worst_loss, {"strategy": "top"}),
    Behaviour("more bins favour short examples less", "length_bins", 1, 4, mean_length, {"strategy": "top"}),
    Behaviour("a wider band takes scores further apart", "mid_band", 0.1, 0.9, spread_of_scores, {"strategy": "mid"}),
    Behaviour("takes harder ones later", "rising", False, True, typical_score, {"strategy": "mid"}, later=True),
    Behaviour("more follows the score more closely", "shortlist_factor", 1, 6, typical_score, {"strategy": "top"}),
    Behaviour("more costs more measurements", "shortlist_factor", 1, 6, measured, {"strategy": "top"}),
    Behaviour("more aims better", "shortlist_factor", 1, 3, nearness_to_target("pooled"), {"strategy": "rds"}),
]


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=str)
def test_the_parameter_does_what_it_says(behaviour, town):
    number, past = (3, PAST) if behaviour.later else (1, [])

    def outcome(value):
        config = SelectConfig(**{**behaviour.base, behaviour.parameter: value})
        budget, measured = Budget("examples", 100), behaviour.per_cluster
        rounds = [play(town, budget, config, (seed, number), measured, past) for seed in range(6)]
        return np.mean([behaviour.measure(played) for played in rounds])

    low, high = outcome(behaviour.low), outcome(behaviour.high)
    assert high > low


def test_rising_begins_in_the_middle(town):
    mid, rising = (play(town, Budget("examples", 60), SelectConfig(strategy=name)).keys for name in ("mid", "rising"))
    assert mid == rising


WHAT_GROUPS_ARE = {"by"}
"""Parameters that decide what the clusters are before anything is selected: tests/integration/test_groups.py."""


def test_no_parameter_is_without_a_behaviour():
    assert {behaviour.parameter for behaviour in BEHAVIOURS} == set(SelectConfig.model_fields) - WHAT_GROUPS_ARE


@pytest.mark.parametrize("kind", ["strategy", "allocation", "picker"])
def test_no_name_is_without_a_behaviour(kind):
    named = {value for b in BEHAVIOURS if b.parameter == kind for value in (b.low, b.high)}
    assert named == set(registry(kind))


def test_every_strategy_says_what_it_does():
    assert [name for name, strategy in STRATEGIES.items() if not strategy.about.strip()] == []
