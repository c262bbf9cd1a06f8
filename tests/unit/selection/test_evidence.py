"""What earlier rounds teach about clusters, and what the allocations that look at it make of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pools import SEED, candidates, past_rounds

from selection.allocate import _fill_up
from selection.config import SelectConfig
from selection.evidence import LEAST, MOST, gather
from selection.losses import ClusterLosses, cluster_losses
from selection.strategy import Budget, PastRound, allocate

quick = settings(max_examples=150, deadline=None, derandomize=True)


def losses_now(mean, stderr=0.02):
    """Losses of clusters measured as well as `stderr` says."""
    mean = np.asarray(mean, dtype=float)
    k = len(mean)
    expected = np.where(np.isnan(mean), np.nanmean(mean) if (~np.isnan(mean)).any() else np.nan, mean)
    stderr = np.broadcast_to(np.asarray(stderr, dtype=float), k)
    return ClusterLosses(np.full(k, 100), np.full(k, 8), mean, stderr, expected, float(np.mean(expected)))


def power_law(alpha, stderr, rounds=3, noise=None, first=None):
    """Rounds in which cluster c's loss falls by 2^-alpha[c] at each doubling of what it had, amounts that differ by round."""
    alpha = np.asarray(alpha, dtype=float)
    spent = np.zeros(len(alpha))
    losses, amounts = [np.full(len(alpha), 3.0) if first is None else first], []
    for r in range(rounds):
        amounts.append(10.0 * 2**r + 5 * np.arange(len(alpha)))
        x = np.log2((spent + amounts[-1] + 1) / (spent + 1))
        error = 0 if noise is None else noise.normal(0, stderr, len(alpha))
        losses.append(losses[-1] * np.exp(-alpha * x) + error)
        spent = spent + amounts[-1]
    past = [PastRound(a, np.full(len(alpha), stderr), b) for a, b in zip(losses, amounts, strict=False)]
    return past, losses_now(losses[-1], stderr)


@st.composite
def histories(draw):
    """Any past, measured here and there, and losses of the present."""
    k, rounds = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mean = np.where(rng.random(k) < draw(st.sampled_from([0, 0.3, 1])), np.nan, rng.gamma(4, 0.4, k))
    stderr = np.where(rng.random(k) < 0.3, np.nan, rng.choice([0.0, 0.1, 2.0], k))
    return past_rounds(rng, k, rounds), losses_now(mean, stderr)


def permuted(history, order):
    past, now = history
    moved = [PastRound(entry.loss[order], entry.stderr[order], entry.spent[order]) for entry in past]
    arrays = (now.size, now.measured, now.mean, now.stderr, now.expected)
    return moved, ClusterLosses(*(values[order] for values in arrays), now.pool_mean)


# What holds whatever happened


@quick
@given(histories())
def test_evidence_is_bounded_and_says_where_it_knows_nothing(history):
    past, now = history
    found = gather(past, now)
    assert all(values.shape == now.mean.shape for values in vars(found).values())
    assert ((LEAST <= found.relative_fall) & (found.relative_fall <= MOST)).all()
    assert np.isfinite(found.gain).all() and np.isfinite(found.gain_error).all() and (found.gain_error >= 0).all()
    assert (np.isnan(found.fall) == np.isnan(found.fall_error)).all()
    assert (found.relative_fall[np.isnan(found.fall)] == 1).all()
    assert (found.spent == sum(entry.spent for entry in past)).all()


@quick
@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_clusters_changes_nothing(history, shuffle):
    k = len(history[1].mean)
    order = np.array(shuffle.sample(range(k), k))
    found, moved = gather(*history), gather(*permuted(history, order))
    for name, values in vars(found).items():
        assert np.allclose(values[order], getattr(moved, name), rtol=1e-6, atol=1e-9, equal_nan=True), name


@quick
@given(histories(), st.integers(1, 5))
def test_clusters_that_came_since_are_not_known(history, more):
    past, now = history
    grown = losses_now(np.r_[now.mean, np.full(more, np.nan)], np.r_[now.stderr, np.full(more, np.nan)])
    found = gather(past, grown)
    assert (found.spent[-more:] == 0).all() and np.isnan(found.fall[-more:]).all()
    assert (found.relative_fall[-more:] == 1).all()


# What it means


def test_with_enough_evidence_rates_come_out_as_they_are():
    alpha = np.array([0.05, 0.1, 0.15, 0.2])
    found = gather(*power_law(alpha, 0.001, rounds=5))
    assert np.argsort(found.relative_fall).tolist() == [0, 1, 2, 3]
    assert found.relative_fall[3] > 2 * found.relative_fall[0]
    assert np.abs(found.fall - found.fall.mean() - (alpha - alpha.mean())).max() < 0.05


def test_thin_evidence_says_that_clusters_are_alike():
    past, now = power_law([0.1] * 12, 0.4, noise=np.random.default_rng(1))
    thin = gather(past, now).relative_fall
    surer = [PastRound(entry.loss, np.full(12, 0.001), entry.spent) for entry in past]
    thick = gather(surer, losses_now(now.mean, 0.001)).relative_fall
    assert np.abs(thin - 1).max() < 0.3 < np.abs(thick - 1).max(), "the same losses, believed"


def test_a_cluster_that_is_known_less_well_is_pulled_further_to_the_mean():
    past, now = power_law([0.05] * 4 + [0.1] * 4 + [0.2] * 4, 0.01)
    error = np.r_[np.full(11, 0.01), 1.0]
    vague = gather([PastRound(e.loss, error, e.spent) for e in past], losses_now(now.mean, error))
    sure = gather(past, now)
    assert 1 < vague.relative_fall[11] < 1 + 0.7 * (sure.relative_fall[11] - 1)
    assert np.allclose(vague.relative_fall[8:11], sure.relative_fall[8:11], rtol=0.15)
    assert vague.fall_error[11] > 1.5 * vague.fall_error[10]


def test_extremes_count_as_least_and_most():
    found = gather(*power_law([0.0] * 14 + [1.5], 0.001, rounds=2))
    assert found.relative_fall[14] == MOST
    found = gather(*power_law([-0.1] + [0.3] * 14, 0.001, rounds=3))
    assert found.relative_fall[0] == LEAST


def test_what_every_round_teaches_is_no_merit_of_what_was_spent():
    past, now = power_law([0.1, 0.1, 0.2, 0.2, 0.1, 0.2], 0.001, rounds=4)
    everywhere = [PastRound(e.loss * 0.5**r, e.stderr, e.spent) for r, e in enumerate(past)]
    found, shifted = gather(past, now), gather(everywhere, losses_now(now.mean * 0.5**4, 0.001))
    assert np.allclose(found.fall, shifted.fall, atol=0.02)


@pytest.mark.parametrize("missing", ["losses", "errors", "now", "spending alike"])
def test_without_evidence_every_cluster_counts_alike(missing):
    past, now = power_law([0.05, 0.1, 0.2], 0.01, rounds=1)
    nothing = np.full(3, np.nan)
    if missing == "losses":
        past = [PastRound(nothing, e.stderr, e.spent) for e in past]
    if missing == "errors":
        past = [PastRound(e.loss, nothing, e.spent) for e in past]
    if missing == "now":
        now = losses_now(nothing)
    if missing == "spending alike":
        past = [PastRound(e.loss, e.stderr, np.full(3, 10.0)) for e in past]
    found = gather(past, now)
    assert found.relative_fall.tolist() == [1, 1, 1] and np.isnan(found.fall).all()


def test_gains_are_falls_of_the_loss_that_is_left():
    past, now = power_law([0.1, 0.2, 0.1, 0.2], 0.01, first=np.array([1.0, 1.0, 4.0, 4.0]))
    found = gather(past, now)
    assert np.allclose(found.gain, found.fall * now.expected)
    assert found.gain[3] > 3 * found.gain[1]


# Filling up


def poured(worth, spent, total):
    """The same by bisection on the level that all are filled up to."""
    low, high = 0.0, (total + spent.sum()) / worth[worth > 0].min() + 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if np.maximum(0, middle * worth - spent).sum() > total else (middle, high)
    return np.maximum(0, low * worth - spent)


amounts = st.one_of(st.just(0.0), st.floats(0.01, 1000))


@quick
@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=10), st.integers(0, 1000))
def test_filling_up_is_water_filling(clusters, total):
    worth, spent = (np.array(values) for values in zip(*clusters, strict=True))
    added = _fill_up(worth, spent, total)
    assert (added >= 0).all() and (added[worth == 0] == 0).all()
    if not worth.any():
        return
    assert np.isclose(added.sum(), total, atol=1e-6)
    assert np.allclose(added, poured(worth, spent, total), rtol=1e-6, atol=1e-6 * (1 + total + spent.sum()))
    level = (added + spent)[added > 1e-6] / worth[added > 1e-6]
    if len(level):
        assert np.ptp(level) <= 1e-6 * level.max(), "all together in proportion to worth"
        dry = (added == 0) & (worth > 0)
        assert (spent[dry] / worth[dry] >= level.max() * (1 - 1e-6)).all(), "who gets nothing had enough"


def test_where_nothing_has_worth_nothing_is_added():
    assert _fill_up(np.zeros(3), np.array([0.0, 5, 9]), 10).tolist() == [0, 0, 0]


# What allocations make of it


def quotas(pool, amount, past=(), seed=SEED, **config):
    return allocate(pool, Budget("examples", amount), SelectConfig(strategy="uniform", **config), seed, past)


def measured_pool(level, size=400):
    """Clusters of such mean losses, all measured."""
    level = np.asarray(level, dtype=float)
    noise = np.random.default_rng(0).normal(0, 0.01, len(level) * size)
    return candidates(np.repeat(np.arange(len(level)), size), loss=np.repeat(level, size) + noise)


def even_past(spent, loss=3.0, rounds=1):
    """Rounds that say nothing of rates."""
    spent = np.asarray(spent, dtype=float)
    return [PastRound(np.full(len(spent), loss), np.full(len(spent), np.nan), spent / rounds)] * rounds


def test_adaptive_begins_with_every_cluster_alike():
    pool = measured_pool([1, 2, 3])
    assert quotas(pool, 60, allocation="adaptive").quota.tolist() == [20, 20, 20]
    unmeasured = candidates(pool.cluster)
    assert quotas(unmeasured, 60, even_past([9, 0, 0]), allocation="adaptive").quota.tolist() == [20, 20, 20]


def test_adaptive_makes_all_that_was_ever_spent_proportional_to_loss():
    pool, spent = measured_pool([1, 2, 3]), np.array([20, 20, 20])
    quota = quotas(pool, 60, even_past(spent), allocation="adaptive").quota
    assert np.abs(spent + quota - [20, 40, 60]).max() <= 1
    quota = quotas(pool, 60, even_past(spent, rounds=2), allocation="adaptive", temperature=0).quota
    assert quota.tolist() == [20, 20, 20]


def test_adaptive_gives_nothing_to_what_had_too_much():
    found = quotas(measured_pool([1, 2, 3]), 60, even_past([200, 10, 10]), allocation="adaptive")
    assert found.quota[0] == 0
    assert np.abs(np.array([10, 10]) + found.quota[1:] - [32, 48]).max() <= 1
    assert "200 picked in earlier rounds" in found.reason[0]


@pytest.mark.parametrize("past", [(), even_past([10, 10, 10])], ids=["first round", "later"])
def test_adaptive_keeps_the_pool_s_proportions_where_clusters_are_no_kinds(past):
    cluster = np.repeat([0, 1, 2], [600, 300, 100])
    pool, budget, config = candidates(cluster, loss=1.0 + cluster), Budget("examples", 90), SelectConfig(explore=0)
    spent = sum(entry.spent for entry in past) if past else np.zeros(3)
    held = [spent + allocate(pool, budget, config, SEED, past, distinct).quota for distinct in (0.0, 0.5, 1.0)]
    assert np.abs(held[0] / held[0].sum() - [0.6, 0.3, 0.1]).max() < 0.01
    assert held[0][2] < held[1][2] < held[2][2] and held[0][0] > held[1][0] > held[2][0]


def rates_past():
    """Clusters of equal loss now, of which the last two fell faster, as is well known."""
    return power_law([0.05, 0.05, 0.05, 0.25, 0.25], 0.001, rounds=3)[0]


def test_the_reason_gives_the_losses_between_which_a_cluster_fell_and_the_speed_that_counts():
    past, now = power_law([0.05, 0.05, 0.05, 0.25, 0.25], 0.001, rounds=3)
    found = quotas(measured_pool(now.mean), 600, past, allocation="adaptive")
    assert f"loss {now.mean[3]:.2f}, " in found.reason[3] and "fell from 3.00 since round 1" in found.reason[3]
    assert "speed of its fall" not in found.reason[3] and "%" not in found.reason[3]
    formula = found.formula[3]
    assert formula.index("× the mean") < formula.index("target share independent of size (cluster distinctness 100%)")
    assert "; weight " in formula


def test_a_loss_that_rose_is_never_said_to_have_fallen():
    """The slope of a line through all rounds may fall where what was measured rose: the words are those measurements."""
    past, now = power_law([0.05, 0.05, 0.05, 0.25, 0.25], 0.001, rounds=3)
    past[0].loss[2] = 0.5
    for allocation in ("adaptive", "learnability"):
        reason = quotas(measured_pool(now.mean), 600, past, allocation=allocation).reason
        assert "rose from 0.50 since round 1" in reason[2] and "doubling" not in "".join(reason)


@pytest.mark.parametrize(("level", "words"), [(9.0, "is bad here: loss 9.00, 2"), (0.5, "is good here: loss 0.50, 0.")])
def test_the_reason_says_in_words_how_the_model_does(level, words):
    pool = measured_pool([level, 3, 3, 3, 3, 3])
    assert words in quotas(pool, 60, allocation="loss").reason[0]
    assert "about as good here as elsewhere: loss 3.00" in quotas(pool, 60, allocation="loss").reason[1]


def test_the_reason_of_the_first_round_is_the_size_and_how_distinct_clusters_are():
    pool = candidates(np.repeat([0, 1], [30, 10]))
    reason = allocate(pool, Budget("examples", 8), SelectConfig(explore=0), SEED, (), 0.25).reason
    assert reason[1].startswith(
        "first round: quota proportional to size^0.75 (cluster distinctness 25%), 10 selectable"
    )


def test_adaptive_gives_more_to_what_falls_faster_as_far_as_it_should_learn():
    past = rates_past()
    pool = measured_pool(power_law([0.05, 0.05, 0.05, 0.25, 0.25], 0.001, rounds=3)[1].mean)
    shares = []
    for learn in (0.0, 1.0, 2.0):
        quota = quotas(pool, 600, past, allocation="adaptive", learn=learn).quota
        shares.append(quota[3:].sum())
    assert shares[0] < shares[1] < shares[2]


def test_learnability_is_the_same_for_a_seed_and_goes_where_loss_falls_on_average():
    past, now = power_law([0.05, 0.05, 0.2, 0.2], 0.02, rounds=3, first=np.array([2.0, 2.0, 4.0, 4.0]))
    pool = measured_pool(now.mean)
    drawn = [quotas(pool, 100, past, (seed, 4), allocation="learnability").quota for seed in range(30)]
    again = quotas(pool, 100, past, (0, 4), allocation="learnability").quota
    assert again.tolist() == drawn[0].tolist()
    assert len({tuple(quota) for quota in drawn}) > 5, "Thompson's draws differ"
    mean = np.mean(drawn, axis=0)
    assert mean[2:].min() > 1.3 * mean[:2].max()


def test_learnability_tries_what_it_knows_little_of():
    past, now = power_law([0.1] * 6, 0.02, rounds=3, noise=np.random.default_rng(3))
    vague = np.r_[np.full(5, 0.02), 1.0]
    past = [PastRound(e.loss + np.linspace(0, 0.4, 6) * r, vague, e.spent) for r, e in enumerate(past)]
    found = gather(past, losses_now(now.mean, vague))
    assert found.gain_error[5] > found.gain_error[:5].max()


def test_learnability_begins_as_loss():
    pool = measured_pool([1, 2, 3])
    first = quotas(pool, 60, allocation="learnability")
    assert first.quota.tolist() == quotas(pool, 60, allocation="loss").quota.tolist()
    assert first.reason == quotas(pool, 60, allocation="loss").reason


def test_a_cluster_whose_loss_rises_still_gets_something():
    past, now = power_law([0.3, 0.3, -0.3, 0.3], 0.001, rounds=3)
    quota = quotas(measured_pool(now.mean), 400, past, allocation="learnability").quota
    assert 0 < quota[2] < quota[[0, 1, 3]].min()


def test_confidence_weighs_doubt_and_not_loss():
    cluster = np.repeat([0, 1, 2], 100)
    pool = candidates(cluster, loss=5.0 - cluster, confidence=np.array([0.9, 0.8, 0.7])[cluster])
    found = quotas(pool, 60, allocation="confidence")
    assert found.quota.tolist() == [10, 20, 30]
    assert found.reason[2].startswith("unsure of 30% of its tokens (100 measured)")
    assert quotas(pool, 60, allocation="confidence", temperature=0).quota.tolist() == [20, 20, 20]


def test_confidence_that_is_not_measured_counts_as_the_average_or_alike():
    cluster = np.repeat([0, 1, 2], 100)
    some = np.where(cluster == 2, np.nan, np.array([0.9, 0.7, 0])[cluster])
    quota = quotas(candidates(cluster, confidence=some), 60, allocation="confidence").quota
    assert quota[0] < quota[2] < quota[1]
    assert quotas(candidates(cluster), 60, allocation="confidence").quota.tolist() == [20, 20, 20]


def test_suspects_say_nothing_about_their_cluster():
    loss, suspect = np.array([1.0, 1.1, 9.0] * 10 + [2.0, 2.1, 2.2] * 10), np.arange(60) % 3 == 2
    pool = candidates(np.repeat([0, 1], 30), loss=loss, suspect=suspect & (np.arange(60) < 30))
    losses = cluster_losses(pool)
    assert losses.mean[0] == pytest.approx(1.05) and losses.size.tolist() == [20, 30]


@pytest.mark.parametrize(
    ("unit", "amount", "quota"), [("tokens", 105_000, [100_000, 5_000]), ("examples", 200, [100, 100])]
)
def test_without_kinds_the_shares_are_the_pools_in_the_budgets_unit(unit, amount, quota):
    pool = candidates(np.repeat([0, 1], 1000), tokens=np.repeat([1000, 50], 1000), loss=1.0)
    config = SelectConfig(strategy="default", explore=0)
    first = allocate(pool, Budget(unit, amount), config, (0, 1), (), 0.0)
    assert first.quota.tolist() == quota
    had = PastRound(np.full(2, np.nan), np.full(2, np.nan), np.array([0.0, quota[0] / 10]))
    later = allocate(pool, Budget(unit, amount), config, (0, 2), [had], 0.0)
    assert later.quota[0] > quota[0] and later.quota.sum() == sum(quota), "the second had enough before"
