"""What is measured before picks are made: shortlists, and picks for the noise check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_pools import SEED, candidates, vectors

from selection.config import SelectConfig
from selection.registry import STRATEGIES
from selection.shortlist import shortlist
from selection.strategy import Budget, allocate, needs_losses, select

RNG = np.random.default_rng(0)
CLUSTER = RNG.integers(0, 12, 1500)
POOL = candidates(CLUSTER, tokens=RNG.integers(5, 200, 1500), vectors=vectors(RNG, CLUSTER))
SPREAD_OUT = ("k_center", "facility_location")
WITHOUT_LOSSES = [name for name in STRATEGIES if not needs_losses(SelectConfig(strategy=name), 1)]


def look(config, budget, pool=POOL, at_most=10**6):
    quotas = allocate(pool, budget, config, SEED)
    return quotas, shortlist(pool, quotas, config, SEED, noise_checks=at_most)


@pytest.mark.parametrize("budget", [Budget("examples", 200), Budget("tokens", 20_000)], ids=lambda b: b.unit)
@pytest.mark.parametrize("strategy", WITHOUT_LOSSES)
def test_every_pick_is_looked_at_before_it_is_one(strategy, budget):
    config = SelectConfig(strategy=strategy)
    quotas, rows = look(config, budget)
    picked = select(POOL, quotas, budget, config, SEED).picked
    filled = picked[: len(picked) - len(picked) // 10]  # what is left of tokens in the end is filled with whatever fits
    assert np.isin(filled if budget.unit == "tokens" else picked, rows).all()
    assert len(rows) < 2 * len(picked)


@pytest.mark.parametrize("strategy", WITHOUT_LOSSES)
def test_spares_replace_the_suspects_among_what_was_looked_at(strategy):
    config, budget = SelectConfig(strategy=strategy), Budget("examples", 200)
    _, rows = look(config, budget)
    suspect = np.zeros(len(POOL), dtype=bool)
    suspect[rows[::10]] = True
    looked_at = candidates(CLUSTER, tokens=POOL.tokens, vectors=POOL.vectors, suspect=suspect)
    picked = select(looked_at, allocate(looked_at, budget, config, SEED), budget, config, SEED).picked
    assert len(picked) == 200 and not suspect[picked].any()
    assert np.isin(picked, rows).mean() > (0.6 if strategy in SPREAD_OUT else 0.95)


def test_what_is_explored_is_looked_at_too():
    config = SelectConfig(strategy="random", explore=0.2)
    quotas, rows = look(config, Budget("examples", 100))
    assert len(quotas.explored) == 20 and np.isin(np.flatnonzero(np.isin(POOL.keys, quotas.explored)), rows).all()


def test_spares_of_what_is_explored_are_looked_at_too():
    config, budget = SelectConfig(strategy="random", explore=0.5), Budget("examples", 200)
    quotas, rows = look(config, budget)
    suspect = np.isin(POOL.keys, quotas.explored[::5])
    cleaned = candidates(CLUSTER, tokens=POOL.tokens, suspect=suspect)
    again = allocate(cleaned, budget, config, SEED)
    assert np.isin(np.flatnonzero(np.isin(POOL.keys, again.explored)), rows).all()


def test_a_bounded_look_is_at_picks_of_large_and_small_clusters_alike():
    cluster = np.concatenate([np.repeat(np.arange(5), 2000), 5 + np.arange(45 * 60) % 45])
    uneven = candidates(cluster)
    config, budget = SelectConfig(strategy="uniform", explore=0.0), Budget("examples", 1000)
    quotas, rows = look(config, budget, uneven, at_most=300)
    picked = select(uneven, quotas, budget, config, SEED).picked
    assert len(rows) == 300 and np.isin(rows, picked).all()
    assert 0.05 < (cluster[rows] < 5).mean() < 0.15  # a tenth of the picks


def test_at_most_so_many_are_looked_at_and_none_that_was_measured():
    config, budget = SelectConfig(strategy="uniform"), Budget("examples", 200)
    _, everything = look(config, budget)
    _, some = look(config, budget, at_most=50)
    assert len(some) == 50 and np.isin(some, everything).all()
    known = replace(POOL, loss=np.where(np.isin(np.arange(len(POOL)), some), 1.0, np.nan))
    _, rest = look(config, budget, known)
    assert len(rest) == len(everything) - 50 and not np.isin(rest, some).any()
    assert len(look(config, budget, at_most=0)[1]) == 0


def test_the_order_of_the_pool_does_not_matter():
    config, budget = SelectConfig(strategy="uniform", explore=0.1), Budget("examples", 200)
    order = np.random.default_rng(1).permutation(len(POOL))
    _, one = look(config, budget, at_most=60)
    _, other = look(config, budget, POOL.take(order), at_most=60)
    assert set(POOL.keys[one]) == set(POOL.keys[order][other])
