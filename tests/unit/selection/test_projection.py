"""The map of a pool: like examples lie together, whether UMAP was fitted on them or they were put between those."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from selection import projection
from selection.projection import NEIGHBOURS, add_to_map, fitted_rows, project
from selection.vectors import unit

pytest.importorskip("umap", reason="umap-learn is not installed (requirements.txt)")
GROUPS, N = 6, 420


@pytest.fixture(scope="module")
def pool() -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (n, 32) float16 in six groups, and the group of each."""
    rng = np.random.default_rng(1)
    group = rng.integers(0, GROUPS, N)
    vectors = rng.normal(size=(GROUPS, 32))[group] + 0.3 * rng.normal(size=(N, 32))
    return unit(vectors).astype(np.float16), group


def like_neighbours(xy: np.ndarray, group: np.ndarray) -> float:
    """Share of examples whose nearest other one on the map is of their group."""
    squared = ((xy[:, None] - xy[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    return float((group[squared.argmin(axis=1)] == group).mean())


@pytest.mark.parametrize("fitted", [N, N // 3])
def test_like_examples_lie_together(pool, fitted: int):
    vectors, group = pool
    xy = project(vectors, seed=0, fitted=fitted)
    assert xy.shape == (N, 2) and np.isfinite(xy).all()
    assert like_neighbours(xy, group) > 0.97


def test_above_the_limit_examples_are_placed_almost_where_comparing_with_all_places_them(monkeypatch):
    rng = np.random.default_rng(2)
    group = rng.integers(0, 10, 1500)
    vectors = unit(rng.normal(size=(10, 32))[group] + 0.9 * rng.normal(size=(1500, 32)))
    exact = project(vectors, seed=0, fitted=400)
    monkeypatch.setattr(projection, "EXACT_UP_TO", 1499)
    found = project(vectors, seed=0, fitted=400)
    apart = np.linalg.norm(found - exact, axis=1)
    assert (apart == 0).sum() >= 400, "the fitted examples stay where they are"
    assert (apart > 0).any(), "the index misses some neighbours"
    assert apart.mean() < 0.001 * np.linalg.norm(np.ptp(exact, axis=0))
    assert abs(like_neighbours(found, group) - like_neighbours(exact, group)) < 0.03


def test_an_example_whose_cells_hold_too_few_is_compared_with_all(pool, monkeypatch):
    monkeypatch.setattr(projection, "EXACT_UP_TO", N - 1)
    monkeypatch.setattr(projection, "PROBES", 1)
    assert np.isfinite(project(pool[0], seed=0, fitted=300)).all()


def test_the_same_seed_gives_the_same_map(pool):
    vectors, _ = pool
    first, again, other = (project(vectors, seed=seed, fitted=200) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_numba_compiles_is_kept_for_the_next_process(pool):
    from umap import umap_

    project(pool[0], seed=0, fitted=300)
    assert all(f.stats.cache_path for f in (umap_.smooth_knn_dist, umap_.compute_membership_strengths))


def test_progress_counts_every_example(pool):
    done: list[int] = []
    project(pool[0], seed=0, fitted=300, progress=done.append)
    assert sum(done) == N and done[0] == 300


def test_examples_that_are_all_alike_have_a_place():
    vectors = np.repeat(unit(np.ones((1, 8))), 4 * NEIGHBOURS, axis=0)
    assert np.isfinite(project(vectors, seed=0)).all()


@pytest.mark.parametrize("order", [("torch", "numpy"), ("numpy", "torch")])
def test_trap_48_the_threads_of_other_libraries_stay_as_they_were(order: tuple[str, str]):
    """A round that finds its map made, and one that makes it, add in the same order in training."""
    program = f"""
import {order[0]}, numpy
from selection.projection import project
project(numpy.random.default_rng(0).normal(size=(320, 8)).astype("f"), seed=0)
import {order[1]}, torch, threadpoolctl
print(torch.get_num_threads(), {{one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "openmp"}})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "{1}"]


def test_new_examples_are_placed_where_the_map_places_what_it_is_not_fitted_on(pool):
    vectors, group = pool
    whole, fitted = project(vectors, seed=0, fitted=200), fitted_rows(N, 0, 200)
    new = np.setdiff1d(np.arange(N), fitted)[::2]
    before = whole.copy()
    before[new] = np.nan
    assert np.allclose(add_to_map(vectors, before, fitted, new), whole[new], atol=1e-5)
    assert like_neighbours(whole, group) > 0.97
