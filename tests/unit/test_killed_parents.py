"""What a process has started ends when that process is killed and can end nothing itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.proving_ground.player import name_of

ROOT = Path(__file__).resolve().parents[2]
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs util-linux' setpriv")


def left_behind(started: Callable[[], bool], program: str, *arguments: object) -> list[str]:
    """Run a Python program and kill it once `started`. The commands that it started and that are still at work 10 s later."""
    search = os.pathsep.join((str(ROOT), *map(str, arguments[:1])))
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": search}, cwd=ROOT) as parent:
        try:
            assert within(60, started), "it started nothing"
            children = psutil.Process(parent.pid).children(recursive=True)
        finally:
            parent.kill()
    assert children
    within(10, lambda: not any(map(at_work, children)))
    stay = [child for child in children if at_work(child)]
    found = [" ".join(child.cmdline()) for child in stay]
    for child in stay:
        child.kill()
    return found


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def at_work(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


ASLEEP = "import pathlib, sys, time\npathlib.Path({folder!r}, {name!r}).touch()\ntime.sleep(60)\n"
PLAYING = """
import pathlib, sys, time
from benchmarks.proving_ground import playing
from benchmarks.proving_ground.work import Work
playing.PACKAGE = "asleep"
session = playing.Session(Work(pathlib.Path(sys.argv[1]) / "work"), {"m": 1}, minutes=9, device="cpu", tokens=600)
preparing = session._prepare()
session._deal("m")
time.sleep(60)
"""


@needs_setpriv
def test_players_and_what_is_prepared_next_to_them(tmp_path):
    (tmp_path / "asleep").mkdir()
    for file, name in (("__init__.py", ""), ("__main__.py", "prepared"), ("player.py", "played")):
        (tmp_path / "asleep" / file).write_text(ASLEEP.format(folder=str(tmp_path), name=name) if name else "")
    work = tmp_path / "work"
    for folder in ("plans", "inputs/m/tokens"):
        (work / folder).mkdir(parents=True)
    (work / "about.json").write_text(json.dumps({"pools": ["sums"], "models": {"m": "../m"}, "embedder": None}))
    key = {
        "model": "m",
        "pool": "sums",
        "noise": "none",
        "sources": False,
        "budget": 4,
        "strategy": "random",
        "order": 0,
    }
    more = {"learning_rate": 1e-3, "split": "test", "stage": "baselines", "recorded": False}
    (work / "plans/m.json").write_text(json.dumps([key | {"seed": seed} | more for seed in (0, 1)]))
    np.savez(work / "picks.npz", **{name_of(key | {"seed": 0} | more): np.arange(4)})
    np.save(work / "inputs/m/tokens/offsets.npy", np.arange(0, 210, 10))
    begun = {tmp_path / "prepared", tmp_path / "played"}
    assert left_behind(lambda: begun <= set(tmp_path.iterdir()), PLAYING, tmp_path) == []


IN_PROCESSES = """
import os, sys, time
from functools import partial
from benchmarks.proving_ground.prepare import in_processes
started = [partial(os.mkdir, f"{sys.argv[1]}/{number}") for number in range(2)]
in_processes([*started, *[partial(time.sleep, 60)] * 2], 2)
"""


def test_processes_that_find_kinds_and_clusters(tmp_path):
    assert left_behind(lambda: len(list(tmp_path.iterdir())) == 2, IN_PROCESSES, tmp_path) == []


JUDGING = """
import sys
from al.evaluation.code import ProgramTests, passes_tests
passes_tests(f"import time\\nopen({sys.argv[1] + '/begun'!r}, 'w').close()\\ntime.sleep(60)", ProgramTests("pass"), 60)
"""


@needs_setpriv
def test_programs_that_are_judged(tmp_path):
    assert left_behind((tmp_path / "begun").exists, JUDGING, tmp_path) == []
