"""A pool that grows: only what is new is tokenized, embedded, compared and assigned; what earlier rounds settled stays."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow, winnow_child
from growing_pools import CLUSTERED, MORE, adapted, by_key, grow, session_of, settle
from tiny_world import WORDS

from al.choosing.adapt_clusters import adapt_clusters
from al.cleaning import stage as cleaning
from al.commands.options import Options
from al.config import load
from al.config.pool import PoolConfig
from al.lineage.history import SELECTED, History
from al.pool.sources import find_sources
from al.pool.store import Pool
from al.preparation import clusters, groups, near_duplicates, projection
from al.preparation import tokens as preparation_tokens
from al.preparation.embedding import embed
from al.preparation.grown_clusters import growth_notices, own_clustering
from al.preparation.stages import Prepared, import_sources, pool_version
from al.preparation.tokens import tokenize
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.session import Session
from al.run.store import Run
from selection import overlap
from selection.dedup import near_duplicate_groups
from selection.holdout import DEV, POOL, SHADOW, TEST
from selection.plane import on_plane, principal_plane
from selection.vectors import unit
from trainer.tokens import tokenize_pool

ROWS = [{"question": f"How high is hill {i} of the county?", "answer": f"{i} feet"} for i in range(5)]


def test_what_is_added_is_tokenized_and_embedded_alone_as_if_all_had_come_at_once(world, tmp_path, monkeypatch):
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    counted, plain = [], preparation_tokens.tokenize_parts

    def watched(conversations, *args, **kwargs):
        known = list(conversations)
        counted.append(len(known))
        return plain(known, *args, **kwargs)

    monkeypatch.setattr(preparation_tokens, "tokenize_parts", watched)
    with Run.create_or_open(tmp_path / "run") as run:
        session = Session(run, load(world, []), quiet=True)
        before = pool_version(session)[1]
        tokenize(session, before)
        embed(session, before)
        grown = import_sources(session, find_sources(PoolConfig(files=[str(tmp_path / "more.jsonl")])), before)
        rounds.add_pool(run, grown)
        tokens, embeddings = tokenize(session, grown), embed(session, grown)
        assert counted[1:] == [5] and embeddings.json("embeddings.json")["embedded"] == 5
        assert import_sources(session, find_sources(PoolConfig(files=[str(tmp_path / "more.jsonl")])), grown) == grown
        whole = Pool.open(grown.path)
        at_once = tmp_path / "at-once"
        tokenize_pool(whole.iter_messages(), session.template, session.config.tokens, at_once)
        for file in at_once.iterdir():
            assert (tokens.path / file.name).read_bytes() == file.read_bytes(), file.name
        assert len(np.load(embeddings.path / "embeddings.npy")) == len(whole)


PASSAGE, OTHER = (" ".join(random.Random(seed).choices(WORDS, k=30)) for seed in (1, 2))


@pytest.fixture(scope="module")
def grown(world, tmp_path_factory):
    """A session on a run whose pool grew between two rounds, and what both rounds prepared."""
    root = tmp_path_factory.mktemp("grown")
    with Run.create_or_open(root / "run") as run:
        session = session_of(run, world)
        first = settle(session, 1)
        held = np.flatnonzero(np.isin(np.load(first.split.path / "split.npy"), (DEV, TEST)))[:6]
        echoes = first.open_pool().messages(held)
        for messages in echoes:
            messages[-1]["content"] += " ."
        grow(session, root / "more.jsonl", [*MORE, *({"messages": messages} for messages in echoes)])
        with pytest.MonkeyPatch.context() as patched:
            for module, name in ((near_duplicates, "near_duplicate_groups"), (clusters, "cluster_rows")):
                patched.setattr(module, name, None)  # nothing is done for all examples again
            second = settle(session, 2)
        yield session, first, second


def test_near_duplicates_are_those_of_comparing_everything(grown):
    session, first, second = grown
    vectors = np.load(second.embeddings.path / "embeddings.npy")
    table = pq.read_table(second.groups.path / "groups.parquet")
    rank = np.load(second.groups.path / "preference.npy")
    answers = near_duplicates.answers_of(second.open_pool(), session.config.dedup)
    whole = near_duplicate_groups(vectors, rank, session.config.dedup.threshold, 16, answers=answers)
    assert second.groups.manifest["inputs"]["earlier"] == first.groups.fingerprint
    assert (table["representative"].to_numpy() == whole.representative).all()
    old = np.isin(second.open_pool().keys, first.open_pool().keys)
    new_members = ~old & (whole.representative != np.arange(len(old)))
    assert new_members.any() and len(set(rank.tolist())) == 3


def test_clusters_stay_and_new_examples_join_them(grown):
    _, first, second = grown
    before, after = by_key(first, "cluster"), by_key(second, "cluster")
    assert {key: after[key] for key in before} == before and len(after) == len(before) + len(MORE) + 6
    for name in ("distance", "x", "y"):
        assert by_key(first, name).items() <= by_key(second, name).items(), name
    then, now = (prepared.clusters.json("clusters.json") for prepared in (first, second))
    assert now["names"] == then["names"] and now["growth"]["added"] == len(MORE) + 6
    assert now["quality"]["largest"] == max(Counter(after.values()).values())


def test_new_examples_lie_where_grouping_all_by_the_same_cells_puts_them(grown):
    _, first, second = grown
    vectors = unit(np.load(second.embeddings.path / "embeddings.npy"))
    cells, cluster_of = (np.load(first.clusters.path / f"{name}.npy") for name in ("cells", "cluster_of"))
    expected = cluster_of[(vectors @ unit(cells).T).argmax(axis=1)]
    assert list(by_key(second, "cluster").values()) == expected.tolist()


def sides(prepared: Prepared) -> dict[int, int]:
    """The side of the split of each example, by its key."""
    return dict(
        zip(prepared.open_pool().keys.tolist(), np.load(prepared.split.path / "split.npy").tolist(), strict=True)
    )


def test_the_holdout_stays_and_new_examples_near_to_it_are_left_out(grown):
    session, first, second = grown
    before, after = sides(first), sides(second)
    assert {key: after[key] for key in before if before[key] != POOL} == {
        key: side for key, side in before.items() if side != POOL
    }
    held = np.isin(np.load(second.split.path / "split.npy"), (DEV, TEST))
    assert held.sum() == sum(side in (DEV, TEST) for side in before.values())
    vectors = unit(np.load(second.embeddings.path / "embeddings.npy"))
    answers = near_duplicates.answers_of(second.open_pool(), session.config.dedup)
    near = ((vectors @ vectors[held].T >= 0.988) & (answers[:, None] == answers[held])).any(axis=1)
    new = ~np.isin(second.open_pool().keys, list(before))
    assert (near & new).any() and set(np.load(second.split.path / "split.npy")[near & new]) == {SHADOW}
    assert POOL in np.load(second.split.path / "split.npy")[new]


def test_only_new_texts_are_searched_for_passages_of_the_holdout(world, tmp_path, monkeypatch):
    held = [{"prompt": f"red {passage}", "completion": "paper"} for passage in (PASSAGE, OTHER)]
    green, blue = (
        {"prompt": f"{word} {passage}", "completion": "metal"}
        for word, passage in (("green", PASSAGE), ("blue", OTHER))
    )
    with Run.create_or_open(tmp_path / "run") as run:
        (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
        named = f"holdout.test_files={json.dumps([str(tmp_path / 'held.jsonl')])}"
        session = session_of(run, world, named, "tokens.max_length=400")
        first = settle(session, 1)
        grow(session, tmp_path / "more.jsonl", [green, *MORE])
        seen, plain = [], overlap.text_blocks

        def watched(texts, wanted):
            seen.append(int(wanted.sum()))
            return plain(texts, wanted)

        second = settle(session, 2)
        assert sum(side == SHADOW for side in sides(second).values()) > sum(s == SHADOW for s in sides(first).values())
        seen_before = np.load(second.split.path / "seen.npy")
        assert set(seen_before) == {1, 2}
        monkeypatch.setattr(overlap, "text_blocks", watched)
        grow(session, tmp_path / "later.jsonl", [blue])
        third = settle(session, 3)
        seen_now = np.load(third.split.path / "seen.npy")
        assert seen[0] == 1 and (seen_now == 2).sum() == 2 * (seen_before == 2).sum()
        added = (set(sides(third)) - set(sides(second))).pop()
        assert sides(third)[added] == SHADOW


@pytest.mark.parametrize(
    "settings",
    [["select.strategy=source_kinds"], ["select.strategy=kind_uniform", "kinds.k=4"], ["select.strategy=default"]],
)
def test_groups_of_sources_and_kinds_stay_too(world, tmp_path, monkeypatch, settings):
    with Run.create_or_open(tmp_path / "run") as run:
        session = session_of(run, world, *settings)
        first = settle(session, 1)
        monkeypatch.setattr(groups, "find_kinds", None)
        grow(session, tmp_path / "more.jsonl", MORE)
        second = settle(session, 2)
        before, after = by_key(first, "cluster"), by_key(second, "cluster")
        assert {key: after[key] for key in before} == before
        then, now = (prepared.clusters.json("clusters.json") for prepared in (first, second))
        new = {after[key] for key in after if key not in before}
        assert now["names"][: then["k"]] == then["names"] and now["spread_over"] == then["spread_over"]
        if now["spread_over"] == "wording":
            assert now["k"] == then["k"] and new < set(before.values())
        else:
            assert now["names"][then["k"] :] == ["more"] and new == {then["k"]}
        assert settle(session, 3).clusters == second.clusters


ASKED = (
    "Translate into French : {}",
    "Is this positive or negative ? {} Answer :",
    "Name the colour of the {} in one word .",
    "How many letters has the word {} ?",
)


def test_new_prompts_of_a_source_of_several_kinds_join_those_worded_alike(world, tmp_path):
    draw = random.Random(3)

    def rows(count: int) -> list[dict]:
        texts = [(kind, " ".join(draw.sample(WORDS, 5))) for kind in range(4) for _ in range(count)]
        return [{"prompt": ASKED[kind].format(text), "completion": "stone"} for kind, text in texts]

    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(25)))
    files = json.dumps([str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")])
    with Run.create_or_open(tmp_path / "run") as run:
        session = session_of(
            run, world, f"pool.files={files}", "select.strategy=source_kinds", "kinds.k=4", "dedup.threshold=1"
        )
        first = settle(session, 1)
        assert first.clusters.json("clusters.json")["k"] == 8
        (tmp_path / "more").mkdir()
        grow(session, tmp_path / "more/one.jsonl", [{**row, "source": "one"} for row in rows(5)])
        second = settle(session, 2)
        pool, new = second.open_pool(), ~np.isin(second.open_pool().keys, first.open_pool().keys)
        group = np.array(list(by_key(second, "cluster").values()))
        names = second.clusters.json("clusters.json")["names"]
        first_words = np.array([messages[0]["content"].split()[0] for messages in pool.messages(np.arange(len(pool)))])
        assert new.sum() == 20 and len(names) == 8
        for row in np.flatnonzero(new):
            alike = ~new & (first_words == first_words[row]) & (pool.sources == pool.sources[row])
            assert set(group[alike]) == {group[row]} and names[group[row]].startswith("one: ")


def test_languages_are_detected_of_new_examples_alone(world, tmp_path, monkeypatch):
    pytest.importorskip("py3langid")
    plain, detected = cleaning.example_languages, []

    def watched(pool, progress, rows):
        detected.append(len(rows))
        return plain(pool, progress, rows)

    monkeypatch.setattr(cleaning, "example_languages", watched)
    with Run.create_or_open(tmp_path / "run") as run:
        session = session_of(run, world)
        first = pool_version(session)[1]
        cleaning.detect_languages(session, first)
        grow(
            session, tmp_path / "more.jsonl", [*MORE, {"prompt": "Wie hoch ist der Berg?", "completion": "Sehr hoch."}]
        )
        grown = pool_version(session)[1]
        found = np.load(cleaning.detect_languages(session, grown).path / "languages.npy")
    assert detected == [len(Pool.open(first.path)), 41]
    assert (found == plain(Pool.open(grown.path))).all() and "de" in found


def test_clusters_are_made_again_where_that_is_asked_for(grown, world, tmp_path):
    session, _, second = grown
    again = session.with_config(load(world, [*CLUSTERED, "cluster.recluster=true"]))
    third = settle(again, 3)
    assert "growth" not in third.clusters.json("clusters.json")
    assert third.clusters.fingerprint != second.clusters.fingerprint
    assert settle(session, 4).clusters == third.clusters


def test_what_was_added_is_noted_and_many_or_far_examples_recommend_to_make_clusters_again(grown, tmp_path):
    _, first, second = grown

    def notes(**growth: int) -> list[str]:
        (tmp_path / "clusters.json").write_text(json.dumps({"growth": growth} if growth else {}))
        return growth_notices(Artifact("clusters", "a", tmp_path, {"files": {}}))

    assert notes() == growth_notices(first.clusters) == []
    assert "46 examples added" in growth_notices(second.clusters)[0]
    assert "--recluster" not in notes(made_from=1000, added=500, far=0)[0]
    assert "they are many: --recluster" in notes(made_from=1000, added=501, far=0)[0]
    assert "11 of them lie outside of all clusters: --recluster" in notes(made_from=1000, added=100, far=11)[0]


def test_the_next_round_makes_clusters_again_only_if_it_is_asked_to_as_well(world, tmp_path):
    asked = Options(run_path=tmp_path / "run").for_round(None, False, (), (), recluster=True)
    with Run.create_or_open(tmp_path / "run") as run:
        config = load(world, ["cluster.recluster=true", "cluster.k=5"])
        rounds.open_round(run, 1, "12", config.model_dump(mode="json"))
        assert Options(run_path=run.path).load_config().cluster.recluster, "an interrupted round goes on as it began"
        rounds.finish_round(run, 1)
        assert Options(run_path=run.path).load_config().cluster.model_dump() == config.cluster.model_dump() | {
            "recluster": False
        }
        assert asked.load_config().cluster.recluster


def test_a_round_on_a_grown_pool_that_is_killed_goes_on_with_what_was_settled(two_rounds, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_rounds[0], run, symlinks=True)
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MORE))
    assert winnow("pool", "import", tmp_path / "more.jsonl", "--run", run).code == 0
    again = ("round", "--run", run, "--budget", 24, "--no-control", "--set", "evaluate.generations=0", "--auto")
    assert winnow_child(*again, WINNOW_FAILPOINT="clusters.manifest").code == -signal.SIGKILL
    done = winnow(*again)
    assert done.code == 0 and "40 examples added since" in done.out, done.err
    with Run.read(run) as opened:
        before, after = rounds.roles(opened, 2), rounds.roles(opened, 3)
        own = own_clustering(opened, after["clusters"])
    assert after["groups"].manifest["inputs"]["earlier"] == before["groups"].fingerprint
    assert own.manifest["inputs"]["earlier"] == before["clusters"].fingerprint
    old = np.isin(*(Pool.open(roles["pool"].path).keys for roles in (after, before)))
    then, now = (pq.read_table(a.path / "clusters.parquet")["cluster"].to_numpy() for a in (before["clusters"], own))
    assert (now[old] == then).all() and (~old).sum() == 40
    assert winnow("gc", "--run", run, "--yes").code == 0 and winnow("verify", "--run", run).code == 0


def test_terms_and_exemplars_stay_with_their_examples(grown):
    session, first, second = grown
    before = projection.describe_clusters(session, first, first.clusters, 1)
    rounds.record(session.run, 1, "cards", before)
    after = projection.describe_clusters(session, second, second.clusters, 2)
    assert after.manifest["inputs"]["earlier"] == before.fingerprint
    then, now = before.json("cards.json"), after.json("cards.json")
    assert then["terms"] == now["terms"]
    ids = [
        [[prepared.open_pool().ids[row] for row in rows] for rows in cards["exemplars"]]
        for prepared, cards in ((first, then), (second, now))
    ]
    assert ids[0] == ids[1]


def test_new_examples_are_added_to_the_map(grown):
    session, first, second = grown
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(projection, "laid_out", lambda size: True)
        patched.setattr(
            projection, "place", lambda vectors, seed, progress: on_plane(vectors, principal_plane(vectors))
        )
        before = projection.project(session, first, 1)
        rounds.record(session.run, 1, "projection", before)
        patched.setattr(projection, "place", None)
        after = projection.project(session, second, 2)
    then, now = np.load(before.path / "map.npy"), np.load(after.path / "map.npy")
    old = np.isin(second.open_pool().keys, first.open_pool().keys)
    assert (now[old] == then).all() and np.isfinite(now).all()
    low, high = then.min(axis=0), then.max(axis=0)
    assert ((now[~old] >= low) & (now[~old] <= high)).all(), "between examples of before"


def test_what_was_adapted_to_losses_stays_and_new_examples_join_it(grown):
    session, first, second = grown
    old, own = by_key(first, "cluster"), by_key(second, "cluster")
    k = first.clusters.json("clusters.json")["k"]
    then, split = adapted(session, first, 1)
    rounds.record(session.run, 1, "clusters", then)
    found = adapt_clusters(session, second, History.recorded(session.run, SELECTED, 2))
    rounds.record(session.run, 1, "clusters", first.clusters)
    now = by_key(dataclasses.replace(second, clusters=found), "cluster")
    assert {key: now[key] for key in old} == split
    new = [key for key in now if key not in old]
    assert all(now[key] == own[key] or (own[key] == 0 and now[key] == k) for key in new)
    assert found.json("clusters.json")["k"] == k + 1 and own_clustering(session.run, found) == second.clusters
