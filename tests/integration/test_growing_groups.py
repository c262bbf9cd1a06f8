"""Groups of sources, fields and kinds of prompt in a pool that grows, or whose version changes without a new example."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from growing_pools import CLUSTERED, adapted, by_key, grow, session_of, settle
from tiny_world import WORDS

from al.budget import BudgetRequest
from al.choosing.adapt_clusters import adapt_clusters
from al.config import load
from al.lineage.history import SELECTED, History
from al.planning import forecast
from al.planning.pool_estimate import estimate_pool
from al.preparation import groups, projection
from al.preparation.clusters import cluster, cluster_embeddings
from al.preparation.groups import groups_notices, spread_over
from al.preparation.grown_clusters import CLUSTERS_VERSION, growth_notices
from al.preparation.stages import Prepared
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.session import Session
from al.run.store import Run
from selection import dedup
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


def test_what_was_adapted_outlasts_rounds_of_other_strategies_and_versions_of_the_pool(renamed, world):
    session, first, second = renamed
    other = session.with_config(load(world, [*CLUSTERED, "select.strategy=kind_uniform"]))
    then, split = adapted(session, first, 1)
    own, adapts = {"clusters": first.clusters}, {"clusters": then}
    by_kind = {"clusters": cluster(other, first.pool, first.embeddings, 1)}

    def clusters_after(*recorded: dict, of: Prepared = first) -> Artifact:
        """Of the round that follows these."""
        return adapt_clusters(session, of, History(SELECTED, recorded))

    assert clusters_after(own, adapts, by_kind) == then == clusters_after(own, adapts, own, by_kind)
    assert clusters_after(by_kind) == clusters_after(own, by_kind) == first.clusters
    unlike = replace(second, clusters=cluster_embeddings(session, second.pool, second.embeddings, None))
    assert clusters_after(own, adapts, of=unlike) == unlike.clusters, "made again"
    grown = clusters_after(own, adapts, {"clusters": second.clusters}, by_kind, of=second)
    assert by_key(replace(second, clusters=grown), "cluster") == split and len(set(split.values())) == 7


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


def test_what_older_code_added_to_groups_is_made_again_and_may_still_be_gone_on_from(
    renamed, world, tmp_path, monkeypatch
):
    session, first, second = renamed
    chosen = session.with_config(load(world, [*CLUSTERED, "select.strategy=kind_uniform", "kinds.k=5"]))
    with monkeypatch.context() as older:
        older.setattr(groups, "GROWN_VERSION", CLUSTERS_VERSION)
        then = cluster(chosen, first.pool, first.embeddings, 1)
        rounds.record(session.run, 1, "clusters", then)
        added = cluster(chosen, second.pool, second.embeddings, 2)
        rounds.record(session.run, 2, "clusters", added)
    again = cluster(chosen, second.pool, second.embeddings, 3)
    assert again != added and again.manifest["inputs"] == added.manifest["inputs"]
    grow(session, tmp_path / "more.jsonl", [{"prompt": "say the first of river and stone", "completion": "river"}])
    third = settle(session, 3)
    for before in (added, again):
        rounds.record(session.run, 2, "clusters", before)
        assert cluster(chosen, third.pool, third.embeddings, 3).manifest["inputs"]["earlier"] == before.fingerprint


ASKED = (
    "Translate into French : {}",
    "Is this positive or negative ? {} Answer :",
    "Name the colour of the {} in one word .",
    "How many letters has the word {} ?",
)
FOREIGN = "осень весну лето зиму море лес горы поле реку город снег дождь".split()
SPREAD = ("kinds.uneven=0.1", "kinds.open_shared=0.9", "dedup.threshold=1", "tokens.max_length=400")


def rows_of(kind: int, count: int, seed: int) -> list[dict]:
    """Rows of one kind of prompt about anything, by turns from two sources; answers of the first kind are long."""
    draw = random.Random(seed)
    return [
        {
            "prompt": ASKED[kind].format(" ".join(draw.sample(WORDS, 5))),
            "completion": " ".join(draw.sample(WORDS, 2 if kind else 20)),
            "source": ("one", "two")[i % 2],
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def spread(world, tmp_path_factory):
    """A run over uneven kinds of prompt, one of them open conversation, whose pool got more of one kind and a task in another language."""
    root = tmp_path_factory.mktemp("spread")
    rows = [row for kind, count in enumerate((90, 30, 25, 25)) for row in rows_of(kind, count, kind)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Run.create_or_open(root / "run") as run:
        files = f"pool.files={json.dumps([str(root / 'rows.jsonl')])}"
        session = session_of(run, world, *SPREAD, files, "select.strategy=default")
        first = settle(session, 1)
        strange = [
            {"prompt": f"Напиши стихи про {word}", "completion": "река", "source": "one" if i < 8 else "two"}
            for i, word in enumerate(FOREIGN)
        ]
        grow(session, root / "more.jsonl", [*rows_of(1, 40, 9), *strange])
        yield session, first, settle(session, 2)


def grown_groups(spread, world, *settings: str) -> tuple[dict, dict, Counter]:
    """Groups by other settings before and after the pool grew: both clusters.json, and how many prompts in Russian each group took."""
    session, first, second = spread
    chosen = session.with_config(load(world, [*CLUSTERED, *SPREAD, *settings]))
    then = cluster(chosen, first.pool, first.embeddings, 1)
    rounds.record(session.run, 1, "clusters", then)
    now = cluster(chosen, second.pool, second.embeddings, 2)
    rounds.record(session.run, 1, "clusters", first.clusters)
    assert now.manifest["inputs"]["earlier"] == then.fingerprint
    pool = second.open_pool()
    russian = np.array(["стихи" in prompt for prompt in pool.texts(np.arange(len(pool)), part="prompt")])
    of = pq.read_table(now.path / "clusters.parquet")["cluster"].to_numpy()[russian]
    return then.json("clusters.json"), now.json("clusters.json"), Counter(of.tolist())


def test_a_task_in_new_wording_makes_a_kind_of_its_own(spread, world):
    then, now, russian = grown_groups(spread, world, "select.strategy=kind_uniform")
    assert now["k"] == then["k"] + 1 and russian == {then["k"]: 12}
    assert now["names"][:-1] == then["names"] and "стихи" in now["names"][-1]
    assert now["quality"]["kinds"] == then["quality"]["kinds"] + 1 and now["growth"]["unlike"] == 12


def test_it_makes_a_group_of_each_source_that_has_enough_of_it(spread, world):
    then, now, russian = grown_groups(spread, world, "select.strategy=source_kinds", "kinds.open_shared=0")
    assert then["k"] > 4 and now["k"] == then["k"] + 1 and russian[then["k"]] == 8
    assert now["names"][-1].startswith("one: ") and now["quality"]["sources"] == 2
    (few,) = set(russian) - {then["k"]}
    assert then["names"][few].startswith("two: ") and russian[few] == 4


def test_a_number_of_kinds_that_is_asked_for_stays(spread, world):
    then, now, russian = grown_groups(spread, world, "select.strategy=kind_uniform", "kinds.k=4")
    assert then["k"] == now["k"] == 4 and sum(russian.values()) == 12
    assert [then["names"][group].split(":")[0] for group in russian] == ["open conversation"], "the largest"


def test_notes_count_prompts_in_new_wording_and_say_what_was_so_when_groups_were_found(spread):
    session, first, second = spread
    (note,) = growth_notices(second.clusters)
    assert "12 of them share next to no wording" in note and "--recluster" in note
    before, after = (groups_notices(session.config, prepared.clusters)[0] for prepared in (first, second))
    uneven = f"{first.clusters.json('clusters.json')['quality']['unevenness']:.2f} nats"
    assert f"because the pool holds them unevenly ({uneven}" in before
    assert f"because the pool held them unevenly when they were found ({uneven}" in after
    names = second.clusters.json("clusters.json")["names"]
    of = pq.read_table(second.clusters.path / "clusters.parquet")["cluster"].to_numpy()
    talk = np.isin(of, [code for code, name in enumerate(names) if name.startswith("open conversation")]).mean()
    assert f"{talk:.0%} of the pool is open conversation" in after
    assert f"{talk:.0%} of the pool is open conversation" not in before


def test_the_plan_of_a_round_knows_what_its_budget_is_spread_over(spread, monkeypatch):
    session, _, second = spread
    monkeypatch.setattr(forecast, "estimate", lambda config, budget, pool, *machine: pool.several_sources)
    by_embeddings = replace(second, clusters=cluster_embeddings(session, second.pool, second.embeddings, None))
    budget = BudgetRequest("examples", 100, "100")
    assert forecast.planned(session, second, budget, 2) and not forecast.planned(session, by_embeddings, budget, 2)


def test_progress_ends_at_its_total_where_all_near_duplicates_are_grouped_again(spread, tmp_path, monkeypatch):
    session, _, second = spread
    made, plain = [], Session.progress
    monkeypatch.setattr(Session, "progress", lambda *arguments: made.append(plain(*arguments)) or made[-1])
    monkeypatch.setattr(dedup, "EXACT_UP_TO", 100)
    monkeypatch.setattr(dedup, "GROWN_UP_TO", 10)
    grow(session, tmp_path / "later.jsonl", rows_of(2, 20, 10))
    third = settle(session, 3)
    assert third.groups.manifest["inputs"]["earlier"] == second.groups.fingerprint
    (bar,) = [bar for bar in made if bar.title == "near-duplicates"]
    assert bar.done == bar.total == 20


def test_a_plan_after_an_import_expects_the_groups_that_the_default_has_chosen(world, tmp_path):
    def rows(seed: int) -> list[dict]:
        """Rows of one source."""
        return [row | {"source": "one"} for kind in range(4) for row in rows_of(kind, 12, seed + kind)]

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(0)))
    settings = (f"pool.files={json.dumps([str(tmp_path / 'rows.jsonl')])}", "kinds.uneven=0", "select.strategy=default")
    with Run.create_or_open(tmp_path / "run") as run:
        session = session_of(run, world, *SPREAD, *settings)
        assert spread_over(settle(session, 1).clusters) == "wording"
        grow(session, tmp_path / "more.jsonl", rows(20))
        again = load(world, [*CLUSTERED, *SPREAD, *settings, "cluster.recluster=true"])
        plans = [estimate_pool(config, run.path) for config in (session.config, again)]
    assert [plan.several_sources for plan in plans] == [True, False] and [plan.new for plan in plans] == [48, 96]
