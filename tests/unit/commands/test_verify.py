"""`verify` reads every byte of a run, also of files of which a first use reads only blocks, and names what differs and the way back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import winnow

from al.run import integrity
from al.run.store import Run

SIZE = 5000
BETWEEN_BLOCKS = 1000


def build(out, scratch):
    (out / "weights.bin").write_bytes(bytes(SIZE))
    (out / "names.json").write_text('{"a": 1}')


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The path of runs/one, whose weights.bin is above the size from which a first use reads blocks."""
    monkeypatch.setattr(integrity, "LARGE", SIZE)
    monkeypatch.setattr(integrity, "BLOCK", 16)
    monkeypatch.chdir(tmp_path)
    return made("one")


def made(name):
    with Run.create_or_open(path := Path("runs") / name) as opened:
        opened.stage("demo", version=1, inputs={}, params={"name": name}, build=build)
    integrity._checked.clear()
    return path


def file_of(run, name):
    return next(run.glob(f"artifacts/demo/*/{name}"))


def flip(path, place):
    before, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_whole_run_is_exit_code_0_and_counted(run):
    found = winnow("verify", "--run", run, "--json")
    assert found.code == 0
    assert found.document["runs"] == [{"run": str(run), "artifacts": 1, "files": 2, "bytes": SIZE + 8, "problems": []}]
    assert "1 artifact, 2 files, 0.0 MiB read; no damaged" in winnow("verify", "--run", run).out


def test_a_bit_between_the_blocks_of_a_large_file_is_found(run):
    flip(file_of(run, "weights.bin"), BETWEEN_BLOCKS)
    with Run.read(run) as opened:
        assert opened.published("demo")[0].path.is_dir(), "a first use reads blocks"
    found = winnow("verify", "--run", run)
    assert found.code == 5 and "weights.bin: content differs" in found.out
    assert f"doctor --run {run} --drop-damaged" in found.out and f"resume --run {run}" in found.out


@pytest.mark.parametrize("name", ["names.json", "manifest.json"])
def test_a_missing_file_is_found_and_the_way_back_leads_back(run, name):
    file_of(run, name).unlink()
    found = winnow("verify", "--run", run)
    assert found.code == 5 and ("names.json: missing" if name == "names.json" else "manifest is missing") in found.out
    assert winnow("doctor", "--run", run, "--drop-damaged").code in (0, 4)
    assert winnow("verify", "--run", run).code == 0


def test_it_does_not_wait_for_the_process_that_works_on_the_run_and_writes_nothing(run):
    with Run.create_or_open(run):
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.suffix not in (".db-shm", ".db-wal")}
        assert winnow("verify", "--run", run).code == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_all_goes_on_after_a_run_whose_database_is_damaged(run):
    damaged, flipped = made("another"), made("third")
    (damaged / "run.db").write_bytes((damaged / "run.db").read_bytes()[:100])
    flip(file_of(flipped, "names.json"), 2)
    found = winnow("verify", "--all", "--json")
    assert found.code == 5
    problems = {entry["run"]: "".join(entry["problems"]) for entry in found.document["runs"]}
    assert f"repair --run {damaged}" in problems[str(damaged)]
    assert "names.json: content differs" in problems[str(flipped)] and problems[str(run)] == ""
    assert winnow("verify", "--all", "--run", run).code == 2


def test_without_a_run_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (("--all",), ("--run", "nowhere")):
        found = winnow("verify", *arguments)
        assert found.code == 5 and "there is no run here" in found.err
