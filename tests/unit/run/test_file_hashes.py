"""Hashes of large files are remembered, and never for another content."""

from __future__ import annotations

import os

import pytest

from al.run import file_hashes
from al.run.base import local_identity
from al.run.file_hashes import SMALL, remembered_sha256
from al.run.integrity import sha256_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read."""
    names = []
    monkeypatch.setattr(file_hashes, "sha256_file", lambda path: names.append(path.name) or sha256_file(path))
    return names


def test_a_large_file_is_read_once_and_a_small_one_each_time(tmp_path, read):
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(os.urandom(SMALL))
    small.write_bytes(b"abc")
    for _ in range(3):
        assert remembered_sha256(large) == sha256_file(large) and remembered_sha256(small) == sha256_file(small)
    assert read == ["large", "small", "small", "small"]


def test_other_weights_of_the_same_size_are_other_weights(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    weights = model / "model.safetensors"
    weights.write_bytes(bytes(SMALL))
    before = local_identity(str(model))
    time = weights.stat().st_mtime_ns
    replacement = tmp_path / "other"
    replacement.write_bytes(bytes(SMALL - 1) + b"x")
    os.utime(replacement, ns=(time, time))
    replacement.replace(weights)
    assert local_identity(str(model)) != before
    with weights.open("r+b") as file:  # in place, as a flipped bit would be, with another time
        file.write(b"y")
    assert local_identity(str(model))["model.safetensors"] == sha256_file(weights)


@pytest.mark.parametrize("content", [b"not json", b"[1]", b"\xff"])
def test_a_damaged_memory_is_as_good_as_none(tmp_path, cache, content):
    cache.mkdir()
    (cache / file_hashes.FILE).write_bytes(content)
    large = tmp_path / "large"
    large.write_bytes(bytes(SMALL))
    assert remembered_sha256(large) == sha256_file(large) == remembered_sha256(large)


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, cache, read):
    cache.write_text("a file where the folder should be")
    large = tmp_path / "large"
    large.write_bytes(bytes(SMALL))
    assert remembered_sha256(large) == remembered_sha256(large) and len(read) == 2
