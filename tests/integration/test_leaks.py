"""What must not get from the holdout into training, or from training into the holdout, across templates and pool versions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
from command_line import winnow
from tiny_world import WORDS

from al.pool.store import Pool
from al.preparation.holdout import _shadow_near
from al.preparation.near_duplicates import first_version
from al.run import rounds
from al.run.store import Run
from selection.holdout import DEV, POOL, SHADOW, TEST
from selection.overlap import RUN


def write_rows(path: Path, prompts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt, "completion": "yes"}) + "\n" for prompt in prompts))
    return path


def test_trap_20_neighbours_of_held_out_examples_leave_the_pool_whatever_their_group():
    vectors = np.array([[1, 0], [0.99, 0.14], [0, 1], [0.14, 0.99], [0.7, 0.7]], dtype=np.float16)
    split = np.array([TEST, POOL, DEV, POOL, POOL], dtype=np.int8)
    _shadow_near(split, vectors, threshold=0.98, before=None)
    assert split.tolist() == [TEST, SHADOW, DEV, SHADOW, POOL]


def test_trap_24_no_selectable_example_shares_a_passage_with_a_held_out_one(world, tmp_path):
    rng = random.Random(5)
    passages = [" ".join(rng.choices(WORDS, k=40)) for _ in range(40)]
    frames = ("read {} and say whether it is long", "{} is that a sentence", "what follows is odd {} do you agree")
    files = [write_rows(tmp_path / f"frame-{i}.jsonl", [f.format(p) for p in passages]) for i, f in enumerate(frames)]
    arguments = [part for file in files for part in ("--pool", file)]
    settings = ("--set", "tokens.max_length=400", "--set", "train.pack_length=400", "--set", "holdout.dev=4")
    more = ("--set", "holdout.test=8", "--set", "dedup.threshold=1.0", "--set", "cluster.k=3", "--no-control")
    run = tmp_path / "run"
    done = winnow("round", "--config", world, "--run", run, "--budget", 10, *arguments, *settings, *more)
    assert done.code == 0, done.err
    first = run / "rounds/001"
    table = pq.read_table(first / "selection/selection.parquet").to_pandas()
    pool = Pool.open(first / "pool")
    words = [text.split() for text in pool.texts(np.arange(len(pool)))]
    runs = [{tuple(text[i : i + RUN]) for i in range(len(text) - RUN + 1)} for text in words]
    held = table.row[table.outcome.isin(["held_out_dev", "held_out_test"])]
    free = table.row[table.outcome.isin(["selected", "quota_full", "no_quota", "tail_cut"])]
    assert len(held) == 12 and len(free) > 40
    assert not any(runs[a] & runs[b] for a in held for b in free)
    assert (table.outcome == "near_duplicate_of_holdout").sum() >= 12


def test_examples_know_the_pool_version_they_came_with(world, tmp_path):
    run = tmp_path / "run"
    for number in range(3):
        rows = write_rows(tmp_path / f"{number}.jsonl", [f"question {number} {i}" for i in range(10 * (number + 1))])
        assert winnow("pool", "import", rows, "--config", world, "--run", run).code == 0
    with Run.read(run) as opened:
        _, pool = rounds.current_pool(opened)
        age = first_version(SimpleNamespace(run=opened), pool)
    assert np.bincount(age).tolist() == [10, 20, 30]
    sources = Pool.open(pool.path).sources
    assert all(
        source == f"{version}" or source == f"{version}.jsonl" for source, version in zip(sources, age, strict=True)
    )
