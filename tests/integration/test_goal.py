"""`goal: pool`: picks follow the pool's mix, and the mean over all of it decides."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow

BUDGET = 48


@pytest.fixture(scope="module")
def for_the_pool(world, tmp_path_factory):
    run = tmp_path_factory.mktemp("goal") / "run"
    done = winnow("round", "--config", world, "--run", run, "--budget", BUDGET, "--set", "goal=pool")
    assert done.code == 0, done.err
    return run, " ".join(done.out.split())


def test_every_cluster_gives_its_share_of_the_pool(for_the_pool):
    run, _ = for_the_pool
    summary = json.loads((run / "rounds/001/summary.json").read_text())
    assert summary["selection"]["strategy"] == "proportional" and summary["selection"]["groups"].endswith(
        "clusters of embeddings"
    )
    table = pq.read_table(run / "rounds/001/selection/selection.parquet").to_pandas()
    open_to_it = table[table.outcome.isin(["selected", "quota_full", "no_quota"])]
    picked = open_to_it[open_to_it.outcome == "selected"]
    shares = np.bincount(open_to_it.cluster) / len(open_to_it) * BUDGET
    assert np.abs(np.bincount(picked.cluster, minlength=len(shares)) - shares).max() < 1
    assert table.nll.isna().all(), "nothing is measured for shares that are known"


def test_the_mean_over_the_pools_mix_decides_and_says_so(for_the_pool):
    run, out = for_the_pool
    summary = json.loads((run / "rounds/001/summary.json").read_text())
    assert summary["decides"]["metric"].startswith("micro_")
    assert "over the pool's own mix" in out and "because that is the goal" in out


def test_a_comparison_goes_by_the_goal_too(world, tmp_path):
    asked = ("--strategies", "default,random", "--seeds", 1, "--rounds", 1, "--budget", 12, "--set", "goal=pool")
    done = winnow("compare", "--config", world, "--run", tmp_path / "run", *asked, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["decides"]["metric"].startswith("micro_")
