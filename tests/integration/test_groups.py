"""Strategies that spread the budget over sources, a field or kinds of prompt, through whole rounds on the small world."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow
from tiny_world import WORDS

from al.pool.store import Pool


def picked_by(run: Path, settings: dict[str, object], world: Path, strategy: str, budget: int = 36) -> dict:
    """One round without a control: names of the groups, and the sources of the picks."""
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = winnow(
        "round", "--config", world, "--run", run, "--budget", budget, "--strategy", strategy, "--no-control",
        "--set", "evaluate.generations=0", *options,
    )  # fmt: skip
    assert done.code == 0, done.err
    pool = Pool.open(next((run / "artifacts/pool").iterdir()))
    quotas = (next((run / "artifacts/selection").iterdir()) / "quotas.json").read_text()
    picked = np.isin(pool.keys, np.load(next((run / "artifacts/selection").iterdir()) / "picked.npy"))
    clusters = next((run / "artifacts/clusters").iterdir())
    return {
        "names": json.loads((clusters / "clusters.json").read_text())["names"],
        "cluster": pq.read_table(clusters / "clusters.parquet")["cluster"].to_numpy(),
        "pool": pool,
        "picked": picked,
        "quotas": quotas,
        "printed": done.out,
    }


@pytest.fixture(scope="module")
def alike(world, tmp_path_factory):
    return picked_by(tmp_path_factory.mktemp("alike") / "run", {}, world, "source_uniform")


def test_groups_are_the_sources_by_name(alike):
    sources = alike["pool"].sources
    assert [alike["names"][c] for c in alike["cluster"]] == sources.tolist()


def test_every_source_gets_alike(alike):
    counts = Counter(alike["pool"].sources[alike["picked"]].tolist())
    assert sum(counts.values()) == 36 and max(counts.values()) - min(counts.values()) <= 1
    assert "as every group" in alike["quotas"] and f"Groups: {len(counts)} sources." in alike["printed"]


def test_another_field_and_rows_without_it(world, tmp_path):
    rng = random.Random(4)
    rows = []
    for i in range(150):
        words = rng.sample(WORDS, 8)
        topic = {} if i < 30 else {"topic": ["x", "y"][i < 80]}
        rows.append({"prompt": " ".join(words[:6]), "completion": " ".join(words[6:]), **topic})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "pool.files": json.dumps([str(file)]),
        "select.by": "topic",
        "holdout.dev": 4,
        "holdout.test": 8,
        "dedup.threshold": 1.0,
    }
    found = picked_by(tmp_path / "run", settings, world, "source_uniform", 12)
    assert sorted(found["names"]) == ["without the field", "x", "y"]
    topics = [entry.get("topic") for entry in found["pool"].metadata(np.flatnonzero(found["picked"]))]
    assert max(Counter(topics).values()) == 4 and set(topics) == {None, "x", "y"}


def test_sources_that_are_tasks_stay_whole_and_a_quarter_is_random(world, tmp_path):
    found = picked_by(tmp_path / "run", {}, world, "source_kinds")
    assert sorted(found["names"]) == sorted(set(found["pool"].sources.tolist()))
    assert sum(entry["quota"] for entry in json.loads(found["quotas"])) == 36 - 9


def test_kinds_of_prompt_need_no_source(world, tmp_path):
    found = picked_by(tmp_path / "run", {"kinds.k": 4}, world, "kind_uniform", 24)
    counts = np.bincount(found["cluster"][found["picked"]], minlength=len(found["names"]))
    assert len(found["names"]) == len(counts) == 4 and counts.sum() == 24


def test_the_default_goes_by_sources_and_says_so(world, tmp_path):
    default = picked_by(tmp_path / "run", {}, world, "default")
    named = picked_by(tmp_path / "named", {}, world, "source_kinds")
    assert (default["picked"] == named["picked"]).all()
    summary = json.loads((tmp_path / "run/rounds/001/summary.json").read_text())
    assert summary["selection"]["strategy"] == "source_kinds"
    assert "several sources that differ" in summary["selection"]["why"][0]
    assert summary["selection"]["why"][0] in (tmp_path / "run/rounds/001/report.html").read_text()
    assert summary["scoring"]["measured"] == 0


def test_a_field_that_no_row_has_leaves_the_default_to_clusters(world, tmp_path):
    picked_by(tmp_path / "run", {"select.by": "nothing"}, world, "default")
    assert json.loads((tmp_path / "run/rounds/001/summary.json").read_text())["selection"]["strategy"] == "default"


def test_kinds_of_prompt_leave_a_quarter_to_chance(world, tmp_path):
    found = picked_by(tmp_path / "run", {"kinds.k": 4}, world, "kind_uniform", 24)
    assert sum(entry["quota"] for entry in json.loads(found["quotas"])) == 24 - 6


def test_without_sources_the_default_goes_by_kinds_that_are_uneven_and_says_so(world, tmp_path):
    rng = random.Random(6)
    asked = (
        "Translate into French : {}",
        "Is this positive or negative ? {} Answer :",
        "Name the colour of the {} in one word .",
        "How many letters has the word {} ?",
    )
    rows = [
        {"prompt": asked[i].format(" ".join(rng.sample(WORDS, 4))), "completion": " ".join(rng.sample(WORDS, 3))}
        for i, count in enumerate((230, 14, 14, 14))
        for _ in range(count)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "pool.files": json.dumps([str(tmp_path / "rows.jsonl")]),
        "holdout.dev": 4,
        "holdout.test": 8,
        "dedup.threshold": 1.0,
        "kinds.k": 4,
    }
    found = picked_by(tmp_path / "run", settings, world, "default", 24)
    summary = json.loads((tmp_path / "run/rounds/001/summary.json").read_text())["selection"]
    assert summary["strategy"] == "kind_uniform" and "kinds of prompt (kind_uniform)" in summary["why"][0]
    counts = np.bincount(found["cluster"][found["picked"]], minlength=len(found["names"]))
    rare = counts[np.bincount(found["cluster"]) < 20]
    assert len(rare) == 3 and rare.min() >= 4  # random picks would give each of them one or two


def test_topics_of_conversation_are_one_group_of_the_default_and_it_says_so(world, tmp_path):
    rng = random.Random(7)
    persona = ("You are a sailor , answer at length : {}", "You are a cook , answer at length : {}")
    asked = (
        "Name the colour of the {} in one word .",
        "How many letters has the word {} ?",
        "Is this true or false ? {} Answer :",
    )
    rows = [(persona[i % 2], 24) for i in range(200)] + [(text, 1) for text in asked for _ in range(14)]
    lines = [
        json.dumps(
            {"prompt": text.format(" ".join(rng.sample(WORDS, 4))), "completion": " ".join(rng.sample(WORDS, n))}
        )
        for text, n in rows
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    settings = {
        "pool.files": json.dumps([str(tmp_path / "rows.jsonl")]),
        "holdout.dev": 4,
        "holdout.test": 8,
        "dedup.threshold": 1.0,
        "kinds.k": 5,
        "kinds.open_shared": 0.9,  # the small world has few words, so answers share many
    }
    found = picked_by(tmp_path / "run", settings, world, "default", 24)
    (talk,) = [code for code, name in enumerate(found["names"]) if name.startswith("open conversation: ")]
    of_talk = np.isin(found["cluster"], [talk])
    assert of_talk.sum() == 200 and len(found["names"]) == 4
    counts = np.bincount(found["cluster"][found["picked"]], minlength=4)
    assert counts[talk] <= 12 and counts.min() >= 4
    (note, *_) = json.loads((tmp_path / "run/rounds/001/summary.json").read_text())["selection"]["why"]
    assert "4 kinds of prompt" in note and "of the pool is open conversation, which counts as one kind" in note


@pytest.mark.parametrize("kind", ["one source", "parts of one data set"])
def test_without_sources_or_uneven_kinds_the_default_goes_by_clusters(world, tmp_path, kind):
    rng = random.Random(5)
    asked = (
        "Translate into French : {}",
        "Is this positive or negative ? {} Answer :",
        "Name the colour of the {} in one word .",
    )
    for part in range(4 if kind.startswith("parts") else 1):
        rows = [
            {
                "prompt": asked[i % 3].format(" ".join(rng.sample(WORDS, 4))),
                "completion": " ".join(rng.sample(WORDS, 3)),
            }
            for i in range(60)
        ]
        (tmp_path / f"part-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "pool.files": json.dumps([str(tmp_path / "part-*.jsonl")]),
        "holdout.dev": 4,
        "holdout.test": 8,
        "dedup.threshold": 1.0,
    }
    picked_by(tmp_path / "run", settings, world, "default", 12)
    summary = json.loads((tmp_path / "run/rounds/001/summary.json").read_text())
    assert summary["selection"]["strategy"] == "default" and summary["selection"]["why"] == []
