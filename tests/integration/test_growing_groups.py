"""Groups of sources, fields and kinds of prompt in a pool that grows, or whose version changes without a new example."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from growing_pools import CLUSTERED, grow, session_of, settle

from al.choosing.adapt_clusters import adapt_clusters
from al.config import load
from al.lineage.history import SELECTED, History
from al.preparation import projection
from al.preparation.clusters import cluster
from al.preparation.groups import spread_over
from al.preparation.grown_clusters import growth_notices
from al.run import rounds
from al.run.store import Run
from selection.plane import on_plane, principal_plane

STRATEGIES = (
    ["select.strategy=uniform"],
    ["select.strategy=source_uniform"],
    ["select.strategy=source_uniform", "select.by=topic"],
    ["select.strategy=source_kinds"],
    ["select.strategy=kind_uniform"],
    ["select.strategy=kind_uniform", "kinds.k=4"],
)


@pytest.fixture(scope="module")
def renamed(world, tmp_path_factory):
    """A run whose pool has a second version with the examples of the first: a file was imported again under another name."""
    root = tmp_path_factory.mktemp("renamed")
    with Run.create_or_open(root / "run") as run, pytest.MonkeyPatch.context() as patched:
        patched.setattr(projection, "laid_out", lambda size: True)
        patched.setattr(
            projection, "place", lambda vectors, seed, progress: on_plane(vectors, principal_plane(vectors))
        )
        session = session_of(run, world, "cluster.adapt=true")
        first = settle(session, 1)
        for role, artifact in projection.for_the_report(session, first, first.clusters, 1).items():
            rounds.record(run, 1, role, artifact)
        rows = [json.loads(line) for line in (world.parent / "pool/source-1.jsonl").read_text().splitlines()]
        grow(session, root / "another-name.jsonl", rows)
        second = settle(session, 2)
        yield session, first, second


def test_a_pool_version_without_a_new_example_changes_nothing_that_was_settled(renamed):
    session, first, second = renamed
    assert first.pool != second.pool and (first.open_pool().keys == second.open_pool().keys).all()
    for role in ("tokens", "embeddings", "groups", "split"):
        then, now = getattr(first, role), getattr(second, role)
        for file in then.path.glob("*.npy"):
            assert (np.load(file) == np.load(now.path / file.name)).all(), f"{role}: {file.name}"
    assert pq.read_table(first.groups.path / "groups.parquet").equals(
        pq.read_table(second.groups.path / "groups.parquet")
    )
    assert second.embeddings.json("embeddings.json")["embedded"] == 0
    before, after = (
        {role: rounds.recorded(session.run, 1, role) for role in ("projection", "cards")},
        projection.for_the_report(session, second, second.clusters, 2),
    )
    assert before["cards"].json("cards.json") == after["cards"].json("cards.json")
    assert (np.load(before["projection"].path / "map.npy") == np.load(after["projection"].path / "map.npy")).all()
    assert adapt_clusters(session, second, History.recorded(session.run, SELECTED, 2)) == second.clusters


@pytest.mark.parametrize("settings", STRATEGIES, ids=" ".join)
def test_a_pool_version_without_a_new_example_keeps_its_groups(renamed, world, settings):
    session, first, second = renamed
    chosen = session.with_config(load(world, [*CLUSTERED, *settings]))
    then = cluster(chosen, first.pool, first.embeddings, 1)
    rounds.record(session.run, 1, "clusters", then)
    now = cluster(chosen, second.pool, second.embeddings, 2)
    assert now.manifest["inputs"]["earlier"] == then.fingerprint
    assert pq.read_table(then.path / "clusters.parquet").equals(pq.read_table(now.path / "clusters.parquet"))
    assert growth_notices(now) == [] and now.json("clusters.json")["names"] == then.json("clusters.json")["names"]


def test_a_round_that_spreads_its_budget_over_something_else_changes_no_later_groups(renamed, world):
    session, first, second = renamed
    chosen = session.with_config(load(world, [*CLUSTERED, "select.strategy=kind_uniform"]))
    then = cluster(chosen, first.pool, first.embeddings, 1)
    rounds.record(session.run, 1, "clusters", then)
    assert spread_over(rounds.recorded(session.run, 2, "clusters")) == "clusters"
    assert cluster(chosen, second.pool, second.embeddings, 3).manifest["inputs"]["earlier"] == then.fingerprint
    again = session.with_config(load(world, [*CLUSTERED, "select.strategy=kind_uniform", "cluster.recluster=true"]))
    assert "earlier" not in cluster(again, second.pool, second.embeddings, 3).manifest["inputs"]
