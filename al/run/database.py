"""run.db: its tables, how it is changed, and how it is opened to read where nothing may be written.

SQLite finds damage to its own structure, but not a value with a flipped bit. Every change therefore also writes a sha256 of all
rows, in the same transaction, and the rows are checked against it before a run is used.

| schema | of                                                              | is opened                          |
|--------|-----------------------------------------------------------------|------------------------------------|
| 1      | the versions before `rows_sha256`                                | to read; made schema 2 when written |
| 2      | this version: `rows_sha256` and `winnow`, the version that wrote | yes                                |
| 3      | this version, artifacts on an object store: `artifacts`, its URL | yes; versions before it refuse it   |
| higher | a later version                                                 | refused, naming that version       |
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from al import __version__
from al.errors import RunStateError

DATABASE = "run.db"
WAL = "run.db-wal"
MAGIC = b"SQLite format 3\0"
SCHEMA_VERSION, SCHEMA_WITH_STORE = 2, 3
STORE = "artifacts"
"""The key of `meta` that has the URL of the run's part of its object store."""
SCHEMA = """
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
"""
ROWS_SHA256 = "rows_sha256"


def connect_to_write(run: Path, name: str = DATABASE) -> sqlite3.Connection:
    """run.db, or the database `name` next to it, with every commit on the disk before it returns (WAL, synchronous=FULL). Transactions
    are begun by hand."""
    db = sqlite3.connect(run / name, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    return db


def bring_up_to_date(db: sqlite3.Connection, run_id: str) -> None:
    """Make what is missing, in one transaction: all tables of a new database, the sha256 of an earlier version's. A run id is kept."""
    with changing(db):
        for statement in SCHEMA.split(";"):
            db.execute(statement)
        db.execute("INSERT OR IGNORE INTO meta VALUES ('run', ?)", (run_id,))
        db.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))


def keep_artifacts_at(db: sqlite3.Connection, url: str | None) -> None:
    """Note where artifacts are: on an object store, or in the run's folder (None). Call it inside of `changing`."""
    db.execute("DELETE FROM meta WHERE key = ?", (STORE,))
    if url is not None:
        db.execute("INSERT INTO meta VALUES (?, ?)", (STORE, url))
    version = SCHEMA_VERSION if url is None else SCHEMA_WITH_STORE
    db.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(version),))


@contextmanager
def changing(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A transaction, at whose end the sha256 of all rows is written. Nothing is changed if the block raises."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("INSERT OR REPLACE INTO meta VALUES ('winnow', ?)", (__version__,))
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (ROWS_SHA256, _rows_sha256(db)))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite ends it itself when the disk is full
            db.execute("ROLLBACK")
        raise


def _rows_sha256(db: sqlite3.Connection) -> str:
    """Hex sha256 of the definition and every row of every table, whatever their order, but for this sha256 itself."""
    as_text, db.text_factory = db.text_factory, lambda text: text.decode("utf-8", "surrogateescape")
    try:
        tables = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = [(name, *row) for name, _ in tables for row in db.execute(f'SELECT * FROM "{name}"')]
    finally:
        db.text_factory = as_text
    lines = sorted(json.dumps(row) for row in tables + rows if row[:2] != ("meta", ROWS_SHA256))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def connected_to_read(run: Path) -> Iterator[sqlite3.Connection]:
    """run.db for reading. Nothing of the run changes: SQLite removes the files that it makes next to run.db where it may.

    | where nothing can be written             | is read                                                      |
    |------------------------------------------|--------------------------------------------------------------|
    | another process works on the run         | with mode=ro, through the log and index of that process      |
    | there is no log, or it is empty          | with immutable=1: nothing but run.db                         |
    | a log with content, without its index    | a temporary copy of both: SQLite cannot read a log otherwise |

    Raises:
        RunStateError: the log has content and cannot be copied.
    """
    with ExitStack() as stack:
        db = _connect_to_read(run, stack)
        stack.callback(db.close)
        yield db


def _connect_to_read(run: Path, stack: ExitStack) -> sqlite3.Connection:
    uri = (run / DATABASE).absolute().as_uri()
    for mode in ("mode=rw", "mode=ro") if os.access(run, os.W_OK) else ("mode=ro",):
        db = sqlite3.connect(f"{uri}?{mode}", uri=True, isolation_level=None)
        try:
            db.execute("SELECT 1 FROM sqlite_master LIMIT 1")
            return db
        except sqlite3.OperationalError:
            db.close()
        except sqlite3.DatabaseError:
            db.close()
            raise
    wal = run / WAL
    if not wal.is_file() or wal.stat().st_size == 0:
        return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    try:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-")))
        for name in (DATABASE, WAL):
            shutil.copyfile(run / name, folder / name)
    except OSError as error:
        raise RunStateError(
            f"{wal}: holds the newest changes of run.db, and can neither be read here nor copied to a temporary folder "
            f"({error.strerror or error}). Set TMPDIR to a folder with space, or copy the run to one that can be written."
        ) from error
    return sqlite3.connect(folder / DATABASE, isolation_level=None)


def state(run: Path) -> Literal["ours", "none", "other", "damaged"]:
    """What `run`/run.db is: a run's; none (no file, or no table in it, as when everything is in a lost WAL); something else; or a
    run's whose pages or indexes contradict each other, or whose rows are not those that were written."""
    path = run / DATABASE
    if not path.is_file() or path.stat().st_size == 0:
        return "none"
    try:
        with connected_to_read(run) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and "meta" not in tables:
                return "other"
            if not tables:
                return "none"
            if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",) or not _has_the_rows_that_were_written(db):
                return "damaged"
            return "none" if meta(db, "schema") is None else "ours"
    except sqlite3.OperationalError:  # the disk or a permission, not the content
        raise
    except UnicodeDecodeError:  # the name of a column
        return "damaged"
    except sqlite3.DatabaseError:
        return "damaged" if path.read_bytes()[:16] == MAGIC else "other"


def _has_the_rows_that_were_written(db: sqlite3.Connection) -> bool:
    db.execute("BEGIN")  # one state, while another process may write
    written, found, schema = meta(db, ROWS_SHA256), _rows_sha256(db), meta(db, "schema")
    db.execute("COMMIT")
    return written == found if written is not None else schema in (None, "1")


def schema_version(db: sqlite3.Connection) -> int:
    """The schema of a run's database, whose rows are as they were written; see the module's table."""
    return int(meta(db, "schema") or 1)


def meta(db: sqlite3.Connection, key: str) -> str | None:
    """The value of `key` in the table `meta`, or None."""
    row = db.execute("SELECT CAST(value AS BLOB) FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0].decode("utf-8", "replace") if row else None
