"""k-means that compares with the centres nearby, and the progress of work in shares."""

from __future__ import annotations

import numpy as np
import pytest

from selection import cluster as clustering
from selection import kmeans
from selection.cluster import cluster
from selection.config import ClusterConfig
from selection.kmeans import k_means
from selection.shares import Shares
from selection.vectors import unit


@pytest.fixture(scope="module")
def many():
    """4,000 unit vectors around 120 directions whose sizes follow a power law."""
    rng = np.random.default_rng(3)
    size = 1 / np.arange(1, 121)
    topic = rng.choice(120, size=4000, p=size / size.sum())
    return unit(unit(rng.normal(size=(120, 48)))[topic] + 0.08 * rng.normal(size=(4000, 48)))


def squared(vectors, centres):
    """Sum of squared distances to the nearest centre."""
    return float((2 - 2 * (vectors @ centres.T).max(axis=1)).sum())


def test_comparing_with_near_centres_is_as_good_as_comparing_with_all(many, monkeypatch):
    monkeypatch.setattr(kmeans, "NEIGHBOURS", 24)
    near, _ = k_means(many, 300, 20, True, seed=1)
    monkeypatch.setattr(kmeans, "WHOLE", 20)
    everywhere, _ = k_means(many, 300, 20, True, seed=1)
    assert (near != everywhere).any()
    assert squared(many, near) < 1.01 * squared(many, everywhere)
    start = many[np.sort(np.random.default_rng(1).choice(4000, 300, replace=False))]
    assert squared(many, near) < 0.85 * squared(many, start)


def test_the_objective_is_that_of_the_centres_and_falls(many):
    objectives = [k_means(many, 100, iterations, True, seed=0)[1] for iterations in (1, 2, 6, 20)]
    assert objectives == sorted(objectives, reverse=True) and objectives[-1] < 0.9 * objectives[0]
    centres, last = k_means(many, 100, 40, True, seed=0)
    assert last == pytest.approx(squared(many, centres), rel=0.01)


def test_spherical_centres_have_unit_length_and_others_are_means(many):
    assert np.allclose(np.linalg.norm(k_means(many, 50, 5, True, seed=0)[0], axis=1), 1, atol=1e-5)
    centres, _ = k_means(many, 50, 30, False, seed=0)
    nearest = ((many[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert np.allclose(centres[7], many[nearest == 7].mean(axis=0), atol=0.05)


def test_a_cell_without_vectors_starts_again_where_vectors_are_far_from_their_centres():
    vectors = unit(np.repeat(np.eye(6, 8), [200, 1, 1, 1, 1, 1], axis=0))
    for seed in range(4):
        centres, _ = k_means(vectors, 6, 6, True, seed)
        assert squared(vectors, centres) == pytest.approx(0, abs=1e-3)


def test_the_seed_and_nothing_else_decides_and_all_work_is_reported(many):
    shares = []
    first, again, other = (k_means(many, 90, 8, True, seed, shares.append)[0] for seed in (5, 5, 6))
    assert (first == again).all() and (first != other).any()
    assert sum(shares) == pytest.approx(3) and max(shares) < 1


@pytest.mark.parametrize("pairs", [0, 2**27])
def test_a_large_pool_is_clustered_as_well_as_a_small_one(many, pairs, monkeypatch):
    monkeypatch.setattr(clustering, "EVERY_PAIR", pairs)
    counts = []
    found = cluster(many, ClusterConfig(k=60, cells=300, restarts=2), seed=0, progress=counts.append)
    assert sum(counts) == 4000 and min(counts) >= 0
    assert found.quality["silhouette"] > 0.35 and set(found.assignment) == set(range(60))


def test_a_long_k_means_reports_often(many, monkeypatch):
    """Every call is a place where the work can be stopped."""
    monkeypatch.setattr(clustering, "EVERY_PAIR", 0)
    monkeypatch.setattr(kmeans, "BLOCK", 500)

    def stop(units):
        """Stops at the third report, in the middle of the first iteration."""
        calls.append(units)
        if len(calls) == 3:
            raise KeyboardInterrupt

    calls = []
    with pytest.raises(KeyboardInterrupt):
        cluster(many, ClusterConfig(k=60, cells=300), seed=0, progress=stop)
    assert sum(calls) < 400


def test_shares_add_up_to_all_units_and_never_to_more():
    counts = []
    shares = Shares(10, counts.append)
    for share in (0.04, 0.3, 0.3, 0.9):
        shares(share)
    shares.upto(0.5)
    assert sum(counts) == 10 and counts[0] == 0 and min(counts) == 0
