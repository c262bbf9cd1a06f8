"""A base whose weights were exchanged for others of the same size is noticed before any adapter is put on it."""

from __future__ import annotations

import shutil

import pytest
from command_line import winnow


def content(run):
    return {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.startswith("run.lock")
    }


@pytest.fixture
def other(world, tmp_path):
    """The world's model with other weights."""
    copy = tmp_path / "model"
    shutil.copytree(world.parent / "model", copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0?")
    return copy


@pytest.mark.parametrize(
    "words", [("round", "--budget", 24), ("generate", "a word"), ("eval",)], ids=lambda words: words[0]
)
def test_another_base_stops_a_command_before_it_changes_anything(two_rounds, other, world, words):
    run = two_rounds[0]
    before = content(run)
    changed = world.parent / "model" / "model.safetensors"
    kept = changed.read_bytes()
    shutil.copy(other / "model.safetensors", changed)
    try:
        found = winnow(*words, "--run", run)
    finally:
        changed.write_bytes(kept)
    assert found.code == 5 and found.err.count("sha256") == 2 and "train.mode=retrain" in found.err, found.err
    assert content(run) == before
