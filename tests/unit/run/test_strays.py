"""What a run did not make stops nothing and stays, wherever it lies; and what a failed start made is gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from command_line import winnow

from al.commands.options import Options
from al.errors import DataError, RunStateError
from al.run import rounds
from al.run.ownership import strangers
from al.run.session import local_identity
from al.run.status import status
from al.run.store import Run
from trainer.checkpoint import load_newest, save_checkpoint


def publish(run: Run, name: str = "demo"):
    return run.stage(name, version=1, inputs={}, params={}, build=lambda out, scratch: (out / "a").write_text("1"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A run with an artifact and a round."""
    with Run.create_or_open(tmp_path / "run") as run:
        rounds.open_round(run, 1, "20", {})
        rounds.record(run, 1, "selection", publish(run))
        rounds.link(run.path, 1, "selection", publish(run).directory)
    return tmp_path / "run"


STRAYS = [
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "notes.txt~",
    ".notes.txt.swp",
    "#notes.txt#",
    ".nfs0000000001",
    "._notes.txt",
]
FOLDERS = ["", "artifacts", "artifacts/demo", "rounds", "rounds/001", "scratch"]


def litter(folder: Path, run: Path) -> list[Path]:
    """Strays of every kind in a folder: files, folders, links, a socket, a pipe and a name that is not text."""
    found = [folder / name for name in STRAYS]
    for file in found:
        file.write_bytes(b"\0stray")
    (folder / "lost+found" / "inner").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "itself").symlink_to("itself")
    (folder / "outside").symlink_to(run.parent)
    (folder / "caf\udce9").write_bytes(b"\0stray")
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(folder, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{here}/s")
        os.close(here)
    return [
        *found,
        *(folder / name for name in ("lost+found", "pipe", "dangling", "itself", "outside", "caf\udce9", "s")),
    ]


def test_strays_stop_nothing_stay_and_are_listed_once(path):
    left = [stray for folder in FOLDERS for stray in litter(path / folder, path)]
    before = {stray: os.lstat(stray).st_mtime_ns for stray in left}
    with Run.create_or_open(path) as run:
        publish(run, "another")
        assert rounds.add_pool(run, publish(run, "pool")) == 1
    with Run.read(path) as run:
        listed = (*run.unlisted().foreign, *strangers(path, {1: {"selection"}}))
        assert not run.verify()
    in_artifacts = {
        path / "artifacts/lost+found": path / "artifacts/lost+found/inner"
    }  # a stage's folder may have any name
    assert sorted(listed) == sorted(in_artifacts.get(stray, stray) for stray in left)
    assert {stray: os.lstat(stray).st_mtime_ns for stray in left} == before
    assert not (path / "trash").exists()
    found = winnow("doctor", "--run", path)
    assert found.code in (0, 4) and "not of this run" in found.out and "Thumbs.db" in found.out, found.err
    assert winnow("gc", "--run", path, "--yes").code == 0
    assert {stray: os.lstat(stray).st_mtime_ns for stray in left} == before


def test_nothing_of_a_run_is_a_stray(path):
    (path / "labelling").mkdir()
    with Run.read(path) as run:
        assert not run.unlisted().foreign and strangers(path, {1: {"selection"}}) == []


def test_a_build_takes_no_hidden_file_into_its_artifact(tmp_path):
    def build(out: Path, scratch: Path) -> None:
        (out / "a").write_text("1")
        (out / ".nfs0001").write_text("a file that was deleted while it was open")

    with Run.create_or_open(tmp_path / "run") as run:
        artifact = run.stage("demo", version=1, inputs={}, params={}, build=build)
        (artifact.directory / ".nfs0001").unlink()
        assert list(artifact.manifest["files"]) == ["a"] and not run.verify()


def test_other_users_may_read_what_a_library_wrote_for_one(tmp_path):
    def build(out: Path, scratch: Path) -> None:
        (out / "a").write_text("1")
        (out / "a").chmod(0o600)

    with Run.create_or_open(tmp_path / "run") as run:
        artifact = run.stage("demo", version=1, inputs={}, params={}, build=build)
    assert (artifact.path / "a").stat().st_mode & 0o777 == (tmp_path / "run").stat().st_mode & 0o666


def test_strays_change_neither_the_identity_of_a_model_nor_its_checkpoints(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = local_identity(str(tmp_path))
    (tmp_path / "._model.safetensors").write_bytes(b"resource fork")
    (tmp_path / "old.json").mkdir()
    assert local_identity(str(tmp_path)) == before and list(before) == ["model.safetensors"]
    save_checkpoint(tmp_path / "c", 2, {}, {"step": 2}, keep=1)
    (tmp_path / "c/step-000009 (copy)").mkdir()
    (tmp_path / "c/step-7").write_text("a file")
    save_checkpoint(tmp_path / "c", 3, {}, {"step": 3}, keep=1)
    assert load_newest(tmp_path / "c").step == 3 and (tmp_path / "c/step-7").exists()


@pytest.mark.parametrize("name", ["run.lock", "run.lock.owner"])
@pytest.mark.parametrize("kind", ["folder", "binary", "dangling link", "pipe"])
def test_a_foreign_lock_file_does_not_stop_reading(path, name, kind):
    place = path / name
    place.unlink(missing_ok=True)
    if kind == "folder":
        place.mkdir()
    elif kind == "binary":
        place.write_bytes(b"\xff\xfe\0")
    elif kind == "dangling link":
        place.symlink_to("nowhere")
    else:
        os.mkfifo(place)
    found = winnow("status", "--json", "--run", path)
    assert found.code == 0 and not found.document["working"]


def test_a_foreign_lock_is_one_line_for_who_must_write(path):
    (path / "run.lock").unlink()
    (path / "run.lock").mkdir()
    found = winnow("pool", "import", "x.jsonl", "--run", path)
    assert found.code in (4, 5) and "run.lock" in found.err and "Traceback" not in found.err, found.err


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("report",),
        ("doctor",),
        ("pool", "import", "x"),
        ("gc",),
        ("resume",),
        ("repair",),
        ("pool", "inspect"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("place", ["file", "file/below", "n" * 300, "dangling", "itself", "caf\udce9"])
def test_a_run_that_cannot_be_one_is_one_line(tmp_path, command, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "itself").symlink_to("itself")
    before = sorted(os.listdir(tmp_path))
    found = winnow(*command, "--run", tmp_path / place)
    assert found.code in (3, 4, 5) and "Traceback" not in found.err and found.err.count("\n") == 1, found.err
    assert sorted(os.listdir(tmp_path)) == before and (tmp_path / "file").read_text() == "mine"


def test_a_path_that_is_not_text_can_be_read_and_is_refused_where_libraries_must_write(path, tmp_path):
    rows, place = tmp_path / "r\udcff.jsonl", path.rename(tmp_path / "caf\udce9")
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    for command in (("status",), ("doctor",), ("status", "--json")):
        found = winnow(*command, "--run", place)
        assert found.code in (0, 4) and "Traceback" not in found.err, found.err
    refused = winnow("pool", "import", rows, "--run", place)
    assert refused.code == 5 and "UTF-8" in refused.err and refused.err.count("\n") == 1
    taken = winnow("pool", "import", rows, "--run", tmp_path / "run", "--json")
    assert taken.code == 0 and taken.document["examples"] == 1, taken.err


# -- a start that fails --------------------------------------------------------------------------------------------------


def failed(path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), Run.create_or_open(path):
        raise error


@pytest.mark.parametrize("error", [DataError("no rows"), KeyboardInterrupt()])
def test_a_start_that_fails_leaves_nothing(tmp_path, error):
    failed(tmp_path / "runs/new", error)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_inside_a_stage_leaves_nothing(tmp_path):
    def build(out: Path, scratch: Path) -> None:
        (out / "half").write_text("1")
        raise DataError("no rows")

    with pytest.raises(DataError), Run.create_or_open(tmp_path / "runs/new") as run:
        run.stage("pool", version=1, inputs={}, params={}, build=build)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_fails_leaves_no_empty_scratch(path):
    def build(out: Path, scratch: Path) -> None:
        raise DataError("too few responses")

    with Run.create_or_open(path) as run:
        with pytest.raises(DataError):
            run.stage("holdout", version=1, inputs={}, params={}, build=build)
        assert not any((path / "scratch").iterdir())


def test_a_first_round_that_fails_before_any_artifact_leaves_nothing(tmp_path):
    with pytest.raises(DataError), Run.create_or_open(tmp_path / "runs/new") as run:
        rounds.open_round(run, 1, "20", {})
        raise DataError("no such file")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_before_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    failed(tmp_path / "mine", DataError("no rows"))
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize(
    "held", ["an artifact", "work that can be continued", "somebody's file", "a pool", "an earlier start"]
)
def test_a_start_that_fails_keeps_what_holds_something(tmp_path, held):
    place = tmp_path / "run"
    if held == "an earlier start":
        Run.create_or_open(place).close()
    with pytest.raises(DataError), Run.create_or_open(place) as run:
        if held in ("an artifact", "a pool"):
            publish(run, "pool")
        elif held == "work that can be continued":
            (place / "scratch/demo-0123456789abcdef0123").mkdir(parents=True)
            (place / "scratch/demo-0123456789abcdef0123/shard").write_text("1")
        elif held == "somebody's file":
            (place / "notes.txt").write_text("mine")
        raise DataError("fails")
    assert (place / "run.db").is_file()
    assert status(place)["rounds"] == []


def test_a_failed_first_import_does_not_make_status_ambiguous(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run.create_or_open(Path("runs/good")).close()
    assert winnow("pool", "import", "nowhere.jsonl", "--run", "runs/bad").code == 3
    Path("runs/killed").mkdir()
    Path("runs/killed/run.db").touch()
    assert Options().existing_run() == Path("runs/good")
    found = winnow("status")
    assert found.code == 0 and "runs/good" in found.out, found.err


def test_a_missing_rounds_folder_stops_neither_status_nor_report(two_rounds, tmp_path):
    import shutil

    run = shutil.copytree(two_rounds[0], tmp_path / "run", symlinks=True)
    shutil.rmtree(run / "rounds")
    assert len(status(run)["rounds"]) == 2 and status(run)["rounds"][1]["test_macro_nll"]
    found = winnow("report", "--run", run, "--json")
    assert found.code == 0 and Path(found.document["report_path"]).is_file(), found.err


def test_reading_a_run_that_is_a_file_says_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunStateError, match="found a file"):
        Run.read(tmp_path / "file")
