"""`doctor` finds what a round would lack before one is started: disk, locks, model, weights, context, embedder, pool files."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from command_line import winnow

from al.config import parse
from al.planning.needs import unmet_needs
from al.run import disk
from al.run.disk import nearest_folder, probe_disk


@pytest.fixture
def values(world, tmp_path):
    """The small world's config as a dictionary, with a copy of its model."""
    found = yaml.safe_load(Path(world).read_text())
    shutil.copytree(found["model"]["name"], tmp_path / "model")
    found["model"]["name"] = str(tmp_path / "model")
    return found


def needs(values) -> list[str]:
    return unmet_needs(parse(values, "test"))


def test_a_whole_config_lacks_nothing(values):
    assert needs(values) == []


def test_the_package_of_an_engine_is_a_need(values, monkeypatch):
    monkeypatch.setattr("al.planning.needs.find_spec", lambda name: None)
    (found,) = needs({**values, "engine": "ray"})
    assert found == "engine.kind: ray needs the package ray: pip install 'winnow-al[ray]'"


def without_weights(values, model):
    (model / "model.safetensors").unlink()


def without_a_shard(values, model):
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "model.safetensors"}})
    )


def without_tokenizer(values, model):
    for path in model.glob("tokenizer*"):
        path.unlink()


def without_config(values, model):
    (model / "config.json").write_text("{")


def empty(parent):
    (parent / "empty").mkdir()
    return str(parent / "empty")


LACKING = {
    "weights": (without_weights, "model.name: .* holds no weights"),
    "a shard": (without_a_shard, "lacks one.safetensors .* of its 2 files"),
    "tokenizer": (without_tokenizer, "model.name: expected a model directory"),
    "config": (without_config, "model.name: expected a model directory"),
    "model": (lambda values, model: shutil.rmtree(model), "model.name: expected a model directory"),
    "context": (
        lambda values, model: values["tokens"].update(max_length=600),
        "tokens.max_length: expected at most the model's 512 tokens .* found 600",
    ),
    "template": (lambda values, model: values["model"].update(chat_template="nobody"), "model.chat_template"),
    "embedder": (lambda values, model: values["embed"].update(model=str(model / "absent")), "embed.model: expected"),
    "embedder's weights": (
        lambda values, model: values["embed"].update(model=empty(model.parent)),
        "embed.model: .* holds no weights",
    ),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_a_config_lacks_is_one_line(values, what, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    change, message = LACKING[what]
    change(values, Path(values["model"]["name"]))
    found = needs(values)
    assert found and all("\n" not in line for line in found)
    assert any(re.search(message, line) for line in found), found


def test_the_command_ends_with_4_and_names_what_the_config_lacks(world, tmp_path):
    assert winnow("doctor", "--config", world).code == 0
    lacking = winnow("doctor", "--config", world, "--set", f"pool.files=[{tmp_path}/absent.jsonl]", "--json")
    assert lacking.code == 4
    assert [line for line in lacking.document["problems"] if "absent.jsonl" in line]


def test_a_disk_that_works_gives_facts_and_is_left_as_it_was(tmp_path):
    facts, problems = probe_disk(tmp_path)
    assert problems == [] and facts["fsync ms"] > 0 and facts["free disk GiB"] > 0
    assert list(tmp_path.iterdir()) == []
    assert nearest_folder(tmp_path / "runs/a/b") == tmp_path


def test_a_disk_that_cannot_flush_or_lock_is_a_problem(tmp_path, monkeypatch):
    def fails(handle):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("al.run.atomic.os.fsync", fails)
        facts, problems = probe_disk(tmp_path)
        assert facts["fsync ms"] is None and "Input/output error" in problems[0]
    monkeypatch.setattr(disk, "_locks", lambda path: False)
    assert "locks have no effect" in probe_disk(tmp_path)[1][0]
    assert list(tmp_path.iterdir()) == []


def test_two_locks_of_one_file_keep_each_other_out(tmp_path, monkeypatch):
    assert disk._locks(tmp_path / "lock")
    monkeypatch.setattr(disk.filelock, "FileLock", disk.filelock.SoftFileLock)
    assert disk._locks(tmp_path / "soft")
