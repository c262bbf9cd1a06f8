"""Workers: who does a shard changes nothing, a dead worker costs its shard, and none outlives its driver."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import engine_works
import psutil
import pytest

from al.config import Config, parse
from al.engine import processes
from al.engine.engine import MOST_DEATHS, Engine
from al.engine.models import Models
from al.errors import ConfigError, EnvironmentProblem, Interrupted
from trainer.errors import MachineError
from trainer.shortage import listening

HERE = Path(__file__).parent


def models(kind: str, gpus: int = 2) -> Models:
    return Models(Config(engine={"kind": kind, "gpus": gpus}, model={"device": "cpu"}))


@pytest.fixture(params=["local", "processes", "ray"])
def at(request, workers):
    """An engine of each kind and models for two workers."""
    return workers(request.param), models(request.param), request.param


def test_every_shard_is_done_once_and_models_wait_for_nobody(at):
    engine, on, kind = at
    units = []
    found = dict(engine.map(on, engine_works.squares, list(range(20)), units.append))
    assert {number: value for number, (value, _) in found.items()} == {n: n * n for n in range(20)}
    processes = {process for _, process in found.values()}
    assert (processes == {os.getpid()}) == (kind == "local")
    assert sum(units) == 20
    again = {process for _, (_, process) in engine.map(on, engine_works.squares, list(range(20)))}
    assert kind == "local" or again <= processes or len(processes) < 2, "workers are kept"


def test_nothing_to_do_starts_no_worker():
    engine = Engine()
    assert list(engine.map(models("processes"), engine_works.squares, [])) == []
    assert engine._workers is None


def test_a_killed_worker_costs_its_shard_alone(at, tmp_path):
    engine, on, kind = at
    if kind == "local":
        pytest.skip("this process is the worker")
    engine.note = (notes := []).append
    found = dict(engine.map(on, partial(engine_works.killed_once, tmp_path), list(range(8))))
    assert found == {n: n * n for n in range(8)}
    assert (tmp_path / "killed").exists()
    done = sorted(path.name.split("-")[0] for path in tmp_path.iterdir() if path.name != "killed")
    assert done == [str(n) for n in range(8)], "no other shard was done twice"
    (note,) = notes
    assert "its work is done again" in note and (kind == "ray" or "SIGKILL" in note)


def test_errors_and_reports_of_workers_arrive_as_they_are(at):
    engine, on, _ = at
    notes = []
    with listening(notes.append), pytest.raises(MachineError, match="^shard 2 does not fit$"):
        list(engine.map(on, engine_works.refusing, [0, 1, 2]))
    assert set(notes) == {"out of GPU memory while testing: going on with less. The result is the same to rounding."}
    with pytest.raises((KeyError, RuntimeError), match="missing"):
        list(engine.map(on, engine_works.faulty, [0]))
    assert len(dict(engine.map(on, engine_works.squares, [1, 2, 3]))) == 3, "the engine works on after an error"


def test_a_shard_that_kills_every_worker_ends_the_work(workers, monkeypatch):
    engine, on = workers("processes"), models("processes")
    monkeypatch.setattr("al.engine.engine.MOST_DEATHS", 2)
    assert MOST_DEATHS > 2
    with pytest.raises(EnvironmentProblem, match="SIGKILL.*Finished shards are kept"):
        list(engine.map(on, engine_works.deadly, [0]))
    assert len(dict(engine.map(on, engine_works.squares, list(range(9))))) == 9, "dead workers are replaced"


def test_jobs_share_the_workers(at, tmp_path):
    engine, on, kind = at
    if kind == "local":
        pytest.skip("this process is the worker")
    ticks = []
    for jobs, world in ((["b", "c"], 1), (["b"], 2), (["b", "c", "d"], 1)):
        found = engine.together(on, partial(engine_works.team, tmp_path), jobs, tmp_path, lambda: ticks.append(1))
        assert found[:2] == [f"{job} by rank 0 of {world}" for job in jobs[:2]]
        assert found[2:] == ["d by rank 0 of 2"] * (len(jobs) - 2), "after the others, with all workers"
    assert ticks


def test_ranks_begin_again_together_when_one_dies(workers, tmp_path):
    engine, on = workers("processes"), models("processes")
    engine.note = (notes := []).append
    assert engine.together(on, partial(engine_works.team, tmp_path), ["a"], tmp_path, int) == ["a by rank 0 of 2"]
    assert (tmp_path / "killed").exists() and len(notes) == 1
    meetings = [path.read_text() for path in tmp_path.glob("a-*")]
    assert len(meetings) == 4 and len(set(meetings)) == 2, "the second try has another meeting"


def test_a_stopped_driver_ends_workers_in_the_middle_of_a_shard(at, tmp_path):
    engine, on, kind = at
    if kind == "local":
        pytest.skip("this process is the worker")

    def stop(units):
        if len(list(tmp_path.iterdir())) == 2:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        list(engine.map(on, partial(engine_works.endless, tmp_path), [0, 1, 2], stop))
    assert len(list(tmp_path.iterdir())) == 2
    assert ended(int(path.name) for path in tmp_path.iterdir())


def test_workers_end_with_a_driver_that_is_killed_and_import_no_main_script(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "START", "spawn")  # as it is for users
    (marks := tmp_path / "marks").mkdir()
    (script := tmp_path / "script.py").touch()
    driver = multiprocessing.get_context("fork").Process(target=_drive, args=(marks, script))
    driver.start()
    wait_for(lambda: any(path.stat().st_size for path in marks.iterdir()))
    driver.kill()
    driver.join()
    assert [path.read_text() for path in marks.iterdir()] == ["no script"]
    assert ended(int(path.name) for path in marks.iterdir())


def _drive(marks, script):
    vars(sys.modules["__main__"]).update(__spec__=None, __file__=str(script))  # as in `python script.py`
    list(Engine().map(models("processes", 1), partial(engine_works.endless, marks), [0]))


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def ended(processes) -> bool:
    processes = list(processes)
    wait_for(lambda: not any(psutil.pid_exists(p) and psutil.Process(p).status() != "zombie" for p in processes), 10)
    return True


def test_the_engine_is_named_in_one_word_or_in_full():
    assert parse({"engine": "ray"}, "test").engine.kind == "ray"
    assert parse({"engine": {"kind": "processes", "gpus": 2}}, "test").engine.gpus == 2
    with pytest.raises(ConfigError, match="engine.kind.*found 'dask'"):
        parse({"engine": "dask"}, "test")


def test_more_gpus_than_there_are_is_an_error_in_words(monkeypatch):
    config = Config(engine={"kind": "processes", "gpus": 4})
    monkeypatch.setattr(Engine, "device", lambda self, config: "cuda")
    monkeypatch.setattr("al.engine.engine.visible_gpus", lambda: ["0", "1"])
    with pytest.raises(ConfigError, match="engine.gpus: expected at most the 2 GPUs of this machine, found 4"):
        next(Engine().map(Models(config), engine_works.squares, [1]))


def test_ray_is_not_imported_unless_it_is_asked_for():
    code = "import al.engine.engine, sys; print('ray' in sys.modules)"
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parents[2], check=True, capture_output=True, text=True
    )
    assert child.stdout.strip() == "False"
