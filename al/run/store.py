"""The run directory: one SQLite file that is the truth, and the artifacts that its rows vouch for.

run.db        rounds, pool versions, artifacts (WAL, synchronous=FULL); a row is written last
run.lock      one writer at a time
artifacts/    <stage>/<fingerprint>/, each with manifest.json; a cache, if they are kept on an object store
scratch/      unfinished work that may be continued: training checkpoints, score shards
trash/        what killed processes left, until `gc` deletes it
rounds/003/   links to the artifacts of round 3, report.html, summary.json
events.jsonl  what happened, append-only
progress.json how far the stage under way is, for other processes to show; gone when it ends
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import shutil
import socket
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import filelock

from al import __version__
from al.errors import EnvironmentProblem, RunStateError, Unpublished
from al.program import PROGRAM
from al.run import artifacts, database, integrity, ownership, trash
from al.run.artifacts import Artifact, versions
from al.run.atomic import make_folder
from al.run.failpoints import failpoint
from al.run.object_store import uploads
from al.run.object_store.objects import ObjectStore, StoredArtifact
from al.run.ownership import EVENTS
from al.run.work_time import STARTED
from al.terminal import show, without_passwords
from trainer import shortage

PROGRESS, LOCK = "progress.json", "run.lock"


def now() -> str:
    """The time in UTC, ISO 8601 to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class Run:
    """An open run directory. Use `Run.create_or_open` to write (takes the lock) and `Run.read` to look."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock | None):
        self.path = path
        self._lock = lock
        self._open = ExitStack()
        """What `close` ends, last first."""
        if lock is None:
            self.db = self._open.enter_context(database.connected_to_read(path))
        else:
            self._open.callback(lock.release)
            self.db = database.connect_to_write(path)
            self._open.callback(self.db.close)
        self._made: tuple[Path, ...] | None = None
        """The folders that this process made for a new run, innermost first; None if the run was there before."""
        self.foreign: tuple[Path, ...] = ()
        """Entries of artifacts/ that are not of this run, as found when it was opened for writing. They are left alone."""
        self.timings: dict[str, tuple[float, str]] = {}
        """Seconds that each stage took, by label, and when it was published, of the stages asked for through this object."""
        self._silent = True
        """Whether this process has written no event yet."""
        self._last_sign = _modified(path / PROGRESS)
        """When the process before gave its last sign of work, if it was killed at work."""
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []
        """What is called with each event of this process, once it is written."""

    @classmethod
    def create_or_open(cls, path: Path) -> Run:
        """Open for writing; makes the directory if need be.

        What a killed process left unfinished is moved to `trash/`; what is not of this run is left (`doctor` lists it).

        Raises:
            RunStateError: another process writes this run; a newer Winnow made it; the directory holds something but no run.db
                of Winnow, or a run.db older than its artifacts (nothing is written then); it cannot be written; or its path is
                not UTF-8.
        """
        ownership.check_name(path)
        ownership.is_run(path)
        missing = tuple(folder for folder in (path, *path.parents) if not folder.exists())
        lock = acquire_lock(path)
        with ExitStack() as on_error:
            on_error.callback(lock.release)
            present = ownership.is_run(path)  # again: another process may have come first
            run = cls(path, lock)
            on_error.callback(run.db.close)
            run._made = None if present else missing
            if present:
                run._refuse_newer_schema()
                found = run.unlisted()  # before anything is written
            if not present or database.schema_version(run.db) < database.SCHEMA_VERSION:
                database.bring_up_to_date(run.db, uuid.uuid4().hex)
            if present:
                run._collect(found)
            on_error.pop_all()
        return run

    @classmethod
    def read(cls, path: Path) -> Run:
        """Open for reading, also while another process writes, and where nothing can be written.

        Raises:
            RunStateError: there is no run at `path`, or its run.db is lost.
        """
        if not ownership.is_run(path):
            raise RunStateError(
                f"{path}: there is no run here{ownership.nearby(path)}. Start one with `{PROGRAM} round --run {path} --budget N`."
            )
        run = cls(path, None)
        try:
            run._refuse_newer_schema()
        except RunStateError:
            run.close()
            raise
        return run

    def checkpoint(self) -> None:
        """Move the write-ahead log into run.db, so that a copy of that one file is whole. A reader may delay it to the next time."""
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the database and let go of the lock."""
        if self._lock is not None:
            with suppress(sqlite3.OperationalError):  # a full disk; the log is then read on the next opening
                self.checkpoint()
        self._open.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None and self._made is not None:
            begun, store = self.db.execute("SELECT 1 FROM rounds").fetchone(), self.store
            self.db.close()
            wrong_input = begun is not None and getattr(kind, "exit_code", None) in ownership.OF_WRONG_INPUT
            ownership.remove_failed_start(self.path, self._made, wrong_input)
            self._open.close()
            if store is not None and not self.path.exists():
                uploads.withdraw(store)
        else:
            self.close()

    def _refuse_newer_schema(self) -> None:
        found, known = database.schema_version(self.db), database.SCHEMA_WITH_STORE
        if found > known:
            writer = database.meta(self.db, "winnow") or "a later version"
            raise RunStateError(
                f"{self.path / database.DATABASE}: expected schema {known} or lower, which Winnow {__version__} opens, found {found}, "
                f"written by Winnow {writer}. Nothing was changed. Use Winnow {writer} or later for this run."
            )

    def change(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction on run.db; see `al.run.database.changing`. Every change goes through here."""
        return database.changing(self.db)

    # -- artifacts ---------------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether it is open for writing."""
        return self._lock is not None

    @property
    def store(self) -> ObjectStore | None:
        """Where its artifacts are kept; None: in its folder."""
        url = database.meta(self.db, database.STORE)
        return None if url is None else ObjectStore(url)

    def rows(self) -> list[tuple[str, str, str]]:
        """Stage, fingerprint and sha256 of the manifest of every published artifact."""
        return self.db.execute("SELECT stage, fingerprint, manifest_sha256 FROM artifacts").fetchall()

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The published artifact, or None. Raises RunStateError when it was published but its manifest changed since."""
        row = self.db.execute(
            "SELECT manifest_sha256 FROM artifacts WHERE stage = ? AND fingerprint = ?", (stage, fingerprint)
        ).fetchone()
        if row is None:
            return None
        path, store = self.path / "artifacts" / stage / fingerprint, self.store
        stored = None if store is None else StoredArtifact(store, stage, fingerprint, row[0])
        return Artifact(stage, fingerprint, path, artifacts.read_manifest(path, row[0], stored), stored)

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
        earlier: Sequence[tuple[int, Mapping[str, Any]]] = (),
    ) -> Artifact:
        """The artifact of stage `name` for these inputs and parameters, built only if it is not published yet.

        Args:
            version: of the stage's code; raise it when the same input would give another result.
            inputs: artifacts it is a function of; None: there is none (no previous adapter).
            params: everything else the result depends on, JSON values.
            build: called as `build(out, scratch)`; writes its files into `out`. `scratch` outlives a kill, so that long work
                can be continued; it is removed once the artifact is published.
            label: how progress, events and timings call it; the stage's name if not given.
            earlier: (version, parameters) under which earlier versions of Winnow published an equivalent artifact, which is used.
        """
        label = label or name
        names = {key: value.fingerprint if value is not None else "" for key, value in inputs.items()}
        key = artifacts.fingerprint(name, version, names, params)
        known = (key, *(artifacts.fingerprint(name, number, names, settings) for number, settings in earlier))
        found = next((artifact for each in known if (artifact := self.find(name, each)) is not None), None)
        if found is not None:
            self.event("stage.reused", stage=label, fingerprint=found.fingerprint)
            self.timings.setdefault(label, (float(found.manifest["seconds"]), found.manifest["created"]))
            return found
        if self._lock is None:
            raise Unpublished(
                f"{self.path}: `{label}` would have to be made, and nothing can be written there. Copy the whole run to a place that can "
                f"be written, and give that one as --run."
            )
        self.event("stage.started", stage=label, fingerprint=key)
        header = {"stage": name, "fingerprint": key, "version": version, "inputs": names, "params": dict(params)}
        artifact = self._build(name, key, header, build, label)
        self.timings[label] = (float(artifact.manifest["seconds"]), artifact.manifest["created"])
        self.event("stage.published", stage=label, fingerprint=key, seconds=artifact.manifest["seconds"])
        return artifact

    def _build(
        self, name: str, key: str, header: dict[str, Any], build: Callable[[Path, Path], None], label: str
    ) -> Artifact:
        temporary = self.path / "artifacts" / f".tmp-{name}-{key}"
        scratch = self.path / "scratch" / f"{name}-{key}"
        final = self.path / "artifacts" / name / key
        started = time.monotonic()
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            make_folder(temporary)
            scratch.mkdir(parents=True, exist_ok=True)
            failpoint(f"{name}.start")
            with shortage.listening(partial(self._short_of_memory, label, shortages := [])):
                build(temporary, scratch)
            failpoint(f"{name}.files")
            seconds = round(time.monotonic() - started, 3)
            made = {"run": database.meta(self.db, "run"), "seconds": seconds, "versions": versions(), "created": now()}
            made |= {"out_of_memory": shortages} if shortages else {}
            sha256 = artifacts.seal(temporary, {**header, **made})
            failpoint(f"{name}.manifest")
            uploads.upload(self.store, self.event, (name, key, sha256), temporary)
            artifacts.publish(temporary, final, name)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):  # work that can be continued stays
                scratch.rmdir()
            if isinstance(error, OSError):
                raise artifacts.explain_os_error(error, self.path) from error
            raise
        with self.change() as db:
            db.execute("INSERT INTO artifacts VALUES (?, ?, ?, ?, ?)", (name, key, sha256, seconds, now()))
        integrity.trust(final)
        failpoint(f"{name}.committed")
        uploads.note(self.store, self.event, uploads.PUBLISHED, (name, key, sha256))
        self.checkpoint()
        shutil.rmtree(scratch, ignore_errors=True)
        return self.find(name, key)

    def _short_of_memory(self, label: str, shortages: list[str], line: str) -> None:
        """Record that a stage ran out of memory and how it went on: as an event, for its manifest, and on stderr."""
        shortages.append(line)
        self.event("memory.short", stage=label, message=line)
        show(f"note: {label}: {line}", file=sys.stderr)

    def unlisted(self) -> ownership.Unlisted:
        """Entries of artifacts/ without a row. Raises RunStateError if run.db is older than the artifacts next to it."""
        rows = self.rows()
        found = ownership.unlisted(self.path, database.meta(self.db, "run"), [row[:2] for row in rows])
        of_the_store = uploads.newer_than_database(self.path, rows) if self.store is not None else []
        ownership.refuse_newer(self.path, (*found.newer, *of_the_store))
        return found

    def _collect(self, found: ownership.Unlisted) -> None:
        """Move what a killed process left to the trash, and remove scratch of finished stages."""
        self.foreign = found.foreign
        try:
            moved = [trash.discard(self.path, path) for path in found.killed]
        except OSError as error:
            raise artifacts.explain_os_error(error, self.path) from error
        if moved:
            self.event("run.collected", trash=[path.name for path in moved])
        for stage, key, _ in self.rows():
            finished = self.path / "scratch" / f"{stage}-{key}"
            if finished.is_dir() and not finished.is_symlink():
                shutil.rmtree(finished, ignore_errors=True)

    def check_files(self) -> Iterator[artifacts.Checked]:
        """Every published artifact, with what is wrong with it; reads all files."""
        yield from artifacts.check_all(self.path, self.rows(), self.store)

    def verify(self) -> dict[tuple[str, str], list[str]]:
        """Every published artifact that is damaged, with what is wrong; reads all files."""
        return {(one.stage, one.fingerprint): one.problems for one in self.check_files() if one.problems}

    def forget(self, stage: str, key: str) -> None:
        """Move an artifact to the trash and drop its row; the next round makes it again."""
        path = self.path / "artifacts" / stage / key
        if path.exists() or path.is_symlink():
            trash.discard(self.path, path)
        for row in self.rows():
            if row[:2] == (stage, key):
                uploads.note(self.store, self.event, uploads.FORGOTTEN, row)
        with self.change() as db:
            db.execute("DELETE FROM artifacts WHERE stage = ? AND fingerprint = ?", (stage, key))

    # -- events ------------------------------------------------------------------------------------------------------

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl and call the listeners with it. A run opened to read gets none."""
        if self._lock is None:
            return
        event = {"time": now(), "event": kind, **fields}
        line = without_passwords(json.dumps(event, default=str))
        with (self.path / EVENTS).open("a", encoding="utf-8") as handle:
            if self._silent:
                self._silent = False
                opened = {"time": event["time"], "event": STARTED, "last_sign": self._last_sign}
                handle.write(json.dumps(opened) + "\n")
            handle.write(line + "\n")
            if kind.startswith(("stage.", "store.")):  # al.run.ownership and object_store rely on these after a crash
                handle.flush()
                os.fsync(handle.fileno())
        for listener in self.listeners:
            listener(event)


def _modified(path: Path) -> str | None:
    """When a file was written last, as `now` writes it; None if there is none."""
    with suppress(OSError):
        return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).isoformat(timespec="milliseconds")
    return None


def acquire_lock(path: Path) -> filelock.BaseFileLock:
    """The lock of the only writer of a run; makes the directory if need be.

    Raises:
        RunStateError: another process has it, or this user may not write there.
        EnvironmentProblem: the file system is read-only.
    """
    try:
        make_folder(path)
        return _locked(path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise artifacts.explain_os_error(error, path) from error
        kind = EnvironmentProblem if error.errno == errno.EROFS else RunStateError
        raise kind(
            f"{path}: cannot be written ({error.strerror}). `{PROGRAM} status --run {path}` and `report` work all the same; to "
            f"go on with this run, copy the whole directory to a place that can be written."
        ) from error


def _locked(path: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path / LOCK)
    owner = path / f"{LOCK}.owner"
    try:
        lock.acquire(timeout=0.5)
    except filelock.Timeout as error:
        who = owner.read_text(encoding="utf-8", errors="replace").strip() if owner.is_file() else "an unknown process"
        raise RunStateError(
            f"{path}: another process writes this run ({who}). Wait for it or stop it; `{PROGRAM} status --run {path}` works meanwhile."
        ) from error
    try:
        owner.write_text(f"pid {os.getpid()} on {socket.gethostname()} since {now()}\n", encoding="utf-8")
    except OSError:
        lock.release()
        raise
    return lock
