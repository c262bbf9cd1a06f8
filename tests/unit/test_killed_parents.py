"""What a process has started ends when that process is killed and can end nothing itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs util-linux' setpriv")


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


def kill_when(started: Callable[[], bool], program: str, *arguments: object) -> None:
    """Run a Python program and kill it once `started`; fails if anything that it started stays."""
    search = os.pathsep.join((str(ROOT), *map(str, arguments[:1])))
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": search}, cwd=ROOT) as parent:
        try:
            wait_until(started, 60, "it started nothing")
            children = psutil.Process(parent.pid).children(recursive=True)
        finally:
            parent.kill()
    assert children
    try:
        wait_until(lambda: not any(map(at_work, children)), 10, f"{len(children)} were started, and some stay")
    finally:
        for child in filter(at_work, children):
            child.kill()


def at_work(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


JUDGING = """
import sys
from al.evaluation.code import ProgramTests, passes_tests
passes_tests(f"import time\\nopen({sys.argv[1] + '/begun'!r}, 'w').close()\\ntime.sleep(60)", ProgramTests("pass"), 60)
"""


@needs_setpriv
def test_programs_that_are_judged(tmp_path):
    kill_when((tmp_path / "begun").exists, JUDGING, tmp_path)
