"""How a budget is divided over clusters: whole numbers, losses estimated from a sample, what each allocation weighs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pools import SEED, candidates, pick_from, reveal

from selection.allocate import largest_remainder
from selection.config import SelectConfig
from selection.errors import SelectionError
from selection.losses import cluster_losses
from selection.randomness import DRAW, keyed_draw
from selection.strategy import Budget, PastRound, Vectors, allocate

quick = settings(max_examples=200, deadline=None, derandomize=True)
weight = st.one_of(st.sampled_from([0.0, 1.0, 1e-12, 1e9]), st.floats(0, 100))
weights_and_capacities = st.lists(st.tuples(weight, st.integers(0, 50)), min_size=1, max_size=12)


# Largest remainders


@quick
@given(weights_and_capacities, st.floats(0, 1))
def test_quotas_sum_to_the_budget_and_stay_within_capacity(clusters, share):
    weights, capacity = (np.array(values) for values in zip(*clusters, strict=True))
    total = round(share * int(capacity.sum()))
    quota = largest_remainder(weights, total, capacity)
    assert quota.sum() == total
    assert ((0 <= quota) & (quota <= capacity)).all()


@quick
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.integers(0, 10_000))
def test_with_room_everywhere_no_quota_is_a_whole_example_off_its_share(weights, total):
    quota = largest_remainder(weights, total, np.full(len(weights), total))
    assert np.abs(quota - np.array(weights) / sum(weights) * total).max() < 1 + 1e-9


@quick
@given(weights_and_capacities, st.floats(0, 1))
def test_a_larger_weight_never_gets_less_unless_it_is_full(clusters, share):
    weights, capacity = (np.array(values) for values in zip(*clusters, strict=True))
    weights = weights + 0.01
    quota = largest_remainder(weights, round(share * int(capacity.sum())), capacity)
    heavier = weights[:, None] > weights[None, :] * (1 + 1e-9)
    has_room = (quota < capacity)[:, None]
    assert (quota[:, None] >= quota[None, :])[heavier & has_room].all()


def test_the_largest_remainders_get_what_rounding_leaves():
    assert largest_remainder([47, 16, 15.8, 12, 6.1, 3.1], 10, np.full(6, 10)).tolist() == [5, 2, 1, 1, 1, 0]


def test_remainders_tie_by_capacity_then_by_index():
    assert largest_remainder([1, 1, 1, 1], 2, [5, 5, 9, 5]).tolist() == [1, 0, 1, 0]


def test_what_a_full_cluster_cannot_take_goes_to_the_others_in_proportion():
    assert largest_remainder([6, 3, 1], 50, [10, 100, 100]).tolist() == [10, 30, 10]


def test_weight_zero_gets_something_only_once_all_others_are_full():
    assert largest_remainder([1, 0, 0], 5, [5, 9, 9]).tolist() == [5, 0, 0]
    assert largest_remainder([1, 0, 0], 9, [5, 4, 12]).tolist() == [5, 1, 3]


@pytest.mark.parametrize(
    ("weights", "total"), [([1, 1], 5), ([1, 1], -1), ([-1, 1], 1), ([np.nan, 1], 1), ([np.inf, 1], 1)]
)
def test_what_cannot_be_divided_is_refused(weights, total):
    with pytest.raises(SelectionError, match="allocation"):
        largest_remainder(weights, total, [2, 2])


# Losses estimated from a sample


def sampled_clusters(seed, spread, k=60, size=200, measured=8):
    """k clusters whose true means differ by `spread`, `measured` of each known; the pool and its true means."""
    rng = np.random.default_rng(seed)
    mean = 2 + spread * rng.normal(size=k)
    loss = np.repeat(mean, size) + rng.normal(size=k * size)
    pool = candidates(np.repeat(np.arange(k), size), loss=loss)
    return reveal(pool, np.flatnonzero(np.arange(k * size) % size < measured)), loss.reshape(k, size).mean(1)


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3, 1.0])
def test_shrunk_means_are_closer_to_the_truth_than_the_sample_means(spread):
    error = {"sample": [], "shrunk": []}
    for seed in range(20):
        pool, truth = sampled_clusters(seed, spread)
        losses = cluster_losses(pool)
        error["sample"].append(np.mean((losses.mean - truth) ** 2))
        error["shrunk"].append(np.mean((losses.expected - truth) ** 2))
    assert np.mean(error["shrunk"]) < np.mean(error["sample"])


def test_the_less_clusters_differ_the_more_they_are_shrunk():
    kept = [
        np.std(cluster_losses(pool).expected) / np.std(cluster_losses(pool).mean)
        for pool, _ in (sampled_clusters(0, spread) for spread in (0.0, 0.3, 3.0))
    ]
    assert kept[0] < 0.4 < kept[1] < 0.9 < 0.95 < kept[2] <= 1


def test_a_thin_sample_is_shrunk_more_than_a_thick_one():
    rng = np.random.default_rng(0)
    pool = candidates(np.repeat(np.arange(12), 100), loss=np.repeat(np.arange(12.0) % 4, 100) + rng.normal(0, 1, 1200))
    thin = reveal(pool, np.flatnonzero((np.arange(1200) >= 100) | (np.arange(1200) < 2)))
    thick = reveal(pool, np.flatnonzero((np.arange(1200) >= 100) | (np.arange(1200) < 40)))
    pull = [abs(losses.expected[0] - losses.mean[0]) for losses in (cluster_losses(thin), cluster_losses(thick))]
    assert pull[0] > 4 * pull[1] > 0


def test_a_cluster_measured_whole_is_not_shrunk_and_has_no_error():
    rng = np.random.default_rng(0)
    pool = candidates(np.repeat(np.arange(5), 6), loss=rng.random(30))
    losses = cluster_losses(pool)
    assert np.allclose(losses.expected, losses.mean) and (losses.stderr == 0).all()


def test_the_standard_error_is_that_of_a_sample_without_replacement():
    estimates = [cluster_losses(sampled_clusters(seed, 0.0, k=40, size=16)[0]) for seed in range(40)]
    truths = [sampled_clusters(seed, 0.0, k=40, size=16)[1] for seed in range(40)]
    missed = np.array([e.mean - t for e, t in zip(estimates, truths, strict=True)])
    claimed = np.array([e.stderr for e in estimates])
    assert np.mean(missed**2) == pytest.approx(np.mean(claimed**2), rel=0.1)


def test_a_cluster_without_measurements_is_taken_for_an_average_one():
    pool = candidates([0] * 9 + [1] * 9 + [2] * 9, loss=[1, 1.2] * 4 + [1] + [3, 3.2] * 4 + [3] + [np.nan] * 9)
    expected = cluster_losses(pool).expected
    assert expected[0] < expected[2] < expected[1]


def test_one_measurement_a_cluster_tells_no_noise_from_difference():
    pool = candidates([0, 0, 1, 1, 2, 2], loss=[1, np.nan, 2, np.nan, 6, np.nan])
    losses = cluster_losses(pool)
    assert losses.expected.tolist() == [3, 3, 3] and np.isnan(losses.stderr).all()


def test_with_nothing_measured_nothing_is_claimed():
    losses = cluster_losses(candidates([0, 1, 1]))
    assert np.isnan(losses.expected).all() and losses.measured.tolist() == [0, 0]
    quotas = allocate(candidates([0] * 9 + [1] * 5), Budget("examples", 4), SelectConfig(strategy="loss"), SEED)
    assert quotas.quota.tolist() == [2, 2] and "no example of the pool is measured" in quotas.reason[0]


# What each allocation weighs


def quotas_of(pool, amount, **config):
    return allocate(pool, Budget("examples", amount), SelectConfig(tail_cut=0, **{"strategy": "loss", **config}), SEED)


@quick
@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=8), st.integers(0, 200))
def test_trap_16_clusters_with_more_loss_get_more(levels, amount):
    pool = candidates(np.repeat(np.arange(len(levels)), 200), loss=np.repeat(levels, 200))
    quota = quotas_of(pool, max(1, amount), allocation="loss").quota
    assert (np.diff(quota[np.argsort(levels, kind="stable")]) >= -1 * (np.diff(np.sort(levels)) < 1e-6)).all()


def test_loss_is_weighed_whatever_the_size_and_sharpened_by_temperature():
    pool = candidates([0] * 500 + [1] * 100 + [2] * 100, loss=[1.0] * 500 + [2.0] * 100 + [3.0] * 100)
    assert quotas_of(pool, 60, allocation="loss").quota.tolist() == [10, 20, 30]
    assert quotas_of(pool, 70, allocation="loss", temperature=2).quota.tolist() == [5, 20, 45]
    assert quotas_of(pool, 60, allocation="loss", temperature=0).quota.tolist() == [20, 20, 20]


def test_size_is_weighed_to_the_power_of_the_temperature():
    pool = candidates([0] * 400 + [1] * 100 + [3] * 25)
    assert quotas_of(pool, 35, strategy="size").quota.tolist() == [20, 10, 0, 5]
    assert quotas_of(pool, 42, strategy="size", temperature=1).quota.tolist() == [32, 8, 0, 2]


def test_size_is_that_of_the_budgets_unit():
    pool = candidates([0] * 400 + [1] * 100, tokens=[1] * 400 + [16] * 100)
    config = SelectConfig(strategy="size", temperature=0.5, tail_cut=0, explore=0)
    quotas = allocate(pool, Budget("tokens", 300), config, SEED)
    assert quotas.quota.tolist() == [100, 200] and "1600 tokens selectable" in quotas.reason[1]


def test_uniform_gives_every_cluster_alike_and_passes_on_what_small_ones_lack():
    pool = candidates([0] * 100 + [2] * 100 + [3] * 2)
    assert quotas_of(pool, 42, strategy="uniform").quota.tolist() == [20, 0, 20, 2]


@pytest.mark.parametrize("amount", [1, 7, 100, 299, 300])
def test_random_picks_the_first_of_one_draw_from_the_whole_pool(amount):
    rng = np.random.default_rng(5)
    pool = candidates(rng.zipf(1.5, 300) % 9, tokens=rng.integers(1, 90, 300))
    drawn = np.argsort(keyed_draw(pool.keys, *SEED, DRAW))
    config = SelectConfig(strategy="random")
    assert set(pick_from(pool, Budget("examples", amount), config).picked) == set(drawn[:amount])
    budget = Budget("tokens", amount * 45)
    whole = drawn[np.cumsum(pool.tokens[drawn]) <= budget.amount]
    assert set(whole) <= set(pick_from(pool, budget, config).picked)


def test_the_tail_cut_is_provided_for_before_anything_is_measured():
    pool = candidates([0] * 20 + [1] * 4)
    quotas = allocate(pool, Budget("examples", 23), SelectConfig(strategy="loss", tail_cut=0.05), SEED)
    assert quotas.quota.tolist() == [19, 4]
    assert all("the most it can have" in reason for reason in quotas.reason)


def test_reasons_give_the_figures_the_quota_rests_on():
    pool = candidates([0] * 8 + [2] * 8 + [3] * 8, loss=[1.0, 2.0] * 4 + [3.0, 5.0] * 4 + [np.nan] * 8)
    found = quotas_of(pool, 12, allocation="loss", temperature=2)
    reason, formula = found.reason, found.formula
    assert "NLL 1.50 ± 0.00, mean of 8 measured" in formula[0] and "^ 2; weight" in formula[0]
    assert "of 12 examples" in formula[0] and reason[0] == "the model is good here: loss 1.50, 0.5 × the pool's"
    assert reason[1] == "no selectable example"
    assert "nothing measured here" in reason[3]


def test_target_weights_are_the_shares_of_the_targets_nearest_neighbours():
    rng = np.random.default_rng(5)
    cluster = np.repeat([0, 1, 2], [600, 300, 100])
    centres = np.eye(3, 8)
    matrix = (centres[cluster] + 0.1 * rng.normal(size=(1000, 8))).astype(np.float16)
    targets = (centres[[2] * 6 + [1] * 2] + 0.1 * rng.normal(size=(8, 8))).astype(np.float32)
    aimed = replace(
        candidates(cluster, keys=rng.permutation(1000)),
        vectors={"embedding": Vectors(matrix, np.arange(1000), targets)},
    )
    cosine = (targets / np.linalg.norm(targets, axis=1, keepdims=True)) @ (
        matrix.astype(np.float32) / np.linalg.norm(matrix.astype(np.float32), axis=1, keepdims=True)
    ).T
    near = np.argsort(-cosine, axis=1)[:, :16]
    share = np.bincount(cluster[near.ravel()], minlength=3) / near.size
    found = {
        t: allocate(aimed, Budget("examples", 80), SelectConfig(strategy="target", temperature=t), SEED) for t in (0, 1)
    }
    assert np.allclose(found[1].weight, share) and share[2] == 0.75
    assert np.allclose(found[0].weight, [0.6, 0.3, 0.1]), "temperature 0 takes no notice of the target"
    assert found[1].quota.tolist() == [0, 20, 60] and found[1].reason[2].startswith(
        "75.0% of the target, 10.0% of the pool"
    )
    with pytest.raises(SelectionError, match="allocation target: expected embedding vectors of a target"):
        allocate(
            replace(aimed, vectors={"embedding": Vectors(matrix, np.arange(1000))}),
            Budget("examples", 80),
            SelectConfig(strategy="target"),
            SEED,
        )


# Shares of the whole run


def shares_of_rounds(name: str, budget: int, rounds: int, explore: float = 0.0, clusters: int = 40) -> np.ndarray:
    """(clusters,) sums of the quotas of some rounds over clusters of 50, 51, 52 … examples."""
    config = SelectConfig(allocation=name, picker="random", explore=explore)
    past, total = [], np.zeros(clusters)
    for number in range(1, rounds + 1):
        gone = sum((entry.spent for entry in past), np.zeros(clusters)).astype(int)
        pool = candidates(np.repeat(np.arange(clusters), 50 + np.arange(clusters) - gone))
        quota = allocate(pool, Budget("examples", budget), config, (1, number), past).quota
        random_ones = np.bincount(np.arange(round(explore * budget)) % clusters, minlength=clusters)
        past.append(PastRound(np.full(clusters, np.nan), np.full(clusters, np.nan), quota + random_ones))
        total += quota
    assert total.sum() == rounds * (budget - round(explore * budget))
    return total


def test_even_shares_reach_every_cluster_although_a_round_cannot():
    assert shares_of_rounds("even", 10, 4).tolist() == [1] * 40
    assert np.ptp(shares_of_rounds("even", 25, 7)) <= 1
    assert np.ptp(shares_of_rounds("uniform", 10, 4)) == 4, "uniform serves the same clusters in every round"


def test_even_shares_do_not_count_what_was_picked_at_random():
    total = shares_of_rounds("even", 40, 4, explore=0.25)
    assert np.ptp(total) <= 1


def test_one_even_round_is_a_uniform_one():
    assert sorted(shares_of_rounds("even", 97, 1)) == sorted(shares_of_rounds("uniform", 97, 1))
