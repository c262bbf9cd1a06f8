"""Clusters that adapt to what was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_ind

from selection.adapt import adapt, extend, within_rounds
from selection.vectors import unit

D = 24


def clouds(centres, each, rng, spread=0.06):
    """`each` unit vectors around every centre, and the centre of each."""
    task = np.repeat(np.arange(len(centres)), each)
    return unit(centres[task] + spread * rng.normal(size=(len(task), centres.shape[1]))).astype(np.float16), task


def two_tasks(rng, gap=1.0):
    """Two centres at a cosine of 0.5 to 0.9."""
    first = unit(rng.normal(size=(1, D)))
    return np.concatenate([first, unit(first + gap * unit(rng.normal(size=(1, D))))])


def measure(assignment, per_cluster, rng):
    """Random rows of each cluster."""
    return np.concatenate(
        [rng.permutation(np.flatnonzero(assignment == c))[:per_cluster] for c in range(assignment.max() + 1)]
    )


def mixed(seed=0, twins=6):
    """Cluster 0: two tasks, one of them hard. Then pairs of clusters, each pair one task: clusters 1 and 2, 3 and 4, …"""
    rng = np.random.default_rng(seed)
    centres = np.concatenate([two_tasks(rng), unit(rng.normal(size=(twins, D)))])
    vectors, task = clouds(centres, 200, rng)
    cluster = np.where(task < 2, 0, 2 * task - 3 + rng.integers(0, 2, len(task)))
    loss = np.where(task == 1, 2.5, 0.6) + rng.gamma(2, 0.2, len(task))
    return vectors, cluster.astype(np.int32), task, loss, rng


def one_round(vectors, cluster, loss, rows, **options):
    return adapt(vectors, cluster, rows, loss[rows], np.zeros(len(rows), dtype=int), **options)


def test_clusters_of_two_tasks_are_split_along_them():
    others = 0
    for seed in range(10):
        vectors, cluster, task, loss, rng = mixed(seed)
        found = one_round(vectors, cluster, loss, measure(cluster, 30, rng))
        assert found.splits[0].old == (0,) and found.splits[0].new == (0, 1)
        inside = task < 2
        assert (found.assignment[inside] == task[inside]).mean() > 0.95, "the easy task first"
        assert "standard deviations" in found.splits[0].reason
        others += len(found.splits) - 1
    assert others <= 6, "one in twenty of what is split may be chance"


def test_twins_are_merged_in_exchange_for_a_split():
    vectors, cluster, _, loss, rng = mixed()
    rows = measure(cluster, 40, rng)
    found = one_round(vectors, cluster, loss, rows)
    assert len(found.merges) == len(found.splits) >= 1
    assert len(found.parent) == cluster.max() + 1
    for change in found.merges:
        assert change.old[0] % 2 == 1 and change.old[1] == change.old[0] + 1 and "standard error" in change.reason


def test_without_a_split_nothing_is_merged():
    vectors, cluster, task, _, rng = mixed()
    loss = np.where(task < 2, 1.0, 0.5)
    found = one_round(vectors, cluster, loss, measure(cluster, 40, rng))
    assert not found.splits and not found.merges


def test_twins_of_different_losses_are_not_merged():
    vectors, cluster, _, loss, rng = mixed()
    loss[(cluster > 0) & (cluster % 2 == 0)] += 1
    found = one_round(vectors, cluster, loss, measure(cluster, 40, rng))
    assert found.splits and not found.merges


def test_twins_are_compared_in_the_latest_round_alone():
    vectors, cluster, _, loss, rng = mixed()
    rows = measure(cluster, 60, rng)
    epoch = rng.integers(0, 2, len(rows))
    earlier_differs = loss[rows] + 3.0 * ((epoch == 0) & (cluster[rows] % 2 == 0))
    assert adapt(vectors, cluster, rows, earlier_differs, epoch).merges


def test_only_mutual_neighbours_are_merged():
    """Clusters 2, 3 and 4 in a row, 3 nearer to 4: 2 has 3 for its nearest, but stays alone though two clusters are split."""
    rng = np.random.default_rng(0)
    line = np.zeros((3, D))
    line[:, 0], line[:, 1] = 1, [0.0, 0.4, 0.6]
    vectors, task = clouds(np.concatenate([two_tasks(rng), two_tasks(rng), unit(line)]), 100, rng, spread=0.02)
    cluster = np.array([0, 0, 1, 1, 2, 3, 4])[task].astype(np.int32)
    loss = np.where(np.isin(task, [1, 3]), 2.0, 1.0)
    found = one_round(vectors, cluster, loss, measure(cluster, 40, rng))
    assert len(found.splits) == 2 and [change.old for change in found.merges] == [(3, 4)]


def test_clusters_far_apart_are_not_merged():
    vectors, cluster, _, loss, rng = mixed()
    assert not one_round(vectors, cluster, loss, measure(cluster, 40, rng), near=0.9999).merges


@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_even_clusters_are_hardly_ever_split(rounds):
    """200 clusters of two tasks that are equally hard, in rounds of falling loss."""
    rng = np.random.default_rng(rounds)
    vectors, cluster = clouds(unit(rng.normal(size=(200, D))), 60, rng)
    rows = measure(cluster, 30, rng)
    epoch = rng.integers(0, rounds, len(rows))
    loss = rng.gamma(2, 0.4, len(rows)) + 3.0 * (rounds - epoch)
    assert len(adapt(vectors, cluster, rows, loss, epoch).splits) <= 2


@pytest.mark.parametrize("rounds", [1, 2, 10])
def test_the_test_within_rounds_keeps_its_level(rounds):
    """Two-sided p of halves that do not differ, below 0.05 in a twentieth of 2,000 trials."""
    rng = np.random.default_rng(rounds)
    p = []
    for _ in range(2000):
        epoch, second = rng.permutation(np.arange(30) % rounds), rng.random(30) < 0.4
        p.append(within_rounds(rng.normal(size=30) + 5 * epoch, second, epoch)[2])
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


def test_within_one_round_it_is_welchs_test():
    rng = np.random.default_rng(0)
    second = np.arange(30) < 9
    loss = np.where(second, rng.normal(1, 3, 30), rng.normal(0, 1, 30))
    difference, _, p = within_rounds(loss, second, np.zeros(30, dtype=int))
    assert np.isclose(difference, loss[second].mean() - loss[~second].mean())
    assert np.isclose(p, ttest_ind(loss[second], loss[~second], equal_var=False).pvalue)


def test_halves_without_spread_are_judged_by_the_spread_of_the_other_rounds():
    loss = np.array([1.0, 1.0, 2.0, 2.0, 0.0, 3.0, 1.0, 4.0])
    second = np.array([False, False, True, True, True, True, True, True])
    epoch = np.array([0, 0, 0, 0, 1, 1, 1, 1])  # the second round has one half only
    difference, effect, p = within_rounds(loss, second, epoch)
    residual = np.array([-2.0, 1.0, -1.0, 2.0])
    deviation = np.sqrt((residual**2).sum() / 5)
    assert difference == pytest.approx(1.0) and effect == pytest.approx(1 / deviation)
    assert p == pytest.approx(2 * t.sf(1 / deviation, 5))


def test_rounds_are_not_mistaken_for_tasks():
    """One task measured before training and the other after it: nothing can be said of them."""
    vectors, cluster, task, loss, rng = mixed()
    rows = np.flatnonzero(task < 2)
    assert not adapt(vectors, cluster, rows, loss[rows], task[rows]).splits


@pytest.mark.parametrize("hard", [0, 1])
def test_losses_equal_but_for_the_task_are_split(hard):
    vectors, cluster, task, _, rng = mixed()
    found = one_round(vectors, cluster, np.where(task == hard, 2.0, 1.0), measure(cluster, 30, rng))
    assert [change.old for change in found.splits] == [(0,)]
    assert (found.assignment[task == hard] == 1).all()


def test_of_repeated_measurements_the_latest_counts():
    vectors, cluster, _, loss, rng = mixed()
    rows = measure(cluster, 30, rng)
    once = one_round(vectors, cluster, loss, rows)
    twice = adapt(
        vectors,
        cluster,
        np.tile(rows, 2),
        np.r_[loss[rows], loss[rows]] * np.repeat([9, 1], len(rows)),
        np.repeat([0, 1], len(rows)),
    )
    assert (once.assignment == twice.assignment).all() and once.splits == twice.splits


@pytest.mark.parametrize("loss", [[], [np.nan] * 5])
def test_nothing_measured_changes_nothing(loss):
    vectors, cluster, *_ = mixed()
    found = adapt(vectors, cluster, np.arange(len(loss)), np.array(loss), np.zeros(len(loss), dtype=int))
    assert (found.assignment == cluster).all() and found.parent == [(c,) for c in range(cluster.max() + 1)]
    assert not found.splits and not found.merges


def test_a_difference_that_is_sure_but_small_is_no_reason_to_split():
    vectors, cluster, task, _, rng = mixed()
    loss = rng.normal(size=len(task)) + 0.35 * (task == 1)
    rows = np.flatnonzero(cluster == 0)
    assert not one_round(vectors, cluster, loss, rows).splits
    assert one_round(vectors, cluster, loss, rows, effect=0.1).splits


def test_too_few_on_a_side_are_not_split():
    vectors, cluster, task, loss, rng = mixed()
    rows = np.r_[np.flatnonzero(task == 0)[:40], np.flatnonzero(task == 1)[:5]]
    assert not one_round(vectors, cluster, loss, rows).splits
    assert one_round(vectors, cluster, loss, rows, least=5).splits


def test_the_order_of_rows_does_not_matter():
    vectors, cluster, _, loss, rng = mixed()
    rows = measure(cluster, 30, rng)
    one = one_round(vectors, cluster, loss, rows)
    order = rng.permutation(len(cluster))
    place = np.argsort(order)
    other = one_round(vectors[order], cluster[order], loss[order], rng.permutation(place[rows]))
    assert (one.assignment[order] == other.assignment).all() and one.parent == other.parent


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4), st.integers(2, 8), st.floats(0, 1))
def test_a_partition_stays_a_partition(seed, k, rounds, least, share):
    rng = np.random.default_rng(seed)
    vectors, _ = clouds(unit(rng.normal(size=(4, 6))), 30, rng, spread=0.05)
    vectors[rng.random(len(vectors)) < 0.1] = vectors[0]
    cluster = rng.integers(0, k, len(vectors)).astype(np.int32)
    rows = rng.integers(0, len(vectors), int(share * 2 * len(vectors)))
    loss = rng.integers(0, 3, len(rows)) + 2.0 * (vectors[rows, 0] > 0)
    found = adapt(vectors, cluster, rows, loss, rng.integers(0, rounds, len(rows)), least=least, effect=0.1)
    old = int(cluster.max()) + 1
    assert len(found.merges) <= len(found.splits)
    assert len(found.parent) == old + len(found.splits) - len(found.merges)
    assert found.assignment.dtype == np.int32 and found.assignment.min() >= 0
    assert found.assignment.max() < len(found.parent)
    assert all(cluster[i] in found.parent[found.assignment[i]] for i in range(len(cluster)))
    assert sorted(set(sum(found.parent, ()))) == list(range(old))
    firsts = [parents[0] for parents in found.parent]
    assert firsts == sorted(firsts), "clusters keep their order"
    touched = [c for change in found.splits + found.merges for c in change.old]
    assert len(touched) == len(set(touched)), "a cluster changes once"


def test_new_examples_join_what_their_cluster_was_made_into():
    rng = np.random.default_rng(3)
    centres = np.concatenate([two_tasks(rng), unit(rng.normal(size=(1, D)))])
    vectors, task = clouds(centres, 100, rng)
    own, new = np.where(task < 2, 0, 1), np.arange(0, 300, 10)  # both tasks in one cluster, which was split
    adapted = task.copy()
    adapted[new] = -1
    assert (extend(vectors, own, adapted, 3) == task).all()
    own[new] = 1 - own[new]  # only what comes from an example's own cluster counts, even where others are nearer
    assert (np.where(extend(vectors, own, adapted, 3)[new] < 2, 0, 1) == own[new]).all()
