"""A run on a read-only disk, in a folder without write permission and of another user: all that only reads works and changes nothing,
and what must write says so in one line."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from command_line import winnow, winnow_child

from al.run.store import Run

OWNER = 12_345
NEW_NAMESPACE, PRIVATE, BIND, REMOUNT, READ_ONLY, RECURSIVE = 0x20000, 1 << 18, 4096, 32, 1, 16384
WITHOUT_WRITING = [
    ("status",),
    ("status", "--watch"),
    ("report",),
    ("report", "--md", "--out", "out.md"),
    ("report", "--figures", "figures"),
    ("doctor",),
    ("verify",),
    ("plan", "--budget", "20"),
    ("pool", "inspect", "--html"),
    ("pool", "export", "pool.jsonl"),
    ("pool", "export", "pool.parquet", "--split", "dev"),
    ("generate", "say the first of red green", "--max-new-tokens", "3"),
    ("eval",),
]
MADE = {"out.md", "figures", "pool.html", "pool.jsonl", "pool.parquet"}
WITH_WRITING = [
    ("round", "--budget", "20"),
    ("resume",),
    ("pool", "import", "nothing.jsonl"),
    ("doctor", "--drop-damaged"),
    ("gc", "--yes"),
    ("eval", "--examples", "3", "--metrics", "text"),
    ("repair",),
]


def libc():
    return ctypes.CDLL(None, use_errno=True)


def on_read_only_disk(folder, here):
    """Mount `folder` read-only, for this process alone."""
    found = libc()
    place = os.fsencode(folder)
    mounted = (
        found.unshare(NEW_NAMESPACE) == 0
        and found.mount(None, b"/", None, PRIVATE | RECURSIVE, None) == 0
        and found.mount(place, place, None, BIND, None) == 0
        and found.mount(None, place, None, REMOUNT | BIND | READ_ONLY, None) == 0
    )
    os.chdir(here)
    if not mounted:
        os._exit(77)


def as_another_user(folder, here):
    """Root obeys permissions once it has given up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capabilities(7))."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    found = libc()
    given_up = found.capget(header, data) == 0
    for place in (0, 1, 2):
        data[place] &= ~0b110
    given_up = given_up and found.capset(header, data) == 0
    os.chdir(here)
    if not given_up or os.access(folder, os.W_OK):
        os._exit(77)


REFUSED = {on_read_only_disk: 4, as_another_user: 5}
"""Exit codes: the machine's, and the run's."""


@pytest.fixture(params=[on_read_only_disk, as_another_user], ids=["read-only disk", "another user"])
def call(request, tmp_path):
    """`winnow_child` for a run that it can read and not write, in a working directory of its own (`tmp_path`/here)."""
    here = tmp_path / "here"
    here.mkdir()

    def called(*command, run, then=None, **environment):
        prepare = functools.partial(prepared, request.param, str(run), str(here), then)
        return winnow_child(*command, "--run", run, prepare=prepare, **environment)

    (tmp_path / "probe").mkdir()
    give_away(tmp_path / "probe")
    if called("status", run=tmp_path / "probe").code == 77:
        pytest.skip("this machine lets no process mount, or give up rights")
    return called


def prepared(prepare, run, here, then):
    prepare(run, here)
    if then is not None:
        then()


def give_away(run):
    if os.geteuid() == 0:
        for path in (run, *run.rglob("*")):
            os.chown(path, OWNER, OWNER, follow_symlinks=False)


@pytest.fixture(scope="module")
def run(two_rounds, tmp_path_factory):
    """A copy of a run, which belongs to another user."""
    path = shutil.copytree(two_rounds[0], tmp_path_factory.mktemp("given") / "run", symlinks=True)
    give_away(path)
    return path


def state(run):
    return {
        str(path.relative_to(run)): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in (run, *run.rglob("*"))
    }


def run_all(commands, run, results):
    """Run commands one after the other in this process, whose libraries are imported once."""
    found = [winnow(*command, "--run", run) for command in commands]
    Path(results).write_text(json.dumps([[result.code, result.err] for result in found]))


@pytest.mark.parametrize("writing", [False, True], ids=["reading", "writing"])
def test_what_reads_works_and_what_must_write_says_so_and_nothing_changes(run, call, tmp_path, writing, request):
    refused = REFUSED[request.node.callspec.params["call"]]
    commands, results, before = WITH_WRITING if writing else WITHOUT_WRITING, tmp_path / "results.json", state(run)
    assert call("status", run=run, then=functools.partial(run_all, commands, str(run), str(results))).code == 0
    for command, (code, err) in zip(commands, json.loads(results.read_text()), strict=True):
        locks = command[0] != "eval"  # it opens the run to read
        assert "Traceback" not in err and code == ((refused if locks else 5) if writing else 0), (command, err)
        assert not writing or ("written" in err and err.count("\n") == 1), (command, err)
    assert state(run) == before
    assert {path.name for path in (tmp_path / "here").iterdir()} == (set() if writing else MADE)


def test_what_a_working_process_wrote_is_read_and_its_lock_is_seen(run, call, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run", symlinks=True)
    with Run.create_or_open(copied) as opened:
        with opened.change() as db:
            db.execute("INSERT INTO pools SELECT 7, fingerprint, created FROM pools WHERE version = 1")
        give_away(copied)
        found = call("status", "--json", run=copied)
    assert found.code == 0, found.err
    assert found.document["working"] and found.document["pool_version"] == 7


def without_temporary_folder():
    tempfile.tempdir = "/proc/nowhere"


def test_a_log_without_its_index_is_read_from_a_copy_or_the_reader_learns_why_not(run, call, tmp_path):
    made, copied = shutil.copytree(run, tmp_path / "made", symlinks=True), tmp_path / "run"
    with Run.create_or_open(made) as opened:
        with opened.change() as db:
            db.execute("INSERT INTO pools SELECT 7, fingerprint, created FROM pools WHERE version = 1")
        shutil.copytree(made, copied, symlinks=True, ignore=shutil.ignore_patterns("*-shm"))
    give_away(copied)
    found = call("status", "--json", run=copied)
    assert found.code == 0 and found.document["pool_version"] == 7, found.err
    found = call("status", run=copied, then=without_temporary_folder)
    assert found.code == 5 and "run.db-wal: holds the newest changes" in found.err and "TMPDIR" in found.err
