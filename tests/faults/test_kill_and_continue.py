"""A real child process is killed with SIGKILL; the same command then ends where an uninterrupted run ends: the same picks, and
in float32 on a CPU the same adapter bytes."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest
from command_line import start, winnow, winnow_child
from fuzz import cases

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
    "evaluate.shard:2",  # in the middle of evaluation
    "evaluate.manifest:2",
    "generations.renamed",
    "report.renamed",
    "report.committed",  # the report is there, the adapter's folder is not
    "adapter.files",
    "adapter.renamed",
    "adapter.committed",  # everything is there, but the round is not marked as done
]
KILLED = cases(4, len(POINTS))
"""Rounds that are killed, each at several points one after another; with WINNOW_FUZZ=full each at one."""
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


@pytest.mark.parametrize("points", [POINTS[first::KILLED] for first in range(KILLED)], ids=" ".join)
def test_a_round_killed_anywhere_ends_as_if_it_had_not_been(world, uninterrupted, tmp_path, points):
    run = tmp_path / "run"
    for point in points:
        killed = winnow_child(*arguments(world, run), WINNOW_FAILPOINT=point)
        assert killed.code == -signal.SIGKILL, f"the point {point} was never passed: {killed.err}"
    again = winnow(*arguments(world, run))
    assert again.code == 0, again.err
    assert outcome(run) == outcome(uninterrupted)
    assert not list((run / "artifacts").glob(".tmp-*")) and not list((run / "scratch").iterdir())
    assert winnow("doctor", "--run", run, "--config", world, "--json").document["problems"] == []


@pytest.fixture(scope="module")
def resumed(world, tmp_path_factory):
    """A run that was killed in training after a checkpoint and then resumed, and the events since."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert winnow_child(*arguments(world, run), WINNOW_FAILPOINT="train.step:6").code == -signal.SIGKILL
    before = len((run / "events.jsonl").read_text().splitlines())
    assert winnow("resume", "--run", run).code == 0
    return run, [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()[before:]]


def test_resume_needs_neither_config_nor_budget(uninterrupted, resumed):
    assert outcome(resumed[0]) == outcome(uninterrupted)


def test_training_continues_from_its_last_checkpoint_not_from_the_start(resumed):
    steps = [e["step"] for e in resumed[1] if e["event"] == "train.step" and e["lineage"] == "selected"]
    assert steps[0] in (5, 6) and steps == sorted(steps)


def test_a_finished_stage_is_never_run_again(resumed):
    started = {e["stage"] for e in resumed[1] if e["event"] == "stage.started"}
    done = {"import", "tokenize", "embed", "near-duplicates", "hold out", "cluster", "score sample", "select", "pack"}
    assert started and not started & done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_at_a_safe_point_and_says_how_to_go_on(world, tmp_path, number):
    run = tmp_path / "run"
    child = start([str(part) for part in (*arguments(world, run), "--set", "train.epochs=40")], tmp_path)
    deadline = time.monotonic() + 120
    while (
        '"train.step"' not in ((run / "events.jsonl").read_text() if (run / "events.jsonl").exists() else "")
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    os.kill(child.pid, number)
    child.join(timeout=120)
    said = (tmp_path / "err").read_text()
    assert child.exitcode == 130, said
    assert "safe point" in said and "continue" in said and "Traceback" not in said
    checkpoints = list((run / "scratch").rglob("*.safetensors"))
    assert checkpoints, "training saved its state before it stopped"
