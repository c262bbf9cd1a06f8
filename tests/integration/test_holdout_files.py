"""Dev and test named as files: just their examples are held out, now and in later rounds, whatever the pool holds of them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import winnow
from tiny_world import WORDS

from al.pool.store import Pool
from selection.holdout import DEV, SHADOW, TEST

BUDGET = 20


def write(path: Path, rows: list[tuple[str, str | None]]) -> Path:
    lines = ({"prompt": prompt} | ({"completion": answer} if answer else {}) for prompt, answer in rows)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Test and dev, and a file of the pool that holds one test example as it is and one with another space in it."""
    root, rng = tmp_path_factory.mktemp("holdout"), random.Random(11)

    def rows(kind, count):
        drawn = [rng.sample(WORDS, 6) for _ in range(count)]
        return [(f"{kind} {' '.join(words)}", words[1]) for words in drawn]

    test, dev = rows("second of", 12), rows("and the second of", 5)
    long = " ".join(rng.choices(WORDS, k=300))
    return {
        "test": write(root / "test.jsonl", [*test, ("second of nothing", None), (f"second of {long}", "x")]),
        "dev": write(root / "dev.jsonl", dev),
        "pool": write(root / "more.jsonl", [test[0], (test[1][0].replace("second of", "second  of"), test[1][1])]),
        "later": write(root / "later.jsonl", [test[2], test[3], dev[0], *rows("third of", 8)]),
    }


def config_of(world, files, path: Path, **holdout) -> Path:
    values = yaml.safe_load(world.read_text())
    values["pool"]["files"].append(str(files["pool"]))
    values["holdout"] |= holdout
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def run(world, files, tmp_path_factory) -> Path:
    """Two rounds, with a pool that grew by held-out examples between them."""
    root = tmp_path_factory.mktemp("runs")
    config = config_of(
        world, files, root / "named.yaml", dev_files=[str(files["dev"])], test_files=[str(files["test"])]
    )
    shared = ("--config", config, "--run", root / "run")
    for number in (1, 2):
        result = winnow("round", *shared, "--budget", BUDGET, "--no-control")
        assert result.code == 0, result.err
        if number == 1:
            assert winnow("pool", "import", files["later"], *shared).code == 0
    return root / "run"


def prompts(pool: Pool, rows) -> set[str]:
    return {messages[0]["content"] for messages in pool.messages(np.asarray(rows))}


def named(file: Path) -> set[str]:
    return {json.loads(line)["prompt"] for line in file.read_text().splitlines()}


@pytest.mark.parametrize("number", [1, 2])
def test_just_the_files_examples_are_held_out(run, files, number):
    folder = run / f"rounds/{number:03d}"
    pool, split = Pool.open(folder / "pool"), np.load(folder / "split/split.npy")
    unusable = {prompt for prompt in named(files["test"]) if len(prompt) > 500 or prompt == "second of nothing"}
    assert len(unusable) == 2
    assert prompts(pool, np.flatnonzero(split == TEST)) == named(files["test"]) - unusable
    assert prompts(pool, np.flatnonzero(split == DEV)) == named(files["dev"])
    assert (split == TEST).sum() == 12 and (split == DEV).sum() == 5
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["evaluation"]["examples"] == 12 and summary["dev"]["examples"] == 5


@pytest.mark.parametrize("number", [1, 2])
def test_what_they_hold_is_never_picked_nor_what_is_nearly_the_same(run, files, number):
    folder = run / f"rounds/{number:03d}"
    pool = Pool.open(folder / "pool")
    table = pq.read_table(folder / "selection/selection.parquet").to_pandas()
    texts = np.array([messages[0]["content"] for messages in pool.messages(np.arange(len(pool)))])
    outcome = dict(zip(texts, table["outcome"], strict=True))
    assert {outcome[prompt] for prompt in named(files["dev"])} == {"held_out_dev"}
    found = [outcome[prompt] for prompt in named(files["test"])]
    assert sorted(set(found)) == ["held_out_test", "over_length", "unlabelled"]
    near = next(prompt for prompt in named(files["pool"]) if "second  of" in prompt)
    assert outcome[near] == "near_duplicate_of_holdout"
    held = set(np.flatnonzero(np.isin(np.load(folder / "split/split.npy"), (DEV, TEST, SHADOW))).tolist())
    assert len(held) > 17 and not held & set(np.load(folder / "packs/rows.npy").tolist())


def test_examples_that_come_later_are_picked_unless_they_are_held_out(run, files):
    pool = Pool.open(run / "rounds/002/pool")
    table = pq.read_table(run / "rounds/002/selection/selection.parquet").to_pandas()
    third = [row for row, messages in enumerate(pool.messages(np.arange(len(pool)))) if "third of" in str(messages)]
    assert len(third) == 8 and not {"held_out_dev", "held_out_test"} & set(table["outcome"][third])


def test_rounds_before_and_after_are_measured_on_the_same_examples(run):
    first, second = (
        pq.read_table(run / f"rounds/00{n}/evaluate.base/examples.parquet", columns=["id", "nll"]).to_pandas()
        for n in (1, 2)
    )
    assert dict(first.to_numpy()) == pytest.approx(dict(second.to_numpy()), rel=1e-5)


def test_where_only_test_is_named_dev_is_drawn(world, files, tmp_path):
    config = config_of(world, files, tmp_path / "c.yaml", dev=9, test_files=[str(files["test"])])
    result = winnow("round", "--config", config, "--run", tmp_path / "run", "--budget", BUDGET, "--no-control")
    assert result.code == 0, result.err
    split = np.load(tmp_path / "run/rounds/001/split/split.npy")
    assert (split == TEST).sum() == 12 and (split == DEV).sum() == 9


def test_plain_fine_tuning_holds_the_files_out_too(world, files, tmp_path):
    config = config_of(world, files, tmp_path / "c.yaml", dev=4, test_files=[str(files["test"])])
    data = yaml.safe_load(world.read_text())["pool"]["files"][0]
    run = tmp_path / "run"
    result = winnow("train", "--dataset", data, "--dataset", files["pool"], "--config", config, "--run", run, "--json")
    assert result.code == 0, result.err
    assert result.document["evaluation"]["examples"] == 12
    pool = Pool.open(next((run / "artifacts/pool").iterdir()))
    rows = np.load(next((run / "artifacts/packs").glob("*/rows.npy")))
    assert len(rows) > 100 and not prompts(pool, rows) & named(files["test"])


def test_held_out_examples_take_their_source_from_the_pools_source_field(tmp_path):
    from al.config import Config
    from al.pool.importer import import_pool
    from al.preparation.sources import held_out_sources

    row = {"prompt": "one and one", "completion": "two", "source": "book", "kind": "sums"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "out").mkdir()
    config = Config.model_validate({"pool": {"source_field": "kind", "hub": ["owner/name"]}})
    stats = import_pool(held_out_sources(config, [str(tmp_path / "test.jsonl")]), tmp_path / "out")
    assert stats.sources == {"sums": 1}


def test_a_file_that_is_not_there_is_named(world, tmp_path):
    options = ("--run", tmp_path / "run", "--budget", BUDGET, "--set", "holdout.test_files=[nowhere.jsonl]")
    result = winnow("round", "--config", world, *options)
    assert result.code == 3 and "nowhere.jsonl" in result.err


def test_test_files_named_after_a_round_are_not_held_out_in_silence(world, files, tmp_path):
    shared = ("--config", world, "--run", tmp_path / "run", "--budget", BUDGET, "--no-control")
    assert winnow("round", *shared).code == 0
    late = winnow("round", *shared, "--set", f"holdout.test_files=[{files['test']}]")
    assert late.code == 5 and "test.jsonl" in late.err and "start another run" in late.err


def test_examples_that_could_be_picked_before_are_not_held_out_afterwards():
    from al.errors import DataError
    from al.preparation.holdout import _check_not_late
    from selection.holdout import NEW, POOL

    kept, named = np.array([POOL, DEV, NEW, SHADOW]), np.array([NEW, DEV, TEST, TEST])
    _check_not_late(kept, named)
    _check_not_late(None, named)
    with pytest.raises(DataError, match="1 of the examples they name were in the pool in an earlier round"):
        _check_not_late(kept, np.array([TEST, DEV, TEST, TEST]))
