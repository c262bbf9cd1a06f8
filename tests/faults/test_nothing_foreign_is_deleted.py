"""Opening a run deletes nothing: what is not its own stays byte for byte, what a killed process left goes to the trash, and a run
whose run.db is lost or older than its artifacts is refused. Every command here is a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest
from command_line import ROOT, winnow_child

from al.run import trash
from al.run.store import Run


def rows(path, first, count=20):
    lines = [json.dumps({"prompt": f"Double {n}.", "completion": str(2 * n)}) for n in range(first, first + count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def tree(folder):
    """{path: content} of everything in a folder; of a link where it points, of a directory None."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def refused(result, *words):
    assert result.code == 5, (result.out, result.err)
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


@pytest.fixture
def data(tmp_path):
    return rows(tmp_path / "first.jsonl", 0)


@pytest.fixture
def run(tmp_path, data):
    """A run with a pool."""
    path = tmp_path / "run"
    assert winnow_child("pool", "import", data, "--run", path).code == 0
    return path


def listed(run):
    """What doctor finds that is not of the run."""
    found = winnow_child("doctor", "--run", run, "--json")
    assert found.code in (0, 4), found.err
    return found.document["facts"]["not of this run"]


def artifact_of(run, stage="pool"):
    return next(path for path in sorted((run / "artifacts" / stage).iterdir()) if path.is_dir())


# -- folders of somebody else ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("pool", "import", "DATA"),
        ("pool", "import", "NOWHERE"),
        ("round", "--config", "WORLD", "--budget", "20"),
        ("compare", "--config", "WORLD", "--budget", "20"),
        ("train", "--config", "WORLD", "--dataset", "DATA"),
        ("status",),
        ("gc", "--yes"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_folder_of_another_program_is_refused_and_stays_as_it_is(command, data, tmp_path, world):
    project = tmp_path / "project"
    (project / "artifacts/models/v1").mkdir(parents=True)
    (project / "artifacts/models/v1/model.bin").write_bytes(b"weights")
    (project / "artifacts/.tmp-notes-0123456789abcdef0123").mkdir()
    before = tree(project)
    given = {"DATA": data, "NOWHERE": tmp_path / "nowhere.jsonl", "WORLD": world}
    result = winnow_child(*(given.get(word, word) for word in command), "--run", project)
    refused(result, "artifacts", str(project), "--run")
    assert tree(project) == before


def test_an_empty_folder_and_what_a_killed_start_leaves_may_become_a_run(data, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.lock", "run.lock.owner", "run.db"):
        (folder / name).touch()
    assert winnow_child("pool", "import", data, "--run", folder).code == 0


def test_a_file_in_place_of_a_run_is_refused_and_stays_as_it_is(data):
    before = data.read_bytes()
    refused(winnow_child("pool", "import", data, "--run", data), "found a file")
    assert data.read_bytes() == before


# -- run.db lost ---------------------------------------------------------------------------------------------------------


def other_database(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photos (name TEXT)")


def database_without_its_log(path):
    """What a copy without run.db-wal holds when every table is still in the log: a header."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA user_version=0")
    db.close()
    assert path.stat().st_size in (0, 4096)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: None, "run.db is missing, but 1 artifacts"),
        (lambda path: path.touch(), "run.db is empty, but 1 artifacts"),
        (database_without_its_log, "run.db is empty, but 1 artifacts"),
        (lambda path: path.write_text("not a database, but longer than a header of one hundred bytes" * 9), "damaged"),
        (other_database, "did not make"),
    ],
    ids=["deleted", "emptied", "log lost", "text", "another program's"],
)
@pytest.mark.parametrize("command", [("pool", "import", "DATA"), ("status",), ("doctor", "--drop-damaged")])
def test_trap_44_without_its_run_db_nothing_is_collected_or_written(run, tmp_path, data, damage, words, command):
    (run / "run.db").unlink()
    damage(run / "run.db")
    before = tree(run)
    result = winnow_child(*(data if word == "DATA" else word for word in command), "--run", run)
    refused(result, words, "Restore run.db")
    assert tree(run) == before


def test_a_run_db_older_than_its_artifacts_is_refused(run, tmp_path):
    older = (run / "run.db").read_bytes()
    more = rows(tmp_path / "more.jsonl", 100)
    assert winnow_child("pool", "import", more, "--run", run).code == 0
    newer = (run / "run.db").read_bytes()
    (run / "run.db").write_bytes(older)
    before = tree(run)
    result = winnow_child("pool", "import", more, "--run", run)
    refused(result, "older than the artifacts", "pool/", "run.db-wal")
    assert {k: v for k, v in tree(run).items() if k != "run.lock.owner"} == {
        k: v for k, v in before.items() if k != "run.lock.owner"
    }
    (run / "run.db").write_bytes(newer)
    assert winnow_child("status", "--run", run).code == 0


HOLDER = """
import sys
from pathlib import Path
from al.run.store import Run
run = Run.create_or_open(Path(sys.argv[1]))
run.stage("demo", version=1, inputs={}, params={}, build=lambda out, scratch: (out / "a.txt").write_text("a"))
print("published", flush=True)
sys.stdin.read()
"""


def test_a_copy_of_run_db_alone_is_whole_while_a_process_goes_on(tmp_path):
    run, copy = tmp_path / "run", tmp_path / "copy"
    command = [sys.executable, "-c", HOLDER, str(run)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "published\n"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("run.db-*", "run.lock*"))
    finally:
        holder.communicate("")
    with Run.create_or_open(copy) as opened:
        assert [artifact.json("manifest.json")["stage"] for artifact in opened.published("demo")] == ["demo"]
        assert not opened.foreign
    assert not trash.contents(copy)


def test_the_log_is_empty_when_a_command_ends(run):
    log = run / "run.db-wal"
    assert not log.exists() or log.stat().st_size == 0


# -- strangers in a run's own folders ------------------------------------------------------------------------------------


def test_strangers_among_the_artifacts_are_left_and_doctor_lists_them(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep/thesis.txt").write_text("years of work")
    artifacts = run / "artifacts"
    (artifacts / ".DS_Store").write_bytes(b"\0")
    (artifacts / "pool/.nfs000001").write_bytes(b"\1")
    (artifacts / "pool/mine").symlink_to(elsewhere)
    (artifacts / "linked").symlink_to(elsewhere)
    (artifacts / ".tmp-pool-00112233445566778899").symlink_to(elsewhere)
    (artifacts / "backup/deep").mkdir(parents=True)
    (artifacts / "backup/deep/adapter.bin").write_bytes(b"adapter")
    before = {k: v for k, v in tree(artifacts).items() if "pool/" not in k or "mine" in k or ".nfs" in k}
    result = winnow_child("pool", "import", rows(tmp_path / "more.jsonl", 50), "--run", run)
    assert result.code == 0, result.err
    assert before.items() <= tree(artifacts).items()
    assert (elsewhere / "deep/thesis.txt").read_text() == "years of work"
    assert str(artifacts) not in result.err, "only doctor lists them"
    assert {
        "artifacts/.DS_Store",
        "artifacts/pool/.nfs000001",
        "artifacts/pool/mine",
        "artifacts/linked",
        "artifacts/backup/deep",
        "artifacts/.tmp-pool-00112233445566778899",
    } == set(listed(run))
    assert not trash.contents(run)


def test_an_artifact_of_another_run_is_not_this_runs(run, tmp_path):
    other = tmp_path / "other"
    assert winnow_child("pool", "import", rows(tmp_path / "else.jsonl", 500), "--run", other).code == 0
    theirs = artifact_of(other)
    shutil.copytree(theirs, run / "artifacts/pool" / theirs.name)
    result = winnow_child("pool", "import", rows(tmp_path / "more.jsonl", 50), "--run", run)
    assert result.code == 0 and listed(run) == [f"artifacts/pool/{theirs.name}"]
    assert tree(run / "artifacts/pool" / theirs.name) == tree(theirs)


def test_publishing_never_replaces_what_is_not_its_own(tmp_path):
    def publish(run):
        return run.stage("demo", version=1, inputs={}, params={}, build=lambda out, scratch: (out / "a").touch())

    with Run.create_or_open(tmp_path / "first") as run:
        key = publish(run).fingerprint
    taken = tmp_path / "second/artifacts/demo" / key
    with Run.create_or_open(tmp_path / "second") as run:
        taken.mkdir(parents=True)
        (taken / "notes.txt").write_text("mine")
        with pytest.raises(Exception, match="not of this run. Move it away"):
            publish(run)
    assert (taken / "notes.txt").read_text() == "mine"


# -- what a killed process leaves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["pool.renamed", "pool.manifest"])
def test_what_was_killed_before_its_row_goes_to_the_trash_and_only_gc_deletes_it(tmp_path, data, point):
    run = tmp_path / "run"
    killed = winnow_child("pool", "import", data, "--run", run, WINNOW_FAILPOINT=point)
    assert killed.code == -signal.SIGKILL
    assert winnow_child("pool", "import", data, "--run", run).code == 0
    (entry,) = trash.contents(run)
    assert "pool-" in entry.name and entry.bytes > 0
    shown = winnow_child("gc", "--run", run)
    assert shown.code == 0 and entry.name in shown.out and "--yes" in shown.out
    assert [found.name for found in trash.contents(run)] == [entry.name]
    deleted = winnow_child("gc", "--run", run, "--yes", "--json")
    assert deleted.document["deleted"] and deleted.document["trash"][0]["name"] == entry.name
    assert not trash.contents(run) and winnow_child("status", "--run", run).code == 0


def test_a_run_of_an_earlier_version_killed_before_its_row_still_opens(run, tmp_path):
    """Earlier versions wrote no run id, neither into run.db nor into manifests."""
    first = artifact_of(run)
    manifest = json.loads((first / "manifest.json").read_text())
    manifest.pop("run")
    (first / "manifest.json").write_text(json.dumps(manifest))
    with sqlite3.connect(run / "run.db") as db:
        db.execute("DELETE FROM meta")
        db.execute("INSERT INTO meta VALUES ('schema', '1')")
        db.execute("DELETE FROM artifacts")
        db.execute("DELETE FROM pools")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    events = [event for event in events if event["event"] != "stage.published"]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert winnow_child("pool", "import", rows(tmp_path / "more.jsonl", 50), "--run", run).code == 0
    assert [entry.name.split("-", 1)[1] for entry in trash.contents(run)] == [f"pool-{first.name}"]


def test_gc_deletes_links_in_the_trash_and_not_what_they_point_to(run, tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    (run / "artifacts/.tmp-pool-00112233445566778899").mkdir()
    (run / "artifacts/.tmp-pool-00112233445566778899/link").symlink_to(kept)
    assert winnow_child("gc", "--run", run, "--yes").code == 0
    assert kept.read_text() == "kept" and not trash.contents(run)


# -- copies --------------------------------------------------------------------------------------------------------------


def test_a_copied_run_goes_on_and_so_does_the_first(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    for place, first in ((copy, 200), (run, 300)):
        result = winnow_child("pool", "import", rows(tmp_path / f"{first}.jsonl", first), "--run", place, "--json")
        assert result.code == 0 and result.document["version"] == 2 and "left alone" not in result.err
