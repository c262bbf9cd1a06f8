"""Artifacts on an object store: what is published, fetched, refused and deleted when the store, the cache or run.db misbehave."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from shaky_store import Shaky, opened, publish, stored_folders

from al.commands import gc
from al.commands.doctor import verify
from al.commands.options import Options
from al.errors import ConfigError, EnvironmentProblem, RunStateError
from al.run import database, integrity
from al.run.object_store.keeping import use_store
from al.run.store import Run

pytestmark = pytest.mark.usefixtures("calm")


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
