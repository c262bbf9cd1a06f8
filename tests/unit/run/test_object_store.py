"""Artifacts on an object store: what is published, fetched, refused and deleted when the store, the cache or run.db misbehave."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import shutil
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from al.commands import gc
from al.commands.doctor import verify
from al.commands.options import Options
from al.config import change
from al.config.engine import EngineConfig
from al.errors import ConfigError, EnvironmentProblem, RunStateError
from al.run import archive, database, integrity, rebuild, rounds
from al.run.object_store import access, objects
from al.run.object_store.uploads import newer_than_database, use_store
from al.run.object_store.workers import with_artifacts
from al.run.store import Run


class Shaky(LocalFileSystem):
    """A store on the disk whose `faults` come before its answers: {method: [exception to raise, or None to answer]}."""

    protocol = "shaky"
    cachable = False
    faults: dict[str, list] = {}
    puts: list[str] = []

    def __init__(self, **options):
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix("shaky://"))

    def _meet(self, method):
        fault = self.faults[method].pop(0) if self.faults.get(method) else None
        if isinstance(fault, Exception):
            raise fault
        return fault

    def put_file(self, source, target, **options):
        fault = self._meet("put")
        super().put_file(source, target, **options)
        self.puts.append(target)
        if fault == "cut":
            Path(target).write_bytes(Path(source).read_bytes()[:-1])

    def get_file(self, source, target, **options):
        self._meet("get")
        super().get_file(source, target, **options)

    def cat_file(self, path, **options):
        self._meet("cat")
        return super().cat_file(path, **options)


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """No fault, no waiting, and nothing checked before."""
    fsspec.register_implementation("shaky", Shaky, clobber=True)
    monkeypatch.setattr(Shaky, "faults", {})
    monkeypatch.setattr(Shaky, "puts", [])
    waited = []
    monkeypatch.setattr(access.time, "sleep", waited.append)
    integrity._checked.clear()
    return waited


@pytest.fixture
def base(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def build(out, scratch, text="hello"):
    (out / "sub").mkdir()
    (out / "sub" / "a.txt").write_text(text)
    (out / "b.txt").write_text("second")


def publish(run, number=1):
    return run.stage("demo", version=1, inputs={}, params={"number": number}, build=build)


@contextmanager
def opened(path, url):
    with Run.create_or_open(path) as run:
        use_store(run, url)
        yield run


@pytest.fixture
def run_path(tmp_path, base):
    """A run with two artifacts on a store."""
    with opened(tmp_path / "run", f"shaky://{base}") as run:
        publish(run, 1)
        publish(run, 2)
    integrity._checked.clear()
    return tmp_path / "run"


def stored_folders(base):
    return sorted(path.parent for path in base.glob("*/demo/*/manifest.json"))


def test_files_are_uploaded_before_their_manifest_and_nothing_else_is(run_path, base):
    one, two = stored_folders(base)
    names = [str(Path(put).relative_to(Path(put).parents[0 if "sub" not in put else 1])) for put in Shaky.puts]
    assert names == ["b.txt", "sub/a.txt", "manifest.json"] * 2
    with Run.read(run_path) as run:
        for key, folder in zip(sorted(row[1] for row in run.rows()), (one, two), strict=True):
            artifact = run.find("demo", key)
            assert (folder / "manifest.json").read_bytes() == (artifact.directory / "manifest.json").read_bytes()
            assert (folder / "sub" / "a.txt").read_text() == "hello"


@pytest.mark.parametrize("lost", ["everything", "a file", "a byte", "the manifest"])
def test_a_cache_that_lacks_or_changes_something_is_filled_again(run_path, lost):
    with Run.read(run_path) as run:
        (key, *_) = [row[1] for row in run.rows()]
        folder = run_path / "artifacts" / "demo" / key
        if lost == "everything":
            shutil.rmtree(run_path / "artifacts")
        elif lost == "a byte":
            (folder / "b.txt").write_text("sec0nd")
        else:
            (folder / {"a file": "sub/a.txt", "the manifest": "manifest.json"}[lost]).unlink()
        artifact = run.find("demo", key)
        assert (artifact.path / "sub" / "a.txt").read_text() == "hello"
        assert (artifact.path / "b.txt").read_text() == "second"
        assert integrity.damage(artifact.path, artifact.manifest["files"]) == []


def test_a_large_file_that_was_fetched_is_not_read_whole_by_the_next_process(run_path, monkeypatch):
    monkeypatch.setattr(integrity, "LARGE", 2**20)
    with opened(run_path, None) as run:
        large = run.stage(
            "demo", version=1, inputs={}, params={}, build=lambda out, scratch: (out / "big").write_bytes(bytes(2**21))
        )
        shutil.rmtree(run_path / "artifacts")
        assert (large.path / "big").stat().st_mtime_ns == large.manifest["files"]["big"]["mtime_ns"]
    integrity._checked.clear()
    monkeypatch.setattr(
        integrity, "sha256_file", lambda path: pytest.fail("all of it is read") if path.name == "big" else ""
    )
    integrity.check_on_first_use(large.directory, large.manifest["files"])


def test_only_what_is_used_is_fetched(run_path):
    shutil.rmtree(run_path / "artifacts")
    with opened(run_path, None) as run:
        used, unused = (publish(run, number) for number in (1, 2))  # both are there, so neither is built
        assert used.json and (used.path / "b.txt").is_file()
        assert [path.name for path in unused.directory.iterdir()] == ["manifest.json"]


def test_what_is_damaged_on_the_store_is_never_used_and_the_way_back_leads_back(run_path, base):
    damaged = stored_folders(base)[0]
    (damaged / "b.txt").write_text("sec0nd")
    with Run.read(run_path) as run:
        key = damaged.name.partition("-")[0]
        (run_path / "artifacts" / "demo" / key / "b.txt").unlink()
        with pytest.raises(RunStateError, match=r"store/.*b\.txt: content differs.*doctor --run") as error:
            run.find("demo", key).path  # noqa: B018
        assert "\n" not in str(error.value)
    found = verify(Options(run_path=run_path, as_json=True), every=False)
    assert found["exit_code"] == 5 and [str(damaged) in line for line in found["runs"][0]["problems"]] == [True]
    with opened(run_path, None) as run:
        assert list(run.verify()) == [("demo", key)]
        run.forget("demo", key)
        publish(run, 1), publish(run, 2)
        assert run.verify() == {} and len(stored_folders(base)) == 3
    document = gc.empty_trash(Options(run_path=run_path), lambda document: True)
    assert [entry["name"] for entry in document["trash"] if "://" in entry["name"]] == [f"shaky://{damaged}"]
    assert len(stored_folders(base)) == 2 and not damaged.exists()


@pytest.mark.parametrize("gone", ["the store", "the run's part"])
def test_a_store_that_is_not_there_is_no_damage(run_path, base, gone):
    """What is missing on a store that is not there is not damaged (trap 50)."""
    (base if gone == "the store" else next(base.iterdir())).rename(base.parent / "moved")
    with pytest.raises(EnvironmentProblem, match="found no run.json. Nothing was changed") as error:
        verify(Options(run_path=run_path, as_json=True), every=False)
    assert error.value.exit_code == 4
    with Run.create_or_open(run_path) as run:
        with pytest.raises(EnvironmentProblem, match=r"run\.json"):
            publish(run, 3)
        assert run.find("demo", run.rows()[0][1]).path.is_dir(), "the cache is whole, so nothing is asked"
        assert len(run.rows()) == 2
    assert not base.exists() or not list(base.iterdir()), "nothing is written where the store was mounted"
    for lost in ("artifacts/demo/*/b.txt", "artifacts/demo"):
        for path in run_path.glob(lost):
            path.unlink() if path.is_file() else shutil.rmtree(path)
        integrity._checked.clear()
        with Run.read(run_path) as run, pytest.raises(EnvironmentProblem, match="found no run.json"):
            run.find("demo", run.rows()[0][1]).path  # noqa: B018


def test_a_fault_that_passes_is_survived_with_a_bound(run_path, calm):
    Shaky.faults["put"] = [ConnectionError("reset"), TimeoutError("slow"), "cut"]
    with opened(run_path, None) as run:
        publish(run, 3)
        assert run.verify() == {}
    assert calm == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        ([ConnectionError("reset")] * 9, 3),
        (["cut"] * 9, 3),
        ([PermissionError(errno.EACCES, "no such key id")], 0),
        ([FileNotFoundError("no such bucket")], 0),
    ],
    ids=["the connection", "a cut file", "credentials", "the bucket"],
)
def test_a_fault_that_stays_ends_the_command_with_one_line_and_loses_nothing(run_path, base, calm, fault, waits):
    Shaky.faults["put"] = [None, *fault]
    with opened(run_path, None) as run:
        with pytest.raises(
            EnvironmentProblem, match=r"^shaky://.*cannot write this: .*Nothing published was lost"
        ) as error:
            publish(run, 3)
        assert "\n" not in str(error.value) and error.value.exit_code == 4 and len(calm) == waits
        assert len(run.rows()) == 2 == len(stored_folders(base))
        Shaky.faults.clear()
        publish(run, 3)
        assert run.verify() == {} and len(run.rows()) == 3
    left = gc.empty_trash(Options(run_path=run_path), lambda document: False)
    assert [Path(entry["name"]).parent.name for entry in left["trash"]] == ["demo"] and left["bytes"] > 0
    gc.empty_trash(Options(run_path=run_path), lambda document: True)
    assert gc.empty_trash(Options(run_path=run_path), lambda document: True)["trash"] == []
    assert len(stored_folders(base)) == 3 == len(list(base.glob("*/demo/*")))


def test_a_download_that_fails_leaves_no_part_of_a_file(run_path, calm):
    shutil.rmtree(run_path / "artifacts")
    Shaky.faults["get"] = [ConnectionError("reset")] * 9
    with Run.read(run_path) as run:
        artifact = run.find("demo", run.rows()[0][1])
        with pytest.raises(EnvironmentProblem, match="cannot read this: ConnectionError reset"):
            artifact.path  # noqa: B018
        assert [path.name for path in artifact.directory.iterdir()] == ["manifest.json"] and len(calm) == 3
        Shaky.faults["get"] = [OSError(errno.ENOSPC, "No space left on device")]
        with pytest.raises(EnvironmentProblem, match="cannot be written here.*No space left") as error:
            artifact.path  # noqa: B018
        assert str(artifact.directory) in str(error.value) and len(calm) == 3
        assert (artifact.path / "b.txt").is_file()


def test_a_cache_that_cannot_be_written_is_refused_with_the_way_out(run_path):
    shutil.rmtree(run_path / "artifacts")
    (run_path / "artifacts").write_text("a file is in the way")
    with Run.read(run_path) as run, pytest.raises(EnvironmentProblem, match="give that one as --run"):
        run.find("demo", run.rows()[0][1])


def test_the_place_is_set_once_and_null_means_the_same(run_path, base, tmp_path):
    with Run.create_or_open(run_path) as run:
        for same in (f"shaky://{base}", None):
            use_store(run, same)
        with pytest.raises(ConfigError, match=rf"expected shaky://{base}.*or null, found s3://other"):
            use_store(run, "s3://other")
    with Run.create_or_open(tmp_path / "plain") as run:
        use_store(run, None)
        assert run.store is None and database.schema_version(run.db) == 2


def test_a_run_that_gets_a_store_later_uploads_what_it_has(base, tmp_path):
    with Run.create_or_open(tmp_path / "run") as run:
        publish(run, 1), publish(run, 2)
        Shaky.faults["put"] = [None, None, None, *[ConnectionError("reset")] * 9]
        with pytest.raises(EnvironmentProblem):
            use_store(run, f"shaky://{base}")
        assert run.store is None and run.verify() == {}
        Shaky.faults.clear()
        Shaky.puts.clear()
        use_store(run, f"shaky://{base}")
        assert len(Shaky.puts) == 3, "the first artifact was there already"
        shutil.rmtree(tmp_path / "run" / "artifacts")
        assert run.verify() == {} and len(stored_folders(base)) == 2
        assert (publish(run, 2).path / "b.txt").is_file()


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
