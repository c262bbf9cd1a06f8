"""Every row of run.db is checked before use; runs of earlier versions are opened, those of later ones refused."""

from __future__ import annotations

import sqlite3

import pytest

from al.errors import RunStateError
from al.run import atomic, database, rounds
from al.run.rebuild import rebuild
from al.run.store import Run

SCHEMA_1 = database.SCHEMA + "INSERT INTO meta VALUES ('schema', '1'); INSERT INTO meta VALUES ('run', 'abc');"
VALUES = {
    "the name of a key": b"wordless",
    "a config": b"lamplight",
    "a budget": b"24 candles",
    "a fingerprint": b"f1f2f3f4f5f6f7f8f9f0",
    "the sum": None,
    "the name of the sum": b"rows_sha256",
    "a definition": b"manifest_sha256 TEXT",
}


def build(out, scratch):
    (out / "a.txt").write_text("hello")


@pytest.fixture
def path(tmp_path):
    """A run with an open round, a pool version and an artifact."""
    path = tmp_path / "run"
    with Run.create_or_open(path) as run:
        artifact = run.stage("pool", version=1, inputs={}, params={}, build=build)
        rounds.add_pool(run, artifact)
        rounds.open_round(run, 1, "24 candles", {"light": "lamplight"})
        rounds.record(run, 1, "pool", artifact)
        rounds.record_labels(run, {"wordless": "sunlight"})
        VALUES["a fingerprint"] = artifact.fingerprint.encode()
        VALUES["the sum"] = database.meta(run.db, database.ROWS_SHA256).encode()
    return path


def flip(path, value, by=1):
    """Flip bits of one byte of each copy of `value` in run.db, in ways that SQLite does not see."""
    content = (path / "run.db").read_bytes()
    assert value in content
    changed = value[:3] + bytes([value[3] ^ by]) + value[4:]
    (path / "run.db").write_bytes(content.replace(value, changed))


@pytest.mark.parametrize("by", [1, 0x80], ids=["another letter", "no UTF-8"])
@pytest.mark.parametrize("what", VALUES)
def test_a_flipped_byte_that_sqlite_does_not_see_stops_every_use_and_repair_mends_it(path, what, by):
    with Run.read(path) as run:
        before = rounds.all_rounds(run), rounds.labels(run), rounds.recorded(run, 1, "pool")
    flip(path, VALUES[what], by)
    damaged = (path / "run.db").read_bytes()
    for use in (Run.read, Run.create_or_open):
        with pytest.raises(RunStateError, match="damaged.*repair --run") as error:
            use(path)
        assert error.value.exit_code == 5
    assert (path / "run.db").read_bytes() == damaged
    assert rebuild(path)["lost"] == []
    with Run.read(path) as run:
        after = rounds.all_rounds(run), rounds.labels(run), rounds.recorded(run, 1, "pool")
    assert [round.config for round in after[0]] == [round.config for round in before[0]] and after[1:] == before[1:]


def test_a_row_that_is_gone_is_found(path):
    with sqlite3.connect(path / "run.db") as db:
        db.execute("DELETE FROM round_artifacts")
    with pytest.raises(RunStateError, match="damaged"):
        Run.read(path)


def test_a_change_that_fails_changes_nothing(path):
    with Run.create_or_open(path) as run:
        with pytest.raises(KeyError), run.change() as db:
            db.execute("DELETE FROM rounds")
            raise KeyError
        assert len(rounds.all_rounds(run)) == 1
    Run.read(path).close()


def test_a_run_of_schema_1_is_read_as_it_is_and_brought_up_to_date_when_it_is_written(tmp_path):
    with sqlite3.connect(tmp_path / "run.db") as db:
        db.executescript(SCHEMA_1)
        db.execute("INSERT INTO rounds VALUES (1, 'open', '9', '{}', 'today', NULL)")
    content = (tmp_path / "run.db").read_bytes()
    with Run.read(tmp_path) as run:
        assert [entry.budget for entry in rounds.all_rounds(run)] == ["9"]
    assert (tmp_path / "run.db").read_bytes() == content
    with Run.create_or_open(tmp_path) as run:
        assert database.schema_version(run.db) == 2 and database.meta(run.db, "run") == "abc"
        assert [entry.budget for entry in rounds.all_rounds(run)] == ["9"]
    with sqlite3.connect(tmp_path / "run.db") as db:
        db.execute("UPDATE rounds SET budget = '8'")
    with pytest.raises(RunStateError, match="damaged"):
        Run.read(tmp_path)


def test_a_run_of_a_later_version_is_refused_naming_it_and_left_as_it_is(path):
    with database.connected_to_read(path) as db, database.changing(db):
        db.execute("UPDATE meta SET value = '4' WHERE key = 'schema'")
    with database.connected_to_read(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = [entry for entry in path.rglob("*") if entry.is_file() and not entry.name.startswith("run.lock")]
    before = [entry.read_bytes() for entry in kept]
    for use in (Run.read, Run.create_or_open):
        with pytest.raises(RunStateError, match=r"schema 3 or lower.*found 4, written by Winnow 0.1.0") as error:
            use(path)
        assert error.value.exit_code == 5
    assert [entry.read_bytes() for entry in kept] == before


def test_new_folders_are_on_the_disk_before_anything_in_them_counts(tmp_path, monkeypatch):
    flushed, plain = [], atomic.fsync_path
    for module in ("atomic", "artifacts"):
        monkeypatch.setattr(f"al.run.{module}.fsync_path", lambda path: flushed.append(path) or plain(path))
    with Run.create_or_open(tmp_path / "runs" / "new") as run:
        run.stage("demo", version=1, inputs={}, params={}, build=build)
    parents = [tmp_path, tmp_path / "runs", tmp_path / "runs" / "new", tmp_path / "runs" / "new" / "artifacts"]
    assert [folder for folder in dict.fromkeys(flushed) if folder in parents] == parents
