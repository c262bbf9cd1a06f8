"""Pickers that read vectors: each reads the right vectors of the right examples, and takes what it says."""

from __future__ import annotations

import numpy as np
import pytest
from made_pools import SEED, candidates, pick_from, play, reveal

from selection.config import SelectConfig
from selection.registry import registry
from selection.shortlist import shortlist
from selection.strategy import (
    Budget,
    Vectors,
    allocate,
    measures,
    needs_losses,
    select,
    vectors_needed,
)
from selection.vectors import unit


def config_of(picker, **more):
    return SelectConfig(strategy="uniform", picker=picker, **more)


def scattered(values, targets=None, missing=()):
    """Vectors whose rows are not the candidates' own order; none for the candidates `missing`."""
    values = np.asarray(values, dtype=np.float32)
    where = np.random.default_rng(1).permutation(len(values))
    matrix = np.empty_like(values)
    matrix[where] = values
    where = where.copy()
    where[list(missing)] = -1
    return Vectors(matrix, where, None if targets is None else np.asarray(targets, dtype=np.float32))


def directions(degrees):
    angle = np.radians(np.asarray(degrees, dtype=float))
    return np.c_[np.cos(angle), np.sin(angle)]


def picked(pool, amount, picker, seed=SEED, **more):
    return pick_from(pool, Budget("examples", amount), config_of(picker, **more), seed)


# Traits


@pytest.mark.parametrize("picker", registry("picker"))
def test_what_a_picker_reads_is_what_is_measured_for_it(picker):
    traits = registry("picker")[picker]
    reads_measured = traits.vectors & {"pooled", "gradient"}
    assert vectors_needed(config_of(picker)) == traits.vectors
    assert measures(config_of(picker)) == reads_measured
    assert (traits.prefilter is not None) == (traits.whole_pool and bool(reads_measured))


def test_a_tail_cut_or_an_allocation_by_loss_needs_losses_unless_there_are_no_quotas():
    assert needs_losses(config_of("random", tail_cut=0.1), 1)
    assert needs_losses(config_of("random", allocation="loss"), 1)
    assert not needs_losses(config_of("nearest", allocation="loss"), 1)
    adaptive = config_of("random", allocation="adaptive")
    assert not needs_losses(adaptive, 1) and needs_losses(adaptive, 2)


# Inside clusters


@pytest.fixture(scope="module")
def two_clusters():
    """Two clusters of 60 around opposite directions, in each an outlier that points elsewhere and 50 near copies."""
    rng = np.random.default_rng(2)
    cluster = np.arange(120) // 60
    angle = 180 * cluster + np.where(np.arange(120) % 60 < 50, rng.uniform(-2, 2, 120), rng.uniform(-50, 50, 120))
    angle[[59, 119]] = 180 * cluster[[59, 119]] + 140
    return cluster, angle


def test_trap_19_k_center_spreads_inside_each_cluster_and_takes_outliers_last(two_clusters):
    cluster, angle = two_clusters
    pool = candidates(cluster, vectors={"embedding": scattered(directions(angle))})
    chosen = picked(pool, 10, "k_center")
    assert not set(chosen.picked) & {59, 119}, "trimmed"
    assert set(picked(pool, 120, "k_center").picked[-2:]) == {59, 119}
    for c in (0, 1):
        of_cluster = chosen.picked[cluster[chosen.picked] == c]
        gaps = np.diff(np.sort(angle[of_cluster]))
        assert len(gaps) == 4 and gaps.min() > 8, "no two near copies"
    assert chosen.step[0].startswith("the first of its group") and "the farthest" in chosen.step[-1]


def test_facility_location_takes_one_of_each_kind_the_most_frequent_first():
    angle = np.r_[np.linspace(-3, 3, 31), np.linspace(87, 93, 11), np.linspace(177, 183, 5)]
    pool = candidates(np.zeros(47, int), vectors={"embedding": scattered(directions(angle))})
    chosen = picked(pool, 3, "facility_location")
    assert np.abs(angle[chosen.picked] - [0, 90, 180]).max() < 4
    assert "coverage by 0.6" in chosen.step[0]


def test_badge_ignores_what_was_not_measured_and_prefers_high_losses_far_apart():
    rng = np.random.default_rng(0)
    values, missing = directions(rng.choice([0, 90, 180, 270], 200)), range(150, 200)
    loss = np.where(np.arange(200) < 20, 10.0, 0.01)
    pool = candidates(np.zeros(200, int), loss=loss, vectors={"gradient": scattered(values, missing=missing)})
    count = np.zeros(200)
    for seed in range(20):
        chosen = picked(pool, 5, "badge", (seed, 1))
        count[chosen.picked] += 1
        assert len({tuple(np.round(values[row])) for row in chosen.picked if row < 20}) >= 3
    assert count[150:].sum() == 0 and count[:20].sum() > 3 * 20
    beyond = picked(pool, 160, "badge")
    assert set(range(150)) == set(beyond.picked[:150])
    assert all(step.startswith("random, no measured one is left") for step in beyond.step[150:])


def test_deita_takes_the_highest_scores_and_skips_near_copies(two_clusters):
    cluster, angle = two_clusters
    score = np.where(np.arange(120) % 60 < 50, 100.0 + np.arange(120), np.arange(120) % 7)
    pool = candidates(cluster, loss=1.0, score=score, vectors={"embedding": scattered(directions(angle))})
    top, deita = picked(pool, 8, "top").picked, picked(pool, 6, "deita").picked
    assert (top % 60 < 50).all(), "copies all"
    for c in (0, 1):
        chosen = deita[cluster[deita] == c]
        assert chosen[0] == 60 * c + 49, "the highest score"
        cosine = directions(angle[chosen]) @ directions(angle[chosen]).T - 2 * np.eye(len(chosen))
        assert cosine.max() <= 0.9 + 1e-6
    assert len(picked(pool, 120, "deita").picked) == 120, "copies come when nothing else is left"


def test_qdit_lies_between_the_score_and_coverage():
    rng = np.random.default_rng(5)
    values, score = rng.normal(size=(300, 6)), rng.normal(size=300)
    pool = candidates(np.zeros(300, int), loss=1.0, score=score, vectors={"embedding": scattered(values)})

    def quality_and_cover(picker, **more):
        rows = picked(pool, 30, picker, **more).picked
        return score[rows].mean(), (unit(values) @ unit(values[rows]).T).max(1).mean()

    top, qdit, cover = (
        quality_and_cover(name, **more)
        for name, more in [("top", {"length_bins": 1}), ("qdit", {}), ("facility_location", {})]
    )
    assert top[0] > qdit[0] > cover[0] + 0.3
    assert cover[1] > qdit[1] > top[1]


def test_s2l_balances_trajectories_inside_each_cluster_and_is_random_without_rounds():
    cluster, kind = np.arange(200) // 100, np.where(np.arange(200) % 100 < 90, 0, np.arange(200) % 3)
    kinds = np.array([[2.0, 1.9], [2.0, 0.5], [2.0, 5.0]])
    pool = candidates(cluster, vectors={"trajectory": scattered(kinds[kind])})
    rows = picked(pool, 18, "s2l").picked
    for c in (0, 1):
        assert np.bincount(kind[rows[cluster[rows] == c]], minlength=3).tolist() == [3, 3, 3]
    before = candidates(cluster, vectors={"trajectory": Vectors(np.empty((200, 0), np.float32), np.arange(200))})
    assert picked(before, 18, "s2l").picked.tolist() == picked(before, 18, "random").picked.tolist()


def test_longest_takes_the_longest_of_each_cluster():
    tokens = np.random.default_rng(0).permutation(100) + 1
    pool = candidates(np.arange(100) % 2, tokens=tokens)
    chosen = picked(pool, 10, "longest")
    for c in (0, 1):
        of_cluster = np.flatnonzero(pool.cluster == c)
        longest = of_cluster[np.argsort(-tokens[of_cluster])][:5]
        assert chosen.picked[pool.cluster[chosen.picked] == c].tolist() == longest.tolist()
    assert chosen.step[0].startswith(f"{tokens[chosen.picked[0]]} tokens, 1 of 50 by length")


# Towards a target

TARGETS = directions([0, 90])


@pytest.fixture(scope="module")
def circle():
    """360 examples a degree apart, in clusters that have nothing to do with it; hidden states and gradients are turned by 120 and
    240 degrees, so that other examples are nearest by them."""
    found = {
        name: scattered(directions(np.arange(360) + turn), TARGETS)
        for name, turn in (("embedding", 0), ("pooled", 120), ("gradient", 240))
    }
    return candidates(np.arange(360) % 5, loss=1.0, vectors=found)


@pytest.mark.parametrize("seed", range(4))  # either target example has the first turn in some of them
@pytest.mark.parametrize(("picker", "turn"), [("nearest", 0), ("rds", 120), ("less", 240)])
def test_target_examples_take_their_nearest_in_turn_over_the_whole_pool(picker, turn, seed, circle):
    chosen = picked(circle, 40, picker, (seed, 1))
    angle = (chosen.picked + turn) % 360
    to_first, to_second = (np.abs((angle - at + 180) % 360 - 180) for at in (0, 90))
    assert (np.minimum(to_first, to_second) <= 10).all()
    assert (to_first <= 10).sum() == 20 == (to_second <= 10).sum(), "in turn"
    assert np.minimum(to_first, to_second)[:2].tolist() == [0, 0] and ", cosine 1.00, in" in chosen.step[0]
    says = [int(step.split("target example ")[1].split()[0]) for step in chosen.step]
    assert says == [1 if first <= 10 else 2 for first in to_first], "of the target that took it"


def test_what_all_hidden_states_share_is_taken_off():
    """Fifty examples of no topic, near to everything, and twenty far out in the target's direction: hidden states of a language model."""
    rng = np.random.default_rng(4)
    topic = np.r_[0.03 * rng.normal(size=(50, 2)), [0.5, 0.0] + 0.03 * rng.normal(size=(20, 2))]
    states, aims = np.c_[topic, np.ones(70)], np.array([[0.2, 0.0, 1.0], [0.2, 0.01, 1.0]])
    found = {name: Vectors(states.astype(np.float32), np.arange(70), aims) for name in ("pooled", "hidden_states")}
    pool = candidates(np.zeros(70, int), vectors=found | {"embedding": found["pooled"]})
    assert (picked(pool, 15, "rds_centered").picked >= 50).all()
    assert (picked(pool, 15, "rds").picked < 50).all()


def test_whose_turn_it_is_first_belongs_to_the_seed(circle):
    first = {picked(circle, 1, "nearest", (seed, 1)).picked[0] for seed in range(20)}
    assert first == {0, 90}


@pytest.mark.parametrize("picker", ["rds", "less"])
def test_only_what_lies_nearest_by_embedding_is_measured(picker, circle):
    config = config_of(picker, shortlist_factor=3)
    played = play(circle, Budget("examples", 20), config, per_cluster=1)
    wanted = np.setdiff1d(played.measured, played.sampled)
    assert 60 - 5 <= len(wanted) <= 60
    angle = np.minimum(np.abs((wanted + 180) % 360 - 180), np.abs(wanted - 90))
    assert angle.max() <= 15
    assert np.isin(played.selection.picked, played.measured).all()


@pytest.mark.parametrize("picker", ["rds", "less"])
def test_a_budget_of_tokens_is_measured_for_even_where_the_target_s_kind_is_short(picker, circle):
    """By the lengths of a random order it would be 31 examples, a twelfth of what is picked."""
    near = np.minimum(np.abs((np.arange(360) + 180) % 360 - 180), np.abs(np.arange(360) - 90)) <= 60
    pool = candidates(circle.cluster, tokens=np.where(near, 10, 1000), loss=1.0, vectors=circle.vectors)
    config, budget = config_of(picker, shortlist_factor=2), Budget("tokens", 500)
    nothing = reveal(pool, np.empty(0, dtype=np.int64))
    quotas = allocate(nothing, budget, config, SEED)
    rows = shortlist(nothing, quotas, config, SEED)
    assert 1000 <= pool.tokens[rows].sum() <= 1020
    chosen = select(reveal(pool, rows), quotas, budget, config, SEED)
    assert len(chosen.picked) == 50 and np.isin(chosen.picked, rows).all()


@pytest.mark.parametrize("picker", ["nearest", "rds", "less"])
def test_there_is_one_undivided_quota_and_losses_stay_by_cluster(picker, circle):
    quotas = allocate(circle, Budget("examples", 30), config_of(picker, allocation="loss"), SEED)
    assert quotas.quota.tolist() == [30] and quotas.reason == ["one quota: the picker ranks the whole pool"]
    assert quotas.loss_mean.shape == quotas.measured.shape == (5,)


def test_suspects_and_the_tail_cut_are_left_out_by_their_true_cluster(circle):
    loss = np.ones(360)
    loss[[0, 90]] = 9.0, 8.0
    pool = candidates(circle.cluster, loss=loss, suspect=np.arange(360) == 1, vectors=circle.vectors)
    chosen = picked(pool, 20, "nearest", tail_cut=0.02)
    assert chosen.outcome[1] == "suspected_noise"
    assert (chosen.outcome[[0, 90]] == "tail_cut").all(), "both are of cluster 0, whose 72 lose two"
    assert not set(chosen.picked) & {0, 1, 90}
    assert "no_quota" not in set(chosen.outcome)


def test_what_has_no_vector_comes_last_and_says_so(circle):
    missing = range(0, 360, 2)
    found = {"embedding": scattered(directions(np.arange(360)), TARGETS, missing)}
    chosen = picked(candidates(circle.cluster, vectors=found), 190, "nearest")
    assert (chosen.picked[:180] % 2 == 1).all() and (chosen.picked[180:] % 2 == 0).all()
    assert all(step.startswith("random, no measured one is left") for step in chosen.step[180:])
