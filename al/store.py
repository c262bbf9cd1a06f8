"""The run directory: one SQLite file that is the truth, and the artifacts that its rows vouch for.

run.db        rounds, pool versions, artifacts (WAL, synchronous=FULL); a row is written last
run.lock      one writer at a time
artifacts/    <stage>/<fingerprint>/, each with manifest.json
scratch/      unfinished work that may be continued: training checkpoints, score shards
rounds/003/   links to the artifacts of round 3, report.html, summary.json
events.jsonl  what happened, append-only
progress.json how far the stage under way is, for other processes to show; gone when it ends
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock

from al import __version__, artifacts
from al.artifacts import Artifact
from al.errors import RunStateError
from al.failpoints import failpoint

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
SCHEMA_VERSION = 1
PROGRESS = "progress.json"
EVENTS = "events.jsonl"


def now() -> str:
    """The time in UTC, ISO 8601 to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class Run:
    """An open run directory. Use `Run.create_or_open` to write (takes the lock) and `Run.read` to look."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock | None):
        self.path = path
        self._lock = lock
        self.db = sqlite3.connect(path / "run.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.timings: dict[str, tuple[float, str]] = {}
        """Seconds that each stage took, by label, and when it was published, of the stages asked for through this object."""
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []
        """What is called with each event of this process, once it is written."""

    @classmethod
    def create_or_open(cls, path: Path) -> Run:
        """Open for writing; makes the directory if need be.

        Raises:
            RunStateError: another process writes this run, or a newer Winnow made it.
        """
        path.mkdir(parents=True, exist_ok=True)
        lock = _acquire_lock(path)
        try:
            run = cls(path, lock)
            run.db.executescript(SCHEMA)
            run._check_schema_version()
            run.collect_garbage()
            return run
        except BaseException:
            lock.release()
            raise

    @classmethod
    def read(cls, path: Path) -> Run:
        """Open for reading, also while another process writes.

        Raises:
            RunStateError: there is no run at `path`.
        """
        if not (path / "run.db").is_file():
            raise RunStateError(
                f"{path}: there is no run here. Start one with `python cli.py round --run {path} --budget N`."
            )
        run = cls(path, None)
        run._check_schema_version()
        return run

    def close(self) -> None:
        """Close the database and let go of the lock."""
        self.db.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check_schema_version(self) -> None:
        self_version = str(SCHEMA_VERSION)
        if self._lock is not None:
            self.db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (self_version,))
        row = self.db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if row is None or row[0] != self_version:
            found = "none" if row is None else row[0]
            raise RunStateError(
                f"{self.path}: run.db has schema {found}, this Winnow reads {self_version}. Use the version that made it."
            )

    # -- artifacts ---------------------------------------------------------------------------------------------------

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The published artifact, or None. Raises RunStateError when it was published but its manifest changed since."""
        row = self.db.execute(
            "SELECT manifest_sha256 FROM artifacts WHERE stage = ? AND fingerprint = ?", (stage, fingerprint)
        ).fetchone()
        if row is None:
            return None
        path = self.path / "artifacts" / stage / fingerprint
        return Artifact(stage, fingerprint, path, artifacts.read_manifest(path, row[0]))

    def published(self, stage: str) -> list[Artifact]:
        """All artifacts of a stage, newest first."""
        rows = self.db.execute(
            "SELECT fingerprint FROM artifacts WHERE stage = ? ORDER BY rowid DESC", (stage,)
        ).fetchall()
        return [found for (name,) in rows if (found := self.find(stage, name)) is not None]

    def stage(
        self,
        name: str,
        *,
        version: int,
        inputs: Mapping[str, Artifact | None],
        params: Mapping[str, Any],
        build: Callable[[Path, Path], None],
        label: str | None = None,
    ) -> Artifact:
        """The artifact of stage `name` for these inputs and parameters, built only if it is not published yet.

        Args:
            version: of the stage's code; raise it when the same input would give another result.
            inputs: artifacts it is a function of; None stands for "not there" (no previous adapter).
            params: everything else the result depends on, JSON values.
            build: called as `build(out, scratch)`; writes its files into `out`. `scratch` outlives a kill, so that long work
                can be continued; it is removed once the artifact is published.
            label: how progress, events and timings call it; the stage's name if not given.
        """
        label = label or name
        names = {key: value.fingerprint if value is not None else "" for key, value in inputs.items()}
        key = artifacts.fingerprint(name, version, names, params)
        found = self.find(name, key)
        if found is not None:
            self.event("stage.reused", stage=label, fingerprint=key)
            self.timings.setdefault(label, (float(found.manifest["seconds"]), found.manifest["created"]))
            return found
        self.event("stage.started", stage=label, fingerprint=key)
        header = {"stage": name, "fingerprint": key, "version": version, "inputs": names, "params": dict(params)}
        artifact = self._build(name, key, header, build)
        self.timings[label] = (float(artifact.manifest["seconds"]), artifact.manifest["created"])
        self.event("stage.published", stage=label, fingerprint=key, seconds=artifact.manifest["seconds"])
        return artifact

    def _build(self, name: str, key: str, header: dict[str, Any], build: Callable[[Path, Path], None]) -> Artifact:
        temporary = self.path / "artifacts" / f".tmp-{name}-{key}"
        scratch = self.path / "scratch" / f"{name}-{key}"
        final = self.path / "artifacts" / name / key
        started = time.monotonic()
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            scratch.mkdir(parents=True, exist_ok=True)
            failpoint(f"{name}.start")
            build(temporary, scratch)
            failpoint(f"{name}.files")
            seconds = round(time.monotonic() - started, 3)
            sha256 = artifacts.seal(temporary, {**header, "seconds": seconds, "versions": versions(), "created": now()})
            failpoint(f"{name}.manifest")
            artifacts.publish(temporary, final, name)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise artifacts.explain_os_error(error, self.path) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.db.execute("INSERT INTO artifacts VALUES (?, ?, ?, ?, ?)", (name, key, sha256, seconds, now()))
        failpoint(f"{name}.committed")
        shutil.rmtree(scratch, ignore_errors=True)
        return Artifact(name, key, final, artifacts.read_manifest(final, sha256))

    def collect_garbage(self) -> list[str]:
        """Remove what no row vouches for: temporary directories, directories renamed but never committed, finished scratch."""
        removed = []
        known = set(self.db.execute("SELECT stage, fingerprint FROM artifacts").fetchall())
        root = self.path / "artifacts"
        for stage in sorted(root.iterdir()) if root.is_dir() else []:
            stray = [stage] if stage.name.startswith(".tmp-") else []
            if not stray and stage.is_dir():
                stray = [entry for entry in stage.iterdir() if (stage.name, entry.name) not in known]
            removed += stray
        scratch = self.path / "scratch"
        removed += [scratch / f"{stage}-{key}" for stage, key in known if (scratch / f"{stage}-{key}").exists()]
        for path in removed:
            shutil.rmtree(path)
        return [str(path.relative_to(self.path)) for path in removed]

    def verify(self) -> dict[tuple[str, str], list[str]]:
        """Every published artifact that is damaged, with what is wrong; reads all files."""
        wrong = {}
        for stage, key, sha256 in self.db.execute(
            "SELECT stage, fingerprint, manifest_sha256 FROM artifacts"
        ).fetchall():
            path = self.path / "artifacts" / stage / key
            try:
                problems = artifacts.damage(Artifact(stage, key, path, artifacts.read_manifest(path, sha256)))
            except RunStateError as error:
                problems = [str(error)]
            if problems:
                wrong[stage, key] = problems
        return wrong

    def forget(self, stage: str, key: str) -> None:
        """Drop an artifact, row first; the next round makes it again."""
        self.db.execute("DELETE FROM artifacts WHERE stage = ? AND fingerprint = ?", (stage, key))
        shutil.rmtree(self.path / "artifacts" / stage / key, ignore_errors=True)

    # -- events ------------------------------------------------------------------------------------------------------

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl, and tell the listeners."""
        event = {"time": now(), "event": kind, **fields}
        line = json.dumps(event, default=str)
        with (self.path / EVENTS).open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
        for listener in self.listeners:
            listener(event)


def _acquire_lock(path: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path / "run.lock")
    owner = path / "run.lock.owner"
    try:
        lock.acquire(timeout=0.5)
    except filelock.Timeout as error:
        who = owner.read_text(encoding="utf-8").strip() if owner.is_file() else "an unknown process"
        raise RunStateError(
            f"{path}: another process writes this run ({who}). Wait for it or stop it; `python cli.py status --run {path}` works meanwhile."
        ) from error
    owner.write_text(f"pid {os.getpid()} on {socket.gethostname()} since {now()}\n", encoding="utf-8")
    return lock


def versions() -> dict[str, str]:
    """Versions of what a result depends on, as installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"winnow": __version__}
    for name in (
        "torch",
        "transformers",
        "peft",
        "bitsandbytes",
        "sentence-transformers",
        "faiss-cpu",
        "scikit-learn",
        "numpy",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
