"""Suspected noise."""

from __future__ import annotations

import numpy as np
import pytest

from selection import dedup, noise
from selection.noise import suspected_noise
from selection.vectors import unit


def made(tasks=20, each=100, wrong=0.09, d=32, seed=0):
    """Tasks in clouds, each with a loss of its own from easy to hard, and a share of wrong labels that lose 2 to 5 nats more."""
    rng = np.random.default_rng(seed)
    task = rng.permutation(np.repeat(np.arange(tasks), each))
    vectors = unit(4 * unit(rng.normal(size=(tasks, d)))[task] + 0.3 * rng.normal(size=(len(task), d))).astype(
        np.float16
    )
    planted = rng.random(len(task)) < wrong
    loss = (
        np.linspace(0.1, 6, tasks)[task] + 0.3 * rng.gamma(2, 0.5, len(task)) + planted * rng.uniform(2, 5, len(task))
    )
    return vectors, loss, planted, task


def precision_recall(suspect, planted):
    both = (suspect & planted).sum()
    return both / suspect.sum(), both / planted.sum()


@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_are_found_and_hardly_anything_else(seed):
    vectors, loss, planted, _ = made(seed=seed)
    precision, recall = precision_recall(suspected_noise(vectors, loss).suspect, planted)
    assert precision > 0.95 and recall > 0.8


def test_hard_neighbourhoods_are_not_suspected():
    vectors, loss, planted, task = made(wrong=0)
    loss[task >= 15] += 5
    assert suspected_noise(vectors, loss).suspect.mean() < 0.005
    highest = np.argsort(-loss)[:100]
    assert not suspected_noise(vectors, loss).suspect[highest].any()


def test_wrong_labels_are_found_where_a_tenth_is_measured():
    vectors, loss, planted, _ = made(each=400)
    known = np.random.default_rng(1).random(len(loss)) < 0.1
    found = suspected_noise(vectors, np.where(known, loss, np.nan))
    precision, recall = precision_recall(found.suspect[known], planted[known])
    assert precision > 0.9 and recall > 0.7
    assert not found.suspect[~known].any() and np.isnan(found.z[~known]).all()


def test_unmeasured_examples_change_nothing():
    vectors, loss, _, _ = made()
    known = np.random.default_rng(1).random(len(loss)) < 0.5
    part, among = suspected_noise(vectors[known], loss[known]), suspected_noise(vectors, np.where(known, loss, np.nan))
    assert (part.suspect == among.suspect[known]).all()
    assert np.allclose(part.z, among.z[known])


def test_the_order_of_rows_does_not_matter():
    vectors, loss, _, _ = made()
    order = np.random.default_rng(2).permutation(len(loss))
    before = np.where(np.arange(len(loss)) % 3, loss + 1, np.nan)
    one = suspected_noise(vectors, loss, before=before)
    other = suspected_noise(vectors[order], loss[order], before=before[order])
    assert (one.suspect[order] == other.suspect).all()
    assert np.allclose(one.z[order], other.z) and np.allclose(one.neighbour_loss[order], other.neighbour_loss)


def test_blocks_change_nothing(monkeypatch):
    vectors, loss, _, _ = made()
    whole = suspected_noise(vectors, loss)
    monkeypatch.setattr(noise, "blocks", lambda rows: (rows[i : i + 17] for i in range(0, len(rows), 17)))
    assert np.allclose(suspected_noise(vectors, loss).z, whole.z)


def test_the_index_for_large_pools_finds_the_same(monkeypatch):
    vectors, loss, planted, _ = made()
    exact = suspected_noise(vectors, loss).suspect
    monkeypatch.setattr(dedup, "EXACT_UP_TO", 100)
    assert (suspected_noise(vectors, loss).suspect == exact).mean() > 0.99


def test_the_statistic_is_what_it_says():
    vectors, loss, _, _ = made(tasks=3, each=20)
    found = suspected_noise(vectors, loss, neighbours=10)
    cosine = unit(vectors) @ unit(vectors).T - 9 * np.eye(len(loss))
    around = loss[np.argsort(-cosine, axis=1)[:, :10]]
    median = np.median(around, axis=1)
    spread = np.median(np.abs(around - median[:, None]), axis=1)
    assert np.allclose(found.neighbour_loss, median, atol=1e-6)
    assert np.allclose(found.z, (loss - median) / (spread + 0.3 + 0.05 * median), atol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 2, 8])
def test_below_eight_neighbours_nothing_is_suspected(n):
    loss = np.zeros(n)
    loss[-1:] = 50.0
    found = suspected_noise(made()[0][:n], loss)
    assert not found.suspect.any() and np.isnan(found.z).all()
    assert all(found.explain(i) == "too few measured neighbours" for i in range(n))


def test_eight_neighbours_are_enough():
    loss = np.zeros(9)
    loss[3] = 50.0
    assert np.flatnonzero(suspected_noise(made()[0][:9], loss).suspect).tolist() == [3]


def test_equal_losses_are_not_suspected():
    vectors, loss, _, _ = made()
    assert not suspected_noise(vectors, np.full_like(loss, 0.7)).suspect.any()


def test_nothing_measured():
    vectors, loss, _, _ = made()
    found = suspected_noise(vectors, np.full_like(loss, np.nan))
    assert not found.suspect.any() and found.explain(0) == "not measured"


def test_an_outlier_is_suspected_and_spoils_none_of_its_neighbours():
    vectors, loss, _, _ = made(wrong=0)
    usual = suspected_noise(vectors, loss)
    moved = loss.copy()
    moved[5] = 1e6
    found = suspected_noise(vectors, moved)
    assert found.suspect[5]
    others = np.delete(found.suspect != usual.suspect, 5)
    assert others.sum() == 0


def test_copies_of_an_example_do_not_hide_it():
    """Twenty copies of a text crowd each other out of their own lists; the one with a wrong label still has the others around it."""
    vectors, loss, _, _ = made(wrong=0)
    vectors[:20], loss[:20] = vectors[0], 0.2
    loss[7] = 6.0
    assert np.flatnonzero(suspected_noise(vectors, loss).suspect[:20]).tolist() == [7]


def test_what_was_suspect_stays_so_until_it_is_below_half_the_threshold():
    vectors, loss, _, _ = made(wrong=0)
    before, now = loss.copy(), loss.copy()
    before[[3, 4]] += 20
    usual = suspected_noise(vectors, loss)
    scale = (loss - usual.neighbour_loss)[[3, 4, 5]] / usual.z[[3, 4, 5]]
    now[[3, 4, 5]] = usual.neighbour_loss[[3, 4, 5]] + scale * [2.5, 1.0, 2.5]
    assert not suspected_noise(vectors, now).suspect[[3, 4, 5]].any()
    assert suspected_noise(vectors, now, before=before).suspect[[3, 4, 5]].tolist() == [True, False, False]
    unknown = np.where(np.arange(len(loss)) == 3, np.nan, before)
    assert not suspected_noise(vectors, now, before=unknown).suspect[3]


def test_it_explains_itself():
    vectors, loss, planted, _ = made()
    found = suspected_noise(vectors, loss)
    i = int(np.flatnonzero(planted & found.suspect)[0])
    assert found.explain(i) == (
        f"NLL {loss[i]:.2f} where its 16 nearest neighbours have {found.neighbour_loss[i]:.2f} (z {found.z[i]:.1f})"
    )
    again = suspected_noise(vectors, loss, before=loss)
    assert again.explain(i).endswith(f"(z {found.z[i]:.1f}, before {found.z[i]:.1f})")
