"""`goal: pool`: picks follow the pool's mix, and the mean over all of it decides."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow

from al.comparison.text import comparison_as_text
from al.evaluation.deciding import MEANS
from al.round.loop import gained

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
    asked = ("--strategies", "uniform,random", "--seeds", 3, "--rounds", 1, "--budget", 12, "--set", "goal=pool")
    done = winnow("compare", "--config", world, "--run", tmp_path / "run", *asked, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["decides"]["metric"].startswith("micro_")
    uniform = next(entry for entry in found["strategies"] if entry["name"] == "uniform")
    assert set(uniform["equal_tokens"]) == {"tokens", "micro_nll", "difference"}
    page = (tmp_path / "run/comparison.html").read_text()
    assert "NLL, micro ↓" in page and "over the pool&#39;s own mix decides" in page
    assert "NLL over the pool's own mix" in comparison_as_text(found)


@pytest.mark.parametrize(("goal", "goes_on"), [("tasks", False), ("pool", True)])
def test_rounds_go_on_while_the_mean_of_the_goal_falls(goal, goes_on):
    falls, stays = {"high": -0.1}, {"high": 0.1}
    summary = {"dev": {"differences": {"selected - base": {"macro_nll": stays, "micro_nll": falls}}}}
    assert gained(summary | {"decides": {"metric": f"{MEANS[goal]}_em"}}) is goes_on
