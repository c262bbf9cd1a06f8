"""A run whose artifacts are on a store, by command: the same results, a cache that may be deleted, kills on the way to the store."""

from __future__ import annotations

import shutil

import pytest
from command_line import winnow, winnow_child

from al.run import integrity

LINKED = (
    "selection/picked.npy",
    "train/adapter/adapter_model.safetensors",
    "adapter/adapter_model.safetensors",
    "adapter/winnow.yaml",
)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def contents(run):
    return [(run / "rounds/001" / name).read_bytes() for name in LINKED]


def succeed(*arguments):
    result = winnow(*arguments)
    assert result.code == 0, result.err
    return result


def test_a_round_is_the_same_and_comes_back_from_the_store_alone(world, store, tmp_path):
    plain, run = tmp_path / "plain", tmp_path / "run"
    asked = ("round", "--config", world, "--budget", 12, "--no-control", "--set", "evaluate.generations=0")
    succeed(*asked, "--run", plain)
    succeed(*asked, "--run", run, "--set", f"artifacts=file://{store}")
    assert contents(run) == contents(plain)
    for name in ("artifacts", "run.db"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / "run.db").unlink()
    integrity._checked.clear()
    succeed("repair", "--run", run)
    assert succeed("report", "--run", run, "--json").document["round"] == 1
    assert (run / "rounds/001/report.html").is_file() and not list((run / "artifacts/train").glob("*/adapter"))
    assert succeed("verify", "--run", run).out.count("no damaged") == 1
    succeed("round", "--run", run, "--budget", 6)  # from the config of round 1, and its adapter
    assert contents(run) == contents(plain)
    assert len(list(store.glob("*/train/*/manifest.json"))) == 2
    succeed("export-run", tmp_path / "run.tar", "--run", run)
    succeed("import-run", tmp_path / "run.tar", "--run", tmp_path / "imported")
    store.rename(tmp_path / "moved")
    assert contents(tmp_path / "imported") == contents(plain)
    assert winnow("verify", "--run", run).code == 4 and winnow("verify", "--run", tmp_path / "imported").code == 0


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("pool.manifest", False),  # sealed here, nothing uploaded
        ("pool.uploaded", True),  # files without their manifest
        ("pool.renamed", True),  # everything is there but the row
        ("pool.committed", False),  # the row is there, events.jsonl does not know it yet
    ],
)
def test_a_kill_on_the_way_to_the_store_loses_nothing_and_gc_finds_what_it_left(world, store, tmp_path, point, left):
    run = tmp_path / "run"
    command = (
        "pool",
        "import",
        world.parent / "pool",
        "--config",
        world,
        "--run",
        run,
        "--set",
        f"artifacts=file://{store}",
    )
    assert winnow_child(*command, WINNOW_FAILPOINT=point).code < 0
    succeed(*command)
    assert succeed("verify", "--run", run).out.count("no damaged") == 1
    listed = winnow("gc", "--run", run, "--json").document["trash"]
    assert [entry["name"].startswith(f"file://{store}/") for entry in listed if "://" in entry["name"]] == [True] * left
    winnow("gc", "--run", run, "--yes")
    assert len(list(store.glob("*/*/*"))) == 1
    shutil.rmtree(run / "artifacts")
    assert succeed("pool", "inspect", "--run", run, "--json").document
