"""What the machine does wrong is a line and exit code 4, a damaged database 5, and anything else stays a defect."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import click
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from al.commands.command_line import run_command_line
from al.commands.foreign_errors import explain


def raised_by_sqlite(make):
    try:
        make()
    except sqlite3.Error as error:
        return error
    raise AssertionError("no error")


def short_write() -> OSError:
    """What numpy raises where the disk is full: it has no errno."""
    full = Path("/dev/full")
    if not full.exists():
        return OSError("68 requested and 0 written")
    try:
        np.zeros(100_000, dtype=np.int8).tofile(full)
    except OSError as error:
        return error
    raise AssertionError("no error")


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/x.npy"), ("runs/a/x.npy: the disk is full", "gc")),
        (OSError(errno.EIO, "Input/output error", "runs/a"), ("runs/a: the disk reported an error",)),
        (OSError(errno.EROFS, "Read-only file system", "runs/a"), ("the file system is read-only",)),
        (InterruptedError(errno.EINTR, "Interrupted system call", "runs/a"), ("runs/a: the file system interrupted",)),
        (PermissionError(errno.EACCES, "Permission denied", "data.jsonl"), ("data.jsonl: permission denied",)),
        (OSError(errno.EMFILE, "Too many open files"), ("ulimit -n",)),
        (short_write(), ("a file could not be written whole", "the disk is full")),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            ("the disk is full",),
        ),
        (MemoryError(), ("out of main memory (MemoryError).", "run the same command again")),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), ("out of main memory (",)),
        (OutOfMemoryError("tried to allocate 2 GiB"), ("out of GPU memory (tried", "model.quantization")),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), ("out of GPU memory",)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_of_the_machine(error, words):
    code, message = explain(error)
    assert code == 4 and all(word in message for word in words)


def test_what_the_system_says_to_safetensors_is_no_defect(tmp_path):
    """It raises no OSError, and has the number in its text."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SafetensorError) as caught:
        save_file({"a": np.zeros(3)}, tmp_path / "file" / "a.safetensors")
    code, message = explain(caught.value)
    assert code == 4 and "found a file on the way to it" in message
    assert explain(SafetensorError("Error while deserializing header: header too small")) is None
    assert "\n" not in message


def test_a_full_and_a_read_only_database(tmp_path):
    def full():
        with sqlite3.connect(tmp_path / "full.db") as db:
            db.execute("PRAGMA max_page_count=2")
            db.execute("CREATE TABLE t (x)")
            db.executemany("INSERT INTO t VALUES (?)", [("x" * 4000,)] * 9)

    def read_only():
        sqlite3.connect(f"file:{tmp_path / 'full.db'}?mode=ro", uri=True).execute("CREATE TABLE u (x)")

    def absent():
        sqlite3.connect(tmp_path / "nowhere" / "run.db").execute("SELECT 1")

    for make, words in ((full, "disk is full"), (read_only, "read-only"), (absent, "cannot be opened")):
        code, message = explain(raised_by_sqlite(make))
        assert code == 4 and message.startswith("run.db: ") and words in message


def test_a_damaged_database_is_a_state_of_the_run(tmp_path):
    (tmp_path / "run.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    code, message = explain(
        raised_by_sqlite(lambda: sqlite3.connect(tmp_path / "run.db").execute("SELECT * FROM meta"))
    )
    assert code == 5 and "damaged" in message


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        sqlite3.IntegrityError("UNIQUE constraint failed"),
        sqlite3.OperationalError("no such table: t"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_stay_defects(error):
    assert explain(error) is None


def test_the_command_line_prints_a_line_and_keeps_the_traceback_for_debug(capsys):
    @click.command()
    @click.option("--debug", is_flag=True)
    def fails(debug):
        raise OSError(errno.EIO, "Input/output error", "runs/a/picked.npy")

    with pytest.raises(SystemExit) as stop:
        run_command_line(fails, [])
    said = capsys.readouterr().err
    assert stop.value.code == 4 and said.startswith("error: runs/a/picked.npy: the disk reported an error")
    with pytest.raises(OSError):
        run_command_line(fails, ["--debug"])


def test_a_package_that_this_python_lacks_is_named_with_the_way_to_one_that_has_it():
    code, message = explain(ModuleNotFoundError("No module named 'msgspec'", name="msgspec"))
    assert code == 4 and "has no package msgspec" in message and ".venv/bin/python cli.py" in message
    assert explain(ModuleNotFoundError("No module named 'al.gone'", name="al.gone")) is None  # a defect of ours
