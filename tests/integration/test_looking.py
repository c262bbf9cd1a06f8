"""Looking at files and at a run's pool, and taking the pool out again, from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from command_line import winnow

from al.pool.store import Pool

BUDGET = 20


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A run after its first round."""
    path = tmp_path_factory.mktemp("looking") / "run"
    result = winnow("round", "--config", world, "--run", path, "--budget", BUDGET, "--no-control", "--json")
    assert result.code == 0, result.err
    return path


@pytest.fixture(scope="module")
def data(world):
    return yaml.safe_load(world.read_text())["pool"]["files"][0]


def test_files_can_be_inspected_without_an_import(world, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    looked = winnow("pool", "inspect", data, "--config", world)
    assert looked.code == 0, looked.err
    for said in (
        "These files, read and not imported anywhere",
        "evals: it has input",
        "Length in tokens",
        "invalid_json",
        "⟦",
    ):
        assert said in looked.out
    assert not list(tmp_path.iterdir())


def test_the_page_is_written_on_demand(world, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    looked = winnow("pool", "inspect", data, "--config", world, "--json", "--html")
    assert looked.code == 0 and looked.document["page"] == "pool.html"
    assert "Content-Security-Policy" in (tmp_path / "pool.html").read_text()


def test_a_run_is_inspected_with_its_own_config_and_its_near_duplicates(run):
    looked = winnow("pool", "inspect", "--run", run, "--json", "--examples", 2)
    assert looked.code == 0, looked.err
    document = looked.document
    assert document["version"] == 1 and len(document["shown"]) == 2 and document["samples"] == []
    assert document["lengths"]["unit"] == "tokens" and document["lengths"]["max_length"] == 96
    summary = json.loads((run / "rounds/001/summary.json").read_text())
    outcomes = summary["selection"]["outcomes"]
    assert document["lengths"]["over"] == outcomes["over_length"] and document["near_duplicates"]["threshold"] == 0.999
    assert document["examples"] == sum(outcomes.values()) and document["schema"] == 1


def test_a_pool_is_exported_whole_and_by_side(run, tmp_path):
    whole = winnow("pool", "export", tmp_path / "pool.jsonl", "--run", run, "--json")
    assert whole.code == 0, whole.err
    rows = [json.loads(line) for line in (tmp_path / "pool.jsonl").open()]
    summary = json.loads((run / "rounds/001/summary.json").read_text())
    assert whole.document["examples"] == len(rows) == summary["pool"]["examples"]
    sides = {}
    for side in ("pool", "dev", "test"):
        assert winnow("pool", "export", tmp_path / f"{side}.jsonl.gz", "--run", run, "--split", side).code == 0
        assert winnow("pool", "import", tmp_path / f"{side}.jsonl.gz", "--run", tmp_path / side).code == 0
        (pool,) = (tmp_path / side / "artifacts/pool").iterdir()
        sides[side] = set(Pool.open(pool).ids.tolist())
    keys = np.load(run / "rounds/001/split/keys.npy")
    split = np.load(run / "rounds/001/split/split.npy")
    from al.preparation.holdout import SIDES

    for side, ids in sides.items():
        assert ids == {f"{key:016x}" for key in keys[split == SIDES[side]].tolist()}
    assert len(sides["dev"]) == 16 and len(sides["test"]) == 30


def test_an_export_does_not_replace_a_file_unasked(run, tmp_path):
    out = tmp_path / "pool.jsonl"
    out.write_text("mine")
    refused = winnow("pool", "export", out, "--run", run)
    assert refused.code == 2 and "--force" in refused.err and out.read_text() == "mine"
    assert winnow("pool", "export", out, "--run", run, "--force").code == 0 and out.read_text() != "mine"


def test_a_side_of_a_pool_that_was_never_split_is_refused_with_what_to_do(world, data, tmp_path):
    assert winnow("pool", "import", data, "--config", world, "--run", tmp_path / "run").code == 0
    refused = winnow("pool", "export", tmp_path / "dev.jsonl", "--run", tmp_path / "run", "--split", "dev")
    assert (
        refused.code == 5 and "Run one, or leave --split out" in refused.err and not (tmp_path / "dev.jsonl").exists()
    )


def test_a_text_is_found_in_the_whole_pool_with_what_became_of_each_example(run):
    pool = Pool.open(next((run / "artifacts/pool").iterdir()))
    texts = ["\n".join(m["content"] for m in said).lower() for said in pool.iter_messages()]
    holding = [str(pool.ids[i]) for i, text in enumerate(texts) if "river" in text]
    found = winnow("pool", "search", "RIVER", "--run", run, "--limit", 1000, "--json").document
    assert [example["id"] for example in found["examples"]] == holding and found["total"] == len(holding) > 3
    picked = {
        json.loads(line)["id"]: json.loads(line)["why"]
        for line in (run / "rounds/001/selection/selection.jsonl").read_text().splitlines()
    }
    for example in found["examples"]:
        assert (example["outcome"] == "selected") == (example["id"] in picked)
        assert example["why"].startswith(picked.get(example["id"], "")) and example["why"]
    said = winnow("pool", "search", "river", "--run", run, "--limit", 2).out
    assert f"{len(holding):,} examples of pool version 1" in said and "the first 2 are shown" in said
    assert said.lower().count("river") > 2 and said.count("  asked: ") == 2
    none = winnow("pool", "search", "no such words at all", "--run", run)
    assert (
        none.code == 0
        and none.out.startswith("0 examples of pool version 1")
        and "nor as an id or a source" in none.out
    )
    by_source = winnow("pool", "search", str(pool.sources[3]).upper(), "--run", run, "--json").document
    assert by_source["total"] == (pool.sources == pool.sources[3]).sum()
    by_id = winnow("pool", "search", holding[1], "--run", run, "--json").document
    assert [example["id"] for example in by_id["examples"]] == [holding[1]]


def test_a_search_without_text_or_pool_says_what_is_missing(run, tmp_path):
    assert winnow("pool", "search", " ", "--run", run).code == 2
    missing = winnow("pool", "search", "river", "--run", tmp_path / "none")
    assert missing.code == 5 and "none" in missing.err
