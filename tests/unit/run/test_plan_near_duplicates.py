"""What a plan knows of near-duplicates before a run: bounds from a sample, by the search that a round makes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from command_line import winnow
from huggingface_hub import constants
from tiny_world import WORDS

from al.assets import ASSETS
from al.commands.options import Options
from al.config import load
from al.config.pool import PoolConfig
from al.planning import near_duplicates
from al.planning.near_duplicates import FIRST_BATCH, bounds, embedder_here, find_distinct
from al.planning.pool_estimate import estimate_pool
from al.planning.pool_sample import Sample
from al.pool.store import Pool
from al.preparation.near_duplicates import answers_of
from selection.config import DedupConfig, EmbedConfig
from selection.dedup import near_duplicate_groups

EXAMPLES = 6_000
POPULATIONS = {
    "all distinct": [1] * EXAMPLES,
    "pairs": [2] * (EXAMPLES // 2),
    "a few large groups": [1] * 1_000 + [1_000] * 5,
    "all kinds of size": np.random.default_rng(0).zipf(1.7, 3_000).clip(max=200).tolist(),
    "one group": [EXAMPLES],
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("searched", [64, 400, 2_000])
def test_the_number_of_groups_is_between_the_bounds_of_a_sample(name, searched):
    group = np.repeat(np.arange(len(POPULATIONS[name])), POPULATIONS[name])
    found = []
    for seed in range(40):
        sample = np.random.default_rng(seed).choice(group, searched, replace=False)
        found.append(bounds(np.unique(sample, return_counts=True)[1], len(group)))
    least, most = np.array(found).T
    groups = len(POPULATIONS[name])
    assert (least <= groups).mean() >= 0.95 and (most >= groups).mean() >= 0.95
    assert (least <= most).all() and (most <= len(group)).all()


def test_bounds_are_near_each_other_in_a_large_sample_and_equal_in_the_whole_pool():
    group = np.repeat(np.arange(3_000), 2)
    sizes = [
        np.unique(np.random.default_rng(1).choice(group, n, replace=False), return_counts=True)[1]
        for n in (500, 4_000, 6_000)
    ]
    (low, high), (less, more), whole = (bounds(found, 6_000) for found in sizes)
    assert high - low > 2 * (more - less) and whole == (3_000, 3_000)
    assert less > 2_600 and more < 3_400


def test_a_pool_that_is_searched_whole_has_as_many_groups_as_the_round_finds(two_rounds):
    run = two_rounds[0]
    pool = Pool.open(next((run / "artifacts/pool").iterdir()))
    config = Options(run_path=run).load_config()
    config = config.model_copy(update={"dedup": DedupConfig(threshold=0.99)})
    vectors = np.load(next((run / "artifacts/embeddings").iterdir()) / "embeddings.npy")
    groups = near_duplicate_groups(vectors, np.zeros(len(pool)), 0.99, 16, answers=answers_of(pool, config.dedup))
    leads = np.unique(groups.representative)
    assert 20 < len(leads) < len(pool) - 20
    rows = np.arange(len(pool))
    found = find_distinct(pool.texts(rows), pool.texts(rows, part="response"), len(pool), config)
    assert found.searched == len(pool) and found.least == found.most == pytest.approx(len(leads), abs=2)


@pytest.fixture
def alike(world, tmp_path) -> list[str]:
    """Options of a plan for 400 rows of which there are 40 kinds, that are the same to the small world's embedder."""
    rows = [{"question": f"say {WORDS[n % 20]} {WORDS[n % 40 // 2]} of {n}", "answer": "red"} for n in range(400)]
    (tmp_path / "alike.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "alike.yaml").write_text(world.read_text())
    return ["--config", tmp_path / "alike.yaml", "--pool", tmp_path / "alike.jsonl", "--run", tmp_path / "run"]


def test_a_plan_of_rows_that_are_alike_says_first_that_a_round_cannot_pick_as_many(alike):
    found = winnow("plan", *alike, "--budget", 300, "--set", "dedup.threshold=0.9")
    assert found.code == 0, found.err
    left = int(re.match(r"Cannot run: only about (\d+) of 300 examples can be picked\. Fits ", found.out)[1])
    near = int(re.search(r"about \d+ examples can be picked; 46 become dev and test, (\d+) are near-dup", found.out)[1])
    assert left + 46 + near == 400 and left < 254


def test_where_there_is_no_time_to_search_all_a_plan_says_what_may_be_and_how_to_know_more(alike, monkeypatch):
    monkeypatch.setattr(near_duplicates, "SEARCH_SECONDS", 1e-9)
    monkeypatch.setattr(near_duplicates, "WHOLE_SECONDS", 1e-9)
    settings = ("--budget", 200, "--set", "dedup.threshold=0.9", "--set", "holdout.dev=2", "--set", "holdout.test=2")
    short = winnow("plan", *alike, *settings, "--json").document["pool"]
    assert short["selectable_is"] == "sample" and short["near_duplicates"]["searched"] == FIRST_BATCH
    longer = winnow("plan", *alike, *settings, "--search", "1min", "--json").document["pool"]
    assert longer["selectable_is"] == "searched" and longer["near_duplicates"]["searched"] == 400
    assert short["selectable_at_least"] <= longer["selectable"] <= short["selectable"]


def test_without_the_embedder_a_plan_says_that_near_duplicates_are_not_counted(alike, no_embedder):
    found = winnow("plan", *alike, "--budget", 200)
    assert found.out.splitlines()[0].endswith(" tokens. Near-duplicates are not counted.")
    assert "near-duplicates are not subtracted: " in found.out and "hf download" in found.out


def test_the_embedder_is_a_folder_or_in_the_cache_of_the_hub_or_the_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
    default = EmbedConfig()
    assert embedder_here(EmbedConfig(model=str(tmp_path))).model == str(tmp_path)
    assert embedder_here(default) is None
    demo = next(asset for asset in ASSETS if asset.name == "minilm")
    (tmp_path / "cache/minilm").mkdir(parents=True)
    (tmp_path / "cache/minilm/.recipe").write_text(demo.stamp)
    assert embedder_here(default).model == str(tmp_path / "cache/minilm")
    assert embedder_here(EmbedConfig(revision="v2")) is None and embedder_here(EmbedConfig(model="a/b")) is None
    folder = tmp_path / "hub/models--a--b"
    (folder / "snapshots/c0ffee").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("c0ffee")
    (folder / "snapshots/c0ffee/config.json").write_text("{}")
    assert embedder_here(EmbedConfig(model="a/b")) is None, "no weights"
    (folder / "snapshots/c0ffee/model.safetensors").write_text("")
    assert embedder_here(EmbedConfig(model="a/b")).model == str(folder / "snapshots/c0ffee")


def test_rows_that_are_the_same_count_once_and_those_of_large_files_as_often_as_they_stand_for(world, tmp_path):
    rows = [json.dumps({"question": f"say {n}", "answer": "red"}) + "\n" for n in range(50)]
    (tmp_path / "twice.jsonl").write_text("".join(rows * 2))
    config = load(world, ()).model_copy(update={"pool": PoolConfig(files=[str(tmp_path / "twice.jsonl")])})
    found = estimate_pool(config, tmp_path / "no-run")
    assert found.examples == found.labelled == found.distinct.examples == 50
    texts, weights = ["many"] * 20 + ["few"] * 20, [100.0] * 20 + [1.0] * 20
    sample = Sample(texts=texts, responses=[f"so {text}" for text in texts], weights=weights)
    drawn, responses = sample.drawn_texts()
    assert sorted(drawn) == sorted(texts) and drawn[:20].count("many") >= 18
    assert responses == [f"so {text}" for text in drawn]
