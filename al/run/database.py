"""run.db: its tables, and how it is opened to read where nothing may be written."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

DATABASE = "run.db"
WAL = "run.db-wal"
MAGIC = b"SQLite format 3\0"
SCHEMA_VERSION = "1"
SCHEMA = """
BEGIN;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS artifacts (
  stage TEXT NOT NULL, fingerprint TEXT NOT NULL, manifest_sha256 TEXT NOT NULL, seconds REAL NOT NULL, created TEXT NOT NULL,
  PRIMARY KEY (stage, fingerprint));
CREATE TABLE IF NOT EXISTS pools (version INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rounds (
  round INTEGER PRIMARY KEY, state TEXT NOT NULL CHECK (state IN ('open', 'done')), budget TEXT NOT NULL, config TEXT NOT NULL,
  started TEXT NOT NULL, finished TEXT);
CREATE TABLE IF NOT EXISTS round_artifacts (
  round INTEGER NOT NULL, role TEXT NOT NULL, stage TEXT NOT NULL, fingerprint TEXT NOT NULL, PRIMARY KEY (round, role));
INSERT OR IGNORE INTO meta VALUES ('schema', '{schema_version}');
INSERT OR IGNORE INTO meta VALUES ('run', '{run_id}');
COMMIT;
"""


def connect_to_write(run: Path, name: str = DATABASE) -> sqlite3.Connection:
    """run.db, or the database `name` next to it, with every commit on the disk before it returns (WAL, synchronous=FULL). Transactions
    are begun by hand."""
    db = sqlite3.connect(run / name, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    return db


def create_tables(db: sqlite3.Connection, run_id: str) -> None:
    """Make what is missing, in one transaction; a database that has tables keeps its schema version and run id."""
    db.executescript(SCHEMA.format(schema_version=SCHEMA_VERSION, run_id=run_id))


@contextmanager
def connected_to_read(run: Path) -> Iterator[sqlite3.Connection]:
    """run.db for reading. Where `run` is read-only a copy with its WAL is read, because SQLite needs to write next to a WAL."""
    with ExitStack() as stack:
        folder = run
        if not os.access(run, os.W_OK):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name in (DATABASE, WAL):
                if (run / name).is_file():
                    shutil.copyfile(run / name, folder / name)
        db = sqlite3.connect(folder / DATABASE, isolation_level=None)
        stack.callback(db.close)
        yield db


def state(run: Path) -> Literal["ours", "none", "other", "damaged"]:
    """What `run`/run.db is: a run's; none (no file, or no table in it, as when everything is in a lost WAL); something else; or a
    run's whose pages or indexes contradict each other."""
    path = run / DATABASE
    if not path.is_file() or path.stat().st_size == 0:
        return "none"
    try:
        with connected_to_read(run) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and "meta" not in tables:
                return "other"
            if not tables or meta(db, "schema") is None:
                return "none"
            return "ours" if db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",) else "damaged"
    except sqlite3.OperationalError:  # the disk or a permission, not the content
        raise
    except sqlite3.DatabaseError:
        return "damaged" if path.read_bytes()[:16] == MAGIC else "other"


def meta(db: sqlite3.Connection, key: str) -> str | None:
    """The value of `key` in the table `meta`, or None."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None
