"""The run directory: publish protocol, lock, garbage, verification."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from al.commands import gc
from al.commands.options import Options
from al.errors import EnvironmentProblem, RunStateError
from al.run import artifacts, integrity, ownership, rounds, trash
from al.run.store import Run
from trainer import shortage


def publish(run: Run, text: str = "hello", **params):
    def build(out, scratch):
        (out / "sub").mkdir()
        (out / "sub" / "a.txt").write_text(text)

    return run.stage("demo", version=1, inputs={}, params=params, build=build)


def test_a_stage_is_built_once_for_the_same_fingerprint(tmp_path):
    with Run.create_or_open(tmp_path / "run") as run:
        first = publish(run, x=1)

        def explode(out, scratch):
            raise AssertionError("built twice")

        again = run.stage("demo", version=1, inputs={}, params={"x": 1}, build=explode)
        assert again == first
        assert publish(run, x=2).fingerprint != first.fingerprint


@pytest.mark.parametrize("change", ["version", "inputs", "params"])
def test_the_fingerprint_depends_on_code_version_inputs_and_parameters(change):
    base = {"stage": "s", "version": 1, "inputs": {"a": "x"}, "params": {"p": 1}}
    other = {**base, change: {"version": 2, "inputs": {"a": "y"}, "params": {"p": 2}}[change]}
    assert artifacts.fingerprint(**base) != artifacts.fingerprint(**other)
    assert artifacts.fingerprint(**base) == artifacts.fingerprint(**dict(reversed(base.items())))


def test_the_manifest_names_every_file_with_size_and_hash(tmp_path):
    with Run.create_or_open(tmp_path / "run") as run:
        artifact = publish(run)
    entry = json.loads((artifact.path / "manifest.json").read_text())["files"]["sub/a.txt"]
    assert entry["bytes"] == 5 and entry["sha256"] == integrity.sha256_file(artifact.path / "sub" / "a.txt")


def test_a_build_that_fails_leaves_nothing_but_its_scratch(tmp_path):
    def build(out, scratch):
        (out / "half.txt").write_text("x")
        (scratch / "checkpoint").write_text("step 3")
        raise KeyboardInterrupt

    with Run.create_or_open(tmp_path / "run") as run:
        with pytest.raises(KeyboardInterrupt):
            run.stage("demo", version=1, inputs={}, params={}, build=build)
        assert not list((tmp_path / "run" / "artifacts").iterdir())
        seen = {}

        def resumed(out, scratch):
            seen["text"] = (scratch / "checkpoint").read_text()

        run.stage("demo", version=1, inputs={}, params={}, build=resumed)
        assert seen["text"] == "step 3"
        assert not list((tmp_path / "run" / "scratch").iterdir())


def test_a_build_that_was_killed_goes_to_the_trash(tmp_path):
    Run.create_or_open(tmp_path / "run").close()
    left = tmp_path / "run" / "artifacts" / ".tmp-demo-0123456789abcdef0123"
    left.mkdir(parents=True)
    (left / "half.txt").write_text("x")
    with Run.create_or_open(tmp_path / "run"):
        assert not left.exists()
    (entry,) = trash.contents(tmp_path / "run")
    assert entry.name.endswith("tmp-demo-0123456789abcdef0123") and entry.bytes == 1


def test_what_is_forgotten_goes_to_the_trash(tmp_path):
    with Run.create_or_open(tmp_path / "run") as run:
        artifact = publish(run)
        run.forget("demo", artifact.fingerprint)
        assert run.find("demo", artifact.fingerprint) is None and not artifact.directory.exists()
        assert publish(run).fingerprint == artifact.fingerprint
        run.forget("demo", artifact.fingerprint)
    assert len(trash.contents(tmp_path / "run")) == 2


def test_only_one_process_may_write_and_the_message_names_it(tmp_path):
    with Run.create_or_open(tmp_path / "run"):
        with pytest.raises(RunStateError, match="another process writes this run .*pid"):
            Run.create_or_open(tmp_path / "run")
        Run.read(tmp_path / "run").close()
    Run.create_or_open(tmp_path / "run").close()


def test_reading_a_run_that_is_not_there_says_how_to_start_one(tmp_path):
    with pytest.raises(RunStateError, match="round --run"):
        Run.read(tmp_path / "nowhere")


def test_verify_finds_changed_and_missing_files_and_forget_lets_them_be_made_again(tmp_path):
    with Run.create_or_open(tmp_path / "run") as run:
        artifact = publish(run)
        assert run.verify() == {}
        (artifact.path / "sub" / "a.txt").write_text("HELLO")
        (problems,) = run.verify().values()
        assert "sha256" in problems[0]
        (artifact.path / "sub" / "a.txt").unlink()
        (problems,) = run.verify().values()
        assert "missing" in problems[0]
        run.forget("demo", artifact.fingerprint)
        assert publish(run).path.exists() and run.verify() == {}


def test_a_manifest_that_changed_after_publishing_is_refused(tmp_path):
    with Run.create_or_open(tmp_path / "run") as run:
        artifact = publish(run)
        (artifact.path / "manifest.json").write_text("{}")
        with pytest.raises(RunStateError, match="manifest is missing or changed"):
            run.find("demo", artifact.fingerprint)


def test_a_full_disk_is_said_and_nothing_published_is_lost(tmp_path):
    def build(out, scratch):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Run.create_or_open(tmp_path / "run") as run:
        kept = publish(run)
        with pytest.raises(EnvironmentProblem, match="full .*Nothing published was lost"):
            run.stage("other", version=1, inputs={}, params={}, build=build)
        assert run.find("demo", kept.fingerprint) == kept


def test_rounds_keep_state_budget_config_and_artifacts_by_role(tmp_path):
    with Run.create_or_open(tmp_path / "run") as run:
        artifact = publish(run)
        rounds.open_round(run, 1, "100", {"seed": 1})
        rounds.open_round(run, 1, "200", {"seed": 2})
        rounds.record(run, 1, "selection", artifact)
        assert rounds.last_round(run).budget == "200" and rounds.last_round(run).config == {"seed": 2}
        rounds.finish_round(run, 1)
        assert rounds.last_round(run).state == "done"
        assert rounds.roles(run, 1) == {"selection": artifact} and rounds.recorded(run, 2, "selection") is None


def test_pool_versions_count_up_and_the_same_pool_is_not_added_twice(tmp_path):
    def pool(run, x):
        return run.stage(
            "pool", version=1, inputs={}, params={"x": x}, build=lambda out, scratch: (out / "p").write_text(str(x))
        )

    with Run.create_or_open(tmp_path / "run") as run:
        assert rounds.current_pool(run) is None
        assert [rounds.add_pool(run, pool(run, x)) for x in (1, 1, 2)] == [1, 1, 2]
        assert rounds.current_pool(run)[1].manifest["params"] == {"x": 2}


def test_only_training_that_no_round_can_continue_is_abandoned(tmp_path):
    with Run.create_or_open(tmp_path / "run") as run:
        folders = {}
        for name in ("of round 1", "begun again in round 2", "of round 2", "unknown"):
            folders[name] = run.path / "scratch" / f"train-{len(folders):020x}"
            (folders[name] / "checkpoints").mkdir(parents=True)
        (run.path / "scratch" / f"score-{0:020x}").mkdir()

        def start(*names):
            for name in names:
                run.event("stage.started", stage="train", fingerprint=folders[name].name.removeprefix("train-"))

        start("of round 1", "begun again in round 2")
        assert ownership.abandoned_scratch(run.path) == []
        rounds.open_round(run, 1, "9", {})
        rounds.finish_round(run, 1)
        start("begun again in round 2", "of round 2")
        assert ownership.abandoned_scratch(run.path) == [folders["of round 1"]]

    options = Options(run_path=tmp_path / "run")
    document = gc.empty_trash(options, lambda document: False)
    assert [entry["name"].split("Z-")[1] for entry in document["trash"]] == [f"scratch-train-{0:020x}"]
    assert len(list((tmp_path / "run" / "scratch").iterdir())) == 4


def test_an_artifact_of_an_earlier_version_of_a_stage_is_used(tmp_path):
    with Run.create_or_open(tmp_path / "run") as run:
        old = publish(run, packs=4)
        again = run.stage("demo", version=2, inputs={}, params={}, build=None, earlier=[(1, {"packs": 4})])
        assert again == old
        with pytest.raises(TypeError):
            run.stage("demo", version=2, inputs={}, params={}, build=None, earlier=[(1, {"packs": 2})])


def test_a_stage_that_ran_out_of_memory_says_so_in_its_manifest_and_events(tmp_path, capsys):
    def build(out, scratch):
        (out / "a.txt").write_text("hello")
        shortage.report(shortage.Shortage(shortage.GPU, "no room"), "measuring", "half")

    with Run.create_or_open(tmp_path / "run") as run:
        made = run.stage("demo", version=1, inputs={}, params={}, build=build, label="score")
        line = "out of GPU memory while measuring: going on with half. The result is the same to rounding."
        assert made.manifest["out_of_memory"] == [line]
        assert f"note: score: {line}" in capsys.readouterr().err
        events = [json.loads(event) for event in (run.path / "events.jsonl").read_text().splitlines()]
        (found,) = [event for event in events if event["event"] == "memory.short"]
        assert (found["stage"], found["message"]) == ("score", line)


def test_a_full_disk_that_has_no_place_for_the_run_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(EnvironmentProblem, match=r"here/run is full \([0-9.]+ GiB free\)"):
        Run.create_or_open(tmp_path / "here" / "run")


@pytest.mark.parametrize("shape", [(4000,), (7, 3), (0, 5), ()])
def test_trap_47_an_array_whose_end_did_not_fit_the_disk_is_not_published(tmp_path, shape):
    """numpy.save says nothing if the last 4 KiB are lost when the file is closed."""
    lost = [1]

    def build(out, scratch):
        np.save(out / "values.npy", np.zeros(shape, dtype=np.int16))
        if lost:
            os.truncate(out / "values.npy", (out / "values.npy").stat().st_size - lost.pop())

    with Run.create_or_open(tmp_path / "run") as run:
        with pytest.raises(EnvironmentProblem, match="is full"):
            run.stage("demo", version=1, inputs={}, params={}, build=build)
        assert not list((tmp_path / "run/artifacts").glob("demo/*"))
        made = run.stage("demo", version=1, inputs={}, params={}, build=build)
        assert np.load(made.path / "values.npy").shape == shape
