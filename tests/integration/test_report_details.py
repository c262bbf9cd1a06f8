"""What a reader can look up on the report of a real round: the map, the cards of clusters, every pick with its reason."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow

import al.preparation.projection as projection


def play(run: Path, world: Path, *more: str):
    result = winnow(
        "round", "--config", world, "--run", run, "--budget", 20, "--no-control", "--strategy", "loss", *more
    )
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds; the small world's pool is too small for UMAP."""
    run = tmp_path_factory.mktemp("runs") / "details"
    play(run, world)
    play(run, world)
    return run


def read(run: Path, number: int, name: str):
    return json.loads((run / f"rounds/{number:03d}/{name}").read_text())


def table(run: Path, number: int):
    return pq.read_table(run / f"rounds/{number:03d}/selection/selection.parquet").to_pandas()


def column(document, name: str, kind: str = "<u2") -> list[int]:
    return np.frombuffer(base64.b64decode(document[name]), dtype=kind).tolist()


def test_every_example_of_the_pool_is_on_the_map(run: Path):
    points, pool = read(run, 2, "details.json")["map"], table(run, 2)
    assert points["points"] == points["sampled_from"] == len(pool)
    assert column(points, "cluster") == pool.cluster.tolist()
    assert [points["outcomes"][code] for code in column(points, "outcome", "<u1")] == pool.outcome.tolist()
    assert [points["sources"][code] for code in column(points, "source")] == pool.source.tolist()
    rounds = np.where(pool.outcome == "selected", 2, pool.trained_round)
    assert column(points, "round", "<u1") == rounds.tolist() and set(rounds) == {0, 1, 2}
    assert points["texts"]["id"] == pool.id.iloc[points["texts"]["point"]].tolist()
    assert read(run, 2, "summary.json")["map"]["method"] == "pca"


def test_every_pick_is_listed_with_the_reason_that_the_selection_gives(run: Path):
    picks = read(run, 2, "details.json")["picks"]
    path = run / "rounds/002/selection/selection.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert picks["total"] == len(lines) == 20
    for name in ("id", "source", "cluster", "tokens"):
        assert picks[name] == [line[name] for line in lines]
    assert all(shown.startswith(line["why"]) for shown, line in zip(picks["why"], lines, strict=True))
    turns = [[" ".join(message["content"].split()) for message in line["messages"]] for line in lines]
    assert picks["asked"] == [said[-2] for said in turns] and picks["response"] == [said[-1] for said in turns]
    assert picks["before"] == [f"system: {said[0]}" for said in turns] and picks["whole"] == 20


def test_a_card_tells_what_became_of_its_cluster(run: Path):
    pool, cards = table(run, 2), read(run, 2, "details.json")["cards"]
    assert [card["cluster"] for card in cards] == sorted(set(pool.cluster))
    for card in cards:
        members = pool[pool.cluster == card["cluster"]].set_index("id")
        assert card["outcomes"] == Counter(members.outcome)
        assert len(card["exemplars"]) == min(3, len(members))
        assert all(row["id"] in members.index for kind in ("exemplars", "picked", "refused") for row in card[kind])
        assert {members.outcome[row["id"]] for row in card["picked"]} <= {"selected"}
        assert "selected" not in {members.outcome[row["id"]] for row in card["refused"]}


def test_the_terms_on_a_card_begin_with_those_of_the_clusters_name(run: Path):
    clusters, cards = read(run, 1, "summary.json")["clusters"], read(run, 1, "details.json")["cards"]
    named = [card for card in cards if card["terms"]]  # a cluster of numbers has none
    assert len(named) > 3 and all(len(card["terms"]) > 3 for card in named[:2])
    assert all(clusters[card["cluster"]]["name"].startswith(", ".join(card["terms"][:3])) for card in named)


def test_the_gain_of_a_cluster_is_what_the_two_rounds_measured(run: Path):
    first, second = (read(run, number, "summary.json")["clusters"] for number in (1, 2))
    assert all(cluster["gain"] is None and cluster["loss_before"] is None for cluster in first)
    same = [(a, b) for a, b in zip(first, second, strict=False) if b["change"] is None and b["gain"] is not None]
    assert same
    for before, now in same:
        assert now["loss_before"] == pytest.approx(before["loss"], abs=1e-6)
        assert now["gain"] == pytest.approx(before["loss"] - now["loss"], abs=1e-6)


def test_terms_and_places_are_made_once_for_a_clustering(run: Path):
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    made = [e["fingerprint"] for e in events if e["event"] == "stage.published" and e["stage"] == "describe clusters"]
    used = {(run / f"rounds/{number:03d}/clusters").resolve().name for number in (1, 2)}
    assert len(made) == len(set(made)) == len(used)


def test_a_map_that_fails_costs_no_round(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_, **__):
        raise RuntimeError("no such kernel")

    pytest.importorskip("umap", reason="umap-learn is not installed (requirements.txt)")
    monkeypatch.setattr(projection, "LEAST", 10)
    monkeypatch.setattr(projection, "place", broken)
    result = play(tmp_path / "run", world)
    assert "note: map failed (RuntimeError: no such kernel); the map shows principal components instead." in result.out
    assert read(tmp_path / "run", 1, "summary.json")["map"]["method"] == "pca"
    events = (tmp_path / "run/events.jsonl").read_text()
    assert '"stage.failed", "stage": "map"' in events


def test_a_map_by_umap_is_told_as_such(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(projection, "LEAST", 10)
    monkeypatch.setattr(projection, "place", lambda v, seed, progress: np.arange(2 * len(v)).reshape(-1, 2))
    pytest.importorskip("umap", reason="umap-learn is not installed (requirements.txt)")
    play(tmp_path / "run", world)
    found = read(tmp_path / "run", 1, "summary.json")["map"]
    assert (found["method"], found["fitted"], found["x"][:3]) == ("umap", found["sampled_from"], [0, 2, 4])
    assert "Embeddings laid out by UMAP" in (tmp_path / "run/rounds/001/report.html").read_text()


def test_the_map_is_planned_until_there_is_one(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(projection, "LEAST", 10)
    monkeypatch.setattr(projection, "place", lambda v, seed, progress: np.arange(2 * len(v)).reshape(-1, 2))
    pytest.importorskip("umap", reason="umap-learn is not installed (requirements.txt)")
    asked = ("plan", "--config", world, "--run", tmp_path / "run", "--budget", 20, "--json")
    assert winnow(*asked).document["seconds"]["map"] > 0
    play(tmp_path / "run", world)
    assert winnow(*asked).document["seconds"]["map"] == 0
    assert json.loads((tmp_path / "run/rounds/001/plan/plan.json").read_text())["seconds"]["map"] > 0
