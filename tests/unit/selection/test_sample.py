"""The random sample that is measured, and the numbers it is drawn by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pools import SEED, candidates, play
from scipy.stats import chisquare, kstest

from selection.config import SelectConfig
from selection.randomness import derive_seed, keyed_draw
from selection.sample import stratified_sample
from selection.strategy import Budget


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=80), st.integers(1, 12))
def test_each_cluster_gives_its_number_or_all_it_has(rows, per_cluster):
    cluster, eligible = (np.array([row[i] for row in rows], dtype=t) for i, t in ((0, int), (1, bool)))
    sample = stratified_sample(cluster, np.arange(len(rows)) * 31, eligible, per_cluster, SEED)
    assert (np.diff(sample) > 0).all() and eligible[sample].all()
    have = np.bincount(cluster[eligible], minlength=6)
    assert np.bincount(cluster[sample], minlength=6).tolist() == np.minimum(have, per_cluster).tolist()


def test_all_means_all_that_are_eligible():
    eligible = np.array([True, False, True])
    assert stratified_sample(np.zeros(3, int), np.arange(3), eligible, "all", SEED).tolist() == [0, 2]


def test_order_of_rows_does_not_matter_and_seed_and_round_do():
    rng = np.random.default_rng(0)
    cluster, keys, order = rng.integers(0, 4, 200), rng.permutation(200), rng.permutation(200)

    def sampled(rows, seed):
        return set(keys[rows][stratified_sample(cluster[rows], keys[rows], np.ones(200, bool), 5, seed)])

    assert sampled(np.arange(200), (1, 1)) == sampled(order, (1, 1))
    assert len({frozenset(sampled(order, seed)) for seed in [(1, 1), (1, 2), (2, 1)]}) == 3


def test_every_example_of_a_cluster_is_as_likely():
    cluster, keys = np.repeat([0, 1], [20, 30]), np.arange(50)
    samples = [stratified_sample(cluster, keys, np.ones(50, bool), 4, (seed,)) for seed in range(2000)]
    count = np.bincount(np.concatenate(samples), minlength=50)
    assert chisquare(count[:20]).pvalue > 1e-3 and chisquare(count[20:]).pvalue > 1e-3


def test_what_the_random_picker_takes_is_measured_first():
    rng = np.random.default_rng(0)
    pool = candidates(np.repeat(np.arange(4), 50), loss=rng.random(200))
    played = play(pool, Budget("examples", 12), SelectConfig(allocation="uniform", tail_cut=0.05), per_cluster=8)
    assert len(played.measured) == 4 * 8, "a sample larger than the quota leaves nothing to measure"


@pytest.mark.parametrize("keys", [np.arange(20_000), np.arange(20_000) << 40], ids=["low bits", "high bits"])
def test_draws_are_uniform_even_for_keys_in_sequence(keys):
    draw = keyed_draw(keys, *SEED)
    assert kstest(draw / 2**64, "uniform").pvalue > 1e-3
    assert chisquare(np.bincount(draw % 64, minlength=64)).pvalue > 1e-3
    assert abs(np.corrcoef(draw[1:] / 2**64, draw[:-1] / 2**64)[0, 1]) < 0.03


def test_an_examples_draw_is_its_own_and_differs_by_seed_part():
    assert keyed_draw(np.arange(10), 1, 2)[3] == keyed_draw(np.array([3, 99]), 1, 2)[0]
    a, b = (keyed_draw(np.arange(5000), *parts) / 2**64 for parts in ((1, 2), (2, 1)))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


def test_derived_seeds_are_31_bit_and_differ():
    seeds = {derive_seed(*parts) for parts in [(1,), (2,), (0, 1), (1, 2), (2, 1)]}
    assert len(seeds) == 5 and all(0 <= seed < 2**31 for seed in seeds)
