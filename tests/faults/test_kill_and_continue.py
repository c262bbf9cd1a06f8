"""A real child process is killed with SIGKILL; the same command then ends where an uninterrupted run ends: the same picks, and
in float32 on a CPU the same adapter bytes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import ROOT, winnow, winnow_child

POINTS = [
    "pool.files",  # inside import, all files written, no manifest
    "tokens.start",  # before the first file of a stage
    "embeddings.manifest",  # manifest written, before the rename
    "split.renamed",  # renamed, the directory entry not flushed, no row
    "clusters.committed",  # the row is there, its scratch not yet removed
    "score.shard",  # in the middle of scoring
    "selection.renamed",
    "packs.files",
    "train.step:1",  # in training, before any checkpoint
    "train.checkpoint.before_rename:2",  # a checkpoint is written but has no name yet
    "train.step:5",  # in training, between checkpoints
    "train.files",  # trained, adapter written, not published
    "train.renamed:2",  # the control's adapter
    "evaluate.manifest:2",
    "generations.renamed",
    "report.renamed",
    "report.committed",  # the report is there, the adapter's folder is not
    "adapter.files",
    "adapter.renamed",
    "adapter.committed",  # everything is there, but the round is not marked as done
]
SHARDS = ("--strategy", "loss", "--set", "score.sample_per_cluster=all")  # default measures nothing in its first round


def arguments(world, run):
    return ("round", "--config", world, "--run", run, "--budget", 30, *SHARDS)


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    assert winnow(*arguments(world, run)).code == 0
    return run


def outcome(run):
    """What must not depend on interruptions."""
    first = run / "rounds/001"
    summary = json.loads((first / "summary.json").read_text())
    return {
        "picks": np.load(first / "selection/picked.npy").tolist(),
        "control picks": np.load(first / "control.selection/picked.npy").tolist(),
        "adapter": (first / "train/adapter/adapter_model.safetensors").read_bytes(),
        "control": (first / "control.train/adapter/adapter_model.safetensors").read_bytes(),
        "folder": {path.name: path.read_bytes() for path in (first / "adapter").iterdir()},
        "evaluation": summary["evaluation"],
        "curve": [(s["step"], s["loss"]) for s in summary["training"]["selected"]["curve"]],
    }


@pytest.mark.parametrize("point", POINTS)
def test_a_round_killed_anywhere_ends_as_if_it_had_not_been(world, uninterrupted, tmp_path, point):
    run = tmp_path / "run"
    killed = winnow_child(*arguments(world, run), WINNOW_FAILPOINT=point)
    assert killed.code == -signal.SIGKILL, f"the point {point} was never passed: {killed.err}"
    again = winnow(*arguments(world, run))
    assert again.code == 0, again.err
    assert outcome(run) == outcome(uninterrupted)
    assert not list((run / "artifacts").glob(".tmp-*")) and not list((run / "scratch").iterdir())
    assert winnow("doctor", "--run", run, "--config", world, "--json").document["problems"] == []


def test_resume_needs_neither_config_nor_budget(world, uninterrupted, tmp_path):
    run = tmp_path / "run"
    assert winnow_child(*arguments(world, run), WINNOW_FAILPOINT="train.step:3").code == -signal.SIGKILL
    assert winnow("resume", "--run", run).code == 0
    assert outcome(run) == outcome(uninterrupted)


def test_a_round_killed_again_and_again_still_arrives(world, uninterrupted, tmp_path):
    run = tmp_path / "run"
    for point in ("selection.files", "train.step:3", "train.step:3", "evaluate.renamed"):
        assert winnow_child(*arguments(world, run), WINNOW_FAILPOINT=point).code == -signal.SIGKILL
    assert winnow(*arguments(world, run)).code == 0
    assert outcome(run) == outcome(uninterrupted)


def test_training_continues_from_its_last_checkpoint_not_from_the_start(world, tmp_path):
    run = tmp_path / "run"
    assert winnow_child(*arguments(world, run), WINNOW_FAILPOINT="train.step:6").code == -signal.SIGKILL
    before = len((run / "events.jsonl").read_text().splitlines())
    assert winnow("resume", "--run", run).code == 0
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()[before:]]
    steps = [e["step"] for e in events if e["event"] == "train.step" and e["lineage"] == "selected"]
    assert steps[0] in (5, 6) and steps == sorted(steps)


def test_a_finished_stage_is_never_run_again(world, tmp_path):
    run = tmp_path / "run"
    assert winnow_child(*arguments(world, run), WINNOW_FAILPOINT="train.start").code == -signal.SIGKILL
    before = len((run / "events.jsonl").read_text().splitlines())
    assert winnow("resume", "--run", run).code == 0
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()[before:]]
    started = {e["stage"] for e in events if e["event"] == "stage.started"}
    assert not started & {
        "import",
        "tokenize",
        "embed",
        "near-duplicates",
        "hold out",
        "cluster",
        "score sample",
        "select",
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_at_a_safe_point_and_says_how_to_go_on(world, uninterrupted, tmp_path, number):
    run = tmp_path / "run"
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments(world, run)), "--set", "train.epochs=40"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while (
        '"train.step"' not in ((run / "events.jsonl").read_text() if (run / "events.jsonl").exists() else "")
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    child.send_signal(number)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert "safe point" in err and "continue" in err and "Traceback" not in err
    checkpoints = list((run / "scratch").rglob("*.safetensors"))
    assert checkpoints, "training saved its state before it stopped"
