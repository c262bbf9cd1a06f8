"""Which examples of a cluster fill its quota, and which the tail cut holds back."""

from __future__ import annotations

import numpy as np
import pytest
from fuzz import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pools import candidates, pick_from, play
from scipy.stats import chi2

from selection.config import SelectConfig
from selection.fill import fill_tokens
from selection.pick import MIN_MEASURED_FOR_CUT, most_suspects, suspects
from selection.scores import length_correlation
from selection.strategy import Budget, allocate

DRAWS = cases(400, 1500)


def picked_by(pool, amount, seed=(7, 1), **config):
    config = SelectConfig(strategy="loss", allocation="size", **config)
    return pick_from(pool, Budget("examples", amount), config, seed).picked


def draws(pool, amount, config, seeds):
    """(n,) how often each candidate was picked over that many seeds."""
    picked = [pick_from(pool, Budget("examples", amount), config, (seed,)).picked for seed in range(seeds)]
    return np.bincount(np.concatenate(picked), minlength=len(pool))


def p_value(count, seeds):
    """Of Pearson's statistic against every candidate being as likely; picks without replacement narrow it."""
    n, expected = len(count), count.mean()
    statistic = ((count - expected) ** 2).sum() / expected / (1 - expected / seeds) * (n - 1) / n
    return chi2.sf(statistic, n - 1)


# The tail cut


@pytest.fixture(scope="module")
def mislabelled():
    """A pool of 20 clusters in which 5% have a huge loss; and which."""
    rng = np.random.default_rng(1)
    wrong = np.arange(4000) % 20 == 3
    loss = rng.gamma(4, 0.25, 4000) + np.where(wrong, 8, 0)
    return candidates(np.repeat(np.arange(20), 200), tokens=rng.integers(10, 500, 4000), loss=loss), wrong


def test_trap_15_top_takes_none_of_the_mislabelled_once_all_is_measured(mislabelled):
    pool, wrong = mislabelled
    assert not wrong[picked_by(pool, 400, picker="top")].any()
    assert wrong[picked_by(pool, 400, picker="top", tail_cut=0)].mean() > 0.4, "the trap is open without a cut"


@pytest.mark.parametrize("strategy", ["top", "mid", "rising"])
def test_trap_15_a_partly_measured_pool_gives_fewer_mislabelled_than_a_random_draw(strategy, mislabelled):
    pool, wrong = mislabelled
    budget, config = Budget("examples", 400), SelectConfig(strategy=strategy)
    share = [wrong[play(pool, budget, config, (seed, 1), 8).selection.picked].mean() for seed in range(5)]
    assert np.mean(share) < 0.8 * wrong.mean()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.just(np.nan), st.integers(0, 9), st.floats(0, 1e6)), max_size=120), st.floats(0, 0.99))
def test_suspects_are_the_highest_losses_and_never_more_than_provided_for(loss, share):
    loss = np.array(loss, dtype=float)
    cut = suspects(loss, share)
    known = ~np.isnan(loss)
    assert not cut[~known].any()
    assert cut.sum() <= most_suspects(known.sum(), share) <= most_suspects(len(loss), share)
    if cut.any():
        assert known.sum() >= MIN_MEASURED_FOR_CUT and loss[cut].min() > loss[known & ~cut].max()


@pytest.mark.parametrize(("n", "share"), [(11, 0.1), (21, 0.05), (91, 0.3), (101, 0.07), (76, 0.32), (1001, 0.05)])
def test_a_share_that_comes_out_even_is_not_rounded_to_one_more(n, share):
    assert suspects(np.arange(n, dtype=float), share).sum() == most_suspects(n, share) == round((n - 1) * share)


def test_four_measured_say_nothing_about_noise_and_five_do():
    assert not suspects(np.array([1, 2, 3, 99.0, np.nan]), 0.05).any()
    assert suspects(np.array([1, 2, 3, 99.0, 4]), 0.05).tolist() == [False, False, False, True, False]


def test_equal_losses_are_no_tail():
    assert not suspects(np.full(50, 2.0), 0.3).any()


# top


@pytest.fixture(scope="module")
def short_is_hard():
    """One cluster whose loss falls with length, as mean losses per token do."""
    rng = np.random.default_rng(4)
    tokens = rng.integers(10, 1000, 1000)
    return candidates(np.zeros(1000, int), tokens=tokens, loss=3 - np.log10(tokens) + rng.normal(0, 0.1, 1000))


def test_trap_15_top_does_not_favour_short_examples(short_is_hard):
    pool = short_is_hard
    assert length_correlation(pool.score, pool.tokens) < -0.9
    middle = np.median(pool.tokens)
    plain = picked_by(pool, 100, picker="top", length_bins=1, tail_cut=0)
    assert np.median(pool.tokens[plain]) < 0.2 * middle
    binned = picked_by(pool, 100, picker="top", length_bins=20, tail_cut=0)
    assert np.median(pool.tokens[binned]) == pytest.approx(middle, rel=0.1)
    share_by_quarter = np.histogram(pool.tokens[binned], np.quantile(pool.tokens, [0, 0.25, 0.5, 0.75, 1]))[0] / 100
    assert np.abs(share_by_quarter - 0.25).max() <= 0.03


@pytest.mark.parametrize("size", [20, 23])
@pytest.mark.parametrize("amount", [1, 2, 3])
def test_trap_15_quotas_below_the_number_of_bins_do_not_favour_short_ones(amount, size):
    quarter = np.zeros(4)
    for seed in range(400):
        loss = np.random.default_rng(seed).random(size)
        pool = candidates(np.zeros(size, int), tokens=np.arange(10, 10 + size), loss=loss)
        np.add.at(quarter, picked_by(pool, amount, (seed,), picker="top", tail_cut=0) * 4 // size, 1)
    assert quarter.min() > 0.17 * 400 * amount and quarter.max() < 0.33 * 400 * amount


def test_top_takes_the_highest_of_each_length_bin():
    tokens = np.r_[np.arange(10, 20), np.arange(100, 110)]
    score = np.r_[np.arange(10.0), np.arange(100.0, 110)]
    pool = candidates(np.zeros(20, int), tokens=tokens, loss=1.0, score=score)
    assert sorted(picked_by(pool, 6, picker="top", length_bins=2)) == [7, 8, 9, 17, 18, 19]


def test_top_copes_with_lengths_that_are_all_the_same():
    pool = candidates(np.zeros(20, int), tokens=50, loss=np.arange(20.0))
    assert picked_by(pool, 3, picker="top", tail_cut=0).tolist() == [19, 18, 17]


# mid and random


@pytest.mark.parametrize("band", [0.2, 0.5])
def test_mid_takes_the_band_around_the_median_first(band):
    pool = candidates(np.zeros(100, int), loss=1.0, score=np.random.default_rng(0).permutation(100))
    inside = int(100 * band)
    quantile = (pool.score[picked_by(pool, inside, picker="mid", mid_band=band)] + 0.5) / 100
    assert np.abs(quantile - 0.5).max() <= band / 2
    wider = np.abs((pool.score[picked_by(pool, inside + 20, picker="mid", mid_band=band)] + 0.5) / 100 - 0.5)
    assert wider.max() <= band / 2 + 0.1 + 1e-9, "then outwards"


def test_mid_draws_at_random_inside_its_band():
    pool = candidates(np.zeros(100, int), loss=1.0, score=np.arange(100.0))
    picked = np.concatenate([picked_by(pool, 10, (seed,), picker="mid") for seed in range(500)])
    count = np.bincount(picked, minlength=100)
    assert count[:25].sum() == count[75:].sum() == 0
    assert p_value(count[25:75], 500) > 1e-3


@pytest.mark.parametrize("picker", ["top", "mid"])
def test_unmeasured_examples_come_last_and_say_so(picker):
    pool = candidates(np.zeros(10, int), loss=1.0, score=[np.nan, 1, np.nan, 2, np.nan, 3, 4, 5, np.nan, 6])
    chosen = pick_from(pool, Budget("examples", 8), SelectConfig(picker=picker))
    assert set(chosen.picked[:6]) == {1, 3, 5, 6, 7, 9}
    assert all(step.startswith("random, no one with a score is left") for step in chosen.step[6:])


def test_steps_say_the_place_and_the_rank_of_the_loss():
    pool = candidates(np.zeros(4, int), tokens=[10, 20, 30, 40], loss=[4, np.nan, 2, 1], score=[1, 2, 3, 4])

    def steps(**config):
        chosen = pick_from(pool, Budget("examples", 4), SelectConfig(strategy="uniform", **config))
        return dict(zip(chosen.picked.tolist(), chosen.step, strict=True))

    top = steps(picker="top", length_bins=1)
    assert top[3] == "rank 1 of 4 measured with 10 to 40 tokens in group 0; NLL 1.00 is rank 3 of 3 measured"
    assert top[1].endswith("NLL not measured") and top[0].endswith("NLL 4.00 is rank 1 of 3 measured")
    assert steps(picker="mid")[0].startswith("quantile 0.12 of 4 measured, nearest outside 25% to 75%")
    places = {step.split(" in ")[0] for step in steps(picker="random").values()}
    assert places == {f"drawn at random: number {i} of the 4 that could be picked" for i in (1, 2, 3, 4)}


# Spending tokens


def test_what_the_quotas_leave_goes_to_the_cluster_furthest_below_its_own():
    taken, prefixes = fill_tokens([np.array([70, 35]), np.array([60, 60, 20])], np.array([80, 100]), 180)
    assert taken[:prefixes] == [(0, 0), (1, 0)]
    assert taken[prefixes:] == [(1, 2)], "1 is 40 below, 0 only 10; 60 does not fit into the 50 left"


def test_a_long_example_is_not_passed_over_while_the_quota_lasts():
    taken, prefixes = fill_tokens([np.array([50, 200, 50])], np.array([300]), 300)
    assert taken == [(0, 0), (0, 1), (0, 2)] and prefixes == 3


# Chance


def test_random_picks_everyone_alike_whatever_the_clusters():
    pool = candidates([0] * 25 + [1] * 10 + [3] * 4 + [4], loss=np.random.default_rng(0).random(40))
    assert p_value(draws(pool, 12, SelectConfig(strategy="random"), DRAWS), DRAWS) > 1e-3


def test_loss_picks_everyone_alike_inside_a_cluster_but_for_the_tail():
    loss = np.random.default_rng(0).permutation(40) / 10
    count = draws(candidates([0] * 40, loss=loss), 12, SelectConfig(strategy="loss"), DRAWS)
    tail = np.argsort(loss)[-2:]
    assert (count[tail] == 0).all()
    assert p_value(np.delete(count, tail), DRAWS) > 1e-3


def test_exploration_picks_everyone_alike_whatever_the_picker_thinks():
    pool = candidates([0] * 25 + [1] * 15, tokens=np.arange(1, 41))
    explored = [
        allocate(pool, Budget("examples", 20), SelectConfig(strategy="longest", explore=0.5), (seed, 1)).explored
        for seed in range(DRAWS)
    ]
    assert {len(keys) for keys in explored} == {10}
    count = np.bincount(np.searchsorted(pool.keys, np.concatenate(explored)), minlength=40)
    assert p_value(count, DRAWS) > 1e-3
