"""A checkpoint is whole or not there."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from trainer.checkpoint import load_newest, load_step, save_checkpoint
from trainer.errors import CheckpointError, MachineError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64)}


def save(directory, step, **options):
    return save_checkpoint(directory, step, TENSORS, {"counters": {"step": step}}, **{"keep": 2, **options})


def test_what_was_saved_comes_back(tmp_path):
    path = save(tmp_path, 10)
    found = load_newest(tmp_path)
    assert (found.path, found.step, found.state) == (path, 10, {"counters": {"step": 10}})
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)


def test_nothing_saved_is_none(tmp_path):
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "absent") is None


def test_newest_ones_are_kept_by_number_not_by_name(tmp_path):
    for step in (999_999, 1_000_000, 1_000_001):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000", "step-1000001"]
    assert load_newest(tmp_path).step == 1_000_001


def test_the_spared_one_is_kept_besides_the_newest(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=1, spare=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000004"]
    assert load_step(tmp_path, 2).step == 2 and load_step(tmp_path, 3) is None


def test_a_later_one_that_was_passed_over_does_not_push_out_what_is_saved_after_it(tmp_path):
    save(tmp_path, 8)
    (save(tmp_path, 10) / "state.json").write_text("{}")
    assert load_newest(tmp_path).step == 8
    save(tmp_path, 9, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000009"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, file, harm):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / file
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    assert load_newest(tmp_path).step == 1
    assert "step-000002 is damaged" in caplog.text


def test_a_crash_before_the_rename_leaves_the_older_checkpoint_and_no_debris_after_the_next(tmp_path):
    save(tmp_path, 1)

    def crash(name):
        assert name == "train.checkpoint.before_rename"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2, failpoint=crash)
    assert load_newest(tmp_path).step == 1
    save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_older_checkpoints_go_only_after_the_newer_was_read_back(tmp_path, monkeypatch):
    save(tmp_path, 1)
    rename = os.rename

    def rename_and_harm(source, target):
        rename(source, target)
        (target / "state.safetensors").write_bytes(b"")

    monkeypatch.setattr(os, "rename", rename_and_harm)
    with pytest.raises(CheckpointError, match="differs from what was written"):
        save(tmp_path, 2, keep=1)
    assert load_newest(tmp_path).step == 1


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path):
    (save(tmp_path, 5) / "state.json").write_text("{}")
    assert load_newest(tmp_path) is None
    save(tmp_path, 5)
    assert load_newest(tmp_path).step == 5


def test_full_disk_says_so(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="no space left") as caught:
        save(tmp_path, 1)
    assert caught.value.exit_code == 4
