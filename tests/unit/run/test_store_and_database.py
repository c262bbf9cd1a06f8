"""Artifacts on an object store: run.db that is lost or older, gc, archives and workers on other machines."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from shaky_store import opened, publish, stored_folders

from al.commands import gc
from al.commands.options import Options
from al.config import change
from al.config.engine import EngineConfig
from al.errors import ConfigError, EnvironmentProblem, RunStateError
from al.run import archive, database, integrity, rebuild, rounds
from al.run.object_store import access, objects
from al.run.object_store.uploads import newer_than_database
from al.run.object_store.workers import with_artifacts
from al.run.store import Run

pytestmark = pytest.mark.usefixtures("calm")


def test_an_earlier_version_refuses_a_run_on_a_store(run_path):
    with Run.read(run_path) as run:
        assert database.schema_version(run.db) == 3, "a version before this one opens schemas up to 2"


def test_a_lost_database_and_a_lost_cache_come_back_from_the_store(run_path, base):
    with opened(run_path, None) as run:
        before = sorted(run.rows())
        rounds.open_round(run, 1, "9", {})
        rounds.record(run, 1, "selection", publish(run, 1))
    for name in ("run.db", "run.db-wal", "run.db-shm"):
        (run_path / name).unlink(missing_ok=True)
    shutil.rmtree(run_path / "artifacts")
    with pytest.raises(RunStateError, match=r"run\.db is missing.*more are on its store.*repair"):
        Run.create_or_open(run_path)
    found = rebuild.rebuild(run_path)
    assert found["artifacts"] == 2 and found["lost"] == []
    with opened(run_path, None) as run:
        assert sorted(run.rows()) == before and run.store.url.startswith(f"shaky://{base}/")
        assert rounds.recorded(run, 1, "selection").path.is_dir()
        assert run.verify() == {}


def test_a_manifest_that_somebody_else_wrote_leads_nowhere_outside_the_cache(run_path, base):
    folder, other = stored_folders(base)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../../../outside.txt"] = manifest["files"].pop("b.txt")
    text = json.dumps(manifest)
    forged = folder.with_name(f"{folder.name[:20]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}")
    folder.rename(forged)
    (forged / "manifest.json").write_text(text)
    (base / "outside.txt").write_text("second")
    shutil.copytree(other, other.parents[1] / "..-" / other.name)
    shutil.rmtree(run_path / "artifacts")
    (run_path / "run.db").unlink()
    rebuild.rebuild(run_path)
    assert [path.name for path in (run_path / "artifacts").iterdir()] == ["demo"]
    with Run.read(run_path) as run, pytest.raises(RunStateError, match="outside of it"):
        run.find("demo", forged.name[:20]).path  # noqa: B018
    assert not (run_path.parent / "outside.txt").exists() and not (run_path / "outside.txt").exists()


def test_what_was_deleted_on_the_store_is_listed_as_lost_when_the_database_is_too(run_path, base):
    gone = stored_folders(base)[0]
    shutil.rmtree(gone)
    shutil.rmtree(run_path / "artifacts")
    (run_path / "run.db").unlink()
    found = rebuild.rebuild(run_path)
    assert found["artifacts"] == 1 and found["lost"] == [f"demo/{gone.name}: no longer on the store"]
    with opened(run_path, None) as run:
        publish(run, 1), publish(run, 2)
        assert run.verify() == {} and len(run.rows()) == 2


def test_a_database_older_than_the_store_is_not_opened_and_gc_deletes_nothing(run_path, base, tmp_path):
    with Run.read(run_path) as run, sqlite3.connect(tmp_path / "old.db") as old:
        run.db.backup(old)
    with opened(run_path, None) as run:
        publish(run, 3)
    (run_path / "run.db-wal").unlink(missing_ok=True)
    shutil.copy(tmp_path / "old.db", run_path / "run.db")
    shutil.rmtree(run_path / "artifacts")
    with pytest.raises(RunStateError, match="run.db is older than the artifacts"):
        gc.empty_trash(Options(run_path=run_path), lambda document: True)
    assert len(stored_folders(base)) == 3
    assert rebuild.rebuild(run_path)["artifacts"] == 3


def test_gc_deletes_neither_what_an_older_database_has_nor_what_came_after_it(run_path, base, tmp_path):
    with Run.read(run_path) as run, sqlite3.connect(tmp_path / "old.db") as old:
        run.db.backup(old)
    with opened(run_path, None) as run:
        run.forget("demo", publish(run, 1).fingerprint)
        publish(run, 1)
    (run_path / "run.db-wal").unlink(missing_ok=True)
    shutil.copy(tmp_path / "old.db", run_path / "run.db")
    shutil.rmtree(run_path / "artifacts")
    shutil.rmtree(run_path / "trash")
    assert gc.empty_trash(Options(run_path=run_path), lambda document: True)["trash"] == []
    assert len(stored_folders(base)) == 3


def test_a_store_that_goes_away_during_a_check_is_no_damage(run_path, base):
    part = next(base.iterdir())
    with Run.read(run_path) as run:
        checked = run.check_files()
        assert next(checked).problems == []
        stored = run.find("demo", run.rows()[1][1])
        part.rename(base / "moved")
        with pytest.raises(EnvironmentProblem, match="found no run.json"):
            stored.stored.damage(stored.manifest["files"])
        with pytest.raises(EnvironmentProblem, match="found no run.json"):
            list(checked)


def test_gc_in_a_copy_of_a_run_deletes_nothing_of_the_other(run_path, base, tmp_path):
    shutil.copytree(run_path, tmp_path / "copy")
    with opened(run_path, None) as run:
        publish(run, 3)
    with opened(tmp_path / "copy", None) as copy:
        publish(copy, 3)
        copy.forget("demo", publish(copy, 3).fingerprint)
    assert len(stored_folders(base)) == 4
    gc.empty_trash(Options(run_path=tmp_path / "copy"), lambda document: True)
    with opened(run_path, None) as run:
        assert run.verify() == {} and len(stored_folders(base)) == 3


def test_an_archive_has_the_artifacts_and_no_store(run_path, base, tmp_path):
    shutil.rmtree(run_path / "artifacts")
    archive.export_run(run_path, tmp_path / "run.tar")
    archive.import_run(tmp_path / "run.tar", tmp_path / "imported")
    base.rename(tmp_path / "moved")
    with opened(tmp_path / "imported", None) as run:
        assert run.store is None and database.schema_version(run.db) == 2
        assert run.verify() == {} and (publish(run, 1).path / "b.txt").is_file()
        before = run.rows()
    (tmp_path / "imported" / "run.db").unlink()
    rebuild.rebuild(tmp_path / "imported")
    with Run.read(tmp_path / "imported") as run:
        assert run.store is None and sorted(run.rows()) == sorted(before)


def test_a_first_command_that_fails_leaves_nothing_on_the_store(base, tmp_path):
    with pytest.raises(ConfigError), opened(tmp_path / "run", f"shaky://{base}") as run:
        assert list(base.iterdir())
        raise ConfigError("wrong")
    assert not run.path.exists() and not list(base.iterdir())


@dataclass(frozen=True)
class Job:
    """Paths of a training, as a worker gets them."""

    packs: Path
    out: Path


def read(path, models):
    """A work that reads a file."""

    @contextmanager
    def open_it():
        text = (path / "sub" / "a.txt").read_text()
        yield lambda shard, progress: text + shard

    return open_it()


def test_a_worker_on_another_machine_fills_a_cache_of_its_own(run_path):
    with Run.read(run_path) as run:
        one, two = (run.find("demo", row[1]).path for row in run.rows())
        work = partial(read, one)
        assert with_artifacts(run, EngineConfig(kind="processes"), work) is work, "it shares the driver's cache"
        sent = pickle.dumps(
            with_artifacts(
                run, EngineConfig(kind="ray"), work, [Job(two / "sub", run_path / "artifacts" / ".tmp-demo")]
            )
        )
    shutil.rmtree(run_path / "artifacts")
    (run_path / "run.db").unlink()
    integrity._checked.clear()
    with pickle.loads(sent)(None) as do:
        assert do("!", lambda units: None) == "hello!"
    assert (two / "b.txt").is_file(), "a path in a field of a job counts too"


def test_every_error_of_an_address_is_one_line_that_says_what_to_do(tmp_path):
    for url, error, words in (
        ("nosuch://bucket", ConfigError, r"expected a URL such as s3://"),
        ("s3://bucket/x", EnvironmentProblem, r"pip install s3fs|cannot list"),
        (f"file://{tmp_path}/missing", EnvironmentProblem, "expected a folder, found none"),
    ):
        with pytest.raises(error, match=words) as found:
            access.file_system(url)
            objects.ObjectStore(f"{url}/id").begin()
        assert "\n" not in str(found.value)
    for wrong in ("/", "runs/here", "file:///", "file://runs/here", "s3://", "memory://here"):
        with pytest.raises(ConfigError, match="artifacts.*expected a (URL|place) .*such as"):
            change({}, [f"artifacts={wrong}"], "test")
    assert change({}, ["artifacts=s3://bucket/x/"], "test").artifacts == "s3://bucket/x"
    assert newer_than_database(tmp_path, []) == []
