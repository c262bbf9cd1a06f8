"""Files are checked before a process uses them for the first time."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from al.errors import RunStateError
from al.run import integrity
from al.run.store import Run

HOW = ("flipped", "cut", "longer", "deleted", "a folder")


def spoil(path, how):
    content = path.read_bytes()
    if how == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
    elif how == "cut":
        path.write_bytes(content[:-1])
    elif how == "longer":
        path.write_bytes(content + b"\0")
    else:
        path.unlink()
        if how == "a folder":
            path.mkdir()


@pytest.fixture
def run(tmp_path):
    """A run with an artifact of two files, made by a process that has ended."""

    def build(out, scratch):
        (out / "sub").mkdir()
        (out / "sub" / "numbers.bin").write_bytes(bytes(range(200)))
        (out / "names.json").write_text('{"a": 1}')

    with Run.create_or_open(tmp_path / "run") as run:
        run.stage("demo", version=1, inputs={}, params={}, build=build)
        integrity._checked.clear()
        yield run


def reopened(run):
    (found,) = run.published("demo")
    return found


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["sub/numbers.bin", "names.json"])
def test_a_changed_file_is_found_before_any_file_of_the_artifact_is_used(run, how, name):
    artifact = reopened(run)
    spoil(artifact.directory / name, how)
    for use in (lambda: artifact.path, lambda: artifact.json("names.json")):
        with pytest.raises(RunStateError) as error:
            use()
        assert name in str(error.value) and f"doctor --run {run.path} --drop-damaged" in str(error.value)
    assert list(run.verify()) == [("demo", artifact.fingerprint)]


def test_files_are_read_once_in_a_process(run, monkeypatch):
    artifact, read = reopened(run), []
    plain = integrity.sha256_file
    monkeypatch.setattr(integrity, "sha256_file", lambda path: read.append(path.name) or plain(path))
    assert artifact.path == reopened(run).path == artifact.directory
    assert sorted(read) == ["names.json", "numbers.bin"]


def test_an_artifact_that_was_made_again_is_checked_again(run):
    artifact = reopened(run)
    assert artifact.path
    replaced = artifact.directory.with_name("copy")
    shutil.copytree(artifact.directory, replaced)
    shutil.rmtree(artifact.directory)
    replaced.rename(artifact.directory)
    spoil(artifact.directory / "names.json", "flipped")
    with pytest.raises(RunStateError, match=r"names\.json"):
        assert reopened(run).path


@pytest.mark.parametrize("touched", [False, True])
def test_a_large_file_is_checked_by_blocks_unless_its_time_changed(tmp_path, monkeypatch, touched):
    monkeypatch.setattr(integrity, "LARGE", 1000)
    monkeypatch.setattr(integrity, "BLOCK", 16)
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(5000))
    files = {"weights": integrity.describe_file(path)}
    assert integrity.damage(tmp_path, files, whole=False) == []
    before = path.stat()
    content = bytearray(path.read_bytes())
    for place in (0, 4999, 1000):  # the first and last bytes are in blocks, this one is between two
        content[place] ^= 1
        path.write_bytes(content)
        if not touched:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        found = integrity.damage(tmp_path, files, whole=False)
        assert bool(found) == (touched or place != 1000), place
        assert integrity.damage(tmp_path, files)
        content[place] ^= 1


def test_a_manifest_describes_what_was_written(run):
    files = json.loads((reopened(run).directory / "manifest.json").read_text())["files"]
    assert files["sub/numbers.bin"] == {
        "bytes": 200, "sha256": integrity.sha256_file(reopened(run).directory / "sub/numbers.bin")
    }  # fmt: skip
