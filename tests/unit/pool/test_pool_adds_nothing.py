"""An import that adds nothing makes no pool version, and says so; whatever adds something makes one."""

from __future__ import annotations

import json

import pytest
from command_line import winnow

GOOD = {"prompt": "Say one.", "completion": "one"}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def take(tmp_path):
    """Import files into one run: (version, added, what was printed)."""

    def imported(*words):
        found = winnow("pool", "import", *words, "--run", tmp_path / "run", "--json")
        assert found.code == 0, found.err
        return found.document["version"], found.document["added"]

    return imported


@pytest.mark.parametrize("bad", [(), ("nonsense",), (GOOD,)], ids=["good rows", "a bad row", "a duplicate"])
def test_the_same_file_three_times_is_one_version(take, tmp_path, bad):
    data = write(tmp_path / "data.jsonl", GOOD, *bad)
    assert [take(data) for _ in range(3)] == [(1, True), (1, False), (1, False)]
    assert len(list((tmp_path / "run/artifacts/pool").iterdir())) == 1
    assert not any((tmp_path / "run/scratch").iterdir()) and not list((tmp_path / "run/artifacts").glob(".tmp*"))
    said = winnow("pool", "import", data, "--run", tmp_path / "run")
    assert said.out.startswith("nothing to add") and "pool version 1" in said.out
    status = winnow("status", "--run", tmp_path / "run", "--json").document
    assert status["pool_version"] == 1 and status["stage"] is None


def test_a_copy_of_a_file_adds_nothing(take, tmp_path):
    for place in ("one/x", "two/x"):
        (tmp_path / place).mkdir(parents=True)
        write(tmp_path / place / "data.jsonl", GOOD)
    assert [take(tmp_path / place / "data.jsonl") for place in ("one/x", "two/x")] == [(1, True), (1, False)]


@pytest.mark.parametrize(
    ("change", "more"),
    [
        (lambda data: write(data, GOOD, {"prompt": "Say two.", "completion": "two"}), ()),
        (lambda data: write(data, GOOD, "nonsense"), ()),
        (lambda data: write(data, GOOD, GOOD), ()),
        (lambda data: data, ("--set", "clean.repair_encoding=true")),
        (lambda data: data, ("--format", "prompt_completion")),
    ],
    ids=["another row", "a bad row", "a duplicate", "repaired", "another format"],
)
def test_whatever_changes_the_pool_makes_a_version(take, tmp_path, change, more):
    data = write(tmp_path / "data.jsonl", GOOD)
    assert take(data) == (1, True)
    assert take(change(data), *more) == (2, True)
    assert take(data, *more) == (2, False)


def test_a_raised_limit_reads_what_was_too_long(take, tmp_path):
    data = write(tmp_path / "data.jsonl", GOOD, {"prompt": "Say much.", "completion": "x" * 3000})
    assert take(data, "--set", "pool.max_row_bytes=2000") == (1, True)
    assert take(data, "--set", "pool.max_row_bytes=2000") == (1, False)
    assert take(data) == (2, True)


def test_one_new_file_among_known_ones_makes_a_version(take, tmp_path):
    data, other = write(tmp_path / "data.jsonl", GOOD), write(tmp_path / "other.jsonl", GOOD)
    assert take(data) == (1, True)
    assert take(data, other) == (2, True), "its rows are known, but a config may name it from now on"
