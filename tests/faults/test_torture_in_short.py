"""A few cases of `make torture` (`test_kill_and_continue` has kills at single points): the harness notices what is broken on purpose,
and what it asks for holds."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys

import pytest
from command_line import ROOT

HARNESS = ROOT / "tests/torture"
CASES = {
    "row_before_rename of tokens seed=0": "noticed",
    "copy_in_place_of_rename of split seed=0": "noticed",
    "ENOSPC at call 60 seed=0": "exit 4",
    "python object seed=0": "exit 2",
}


@pytest.mark.skipif(shutil.which("cc") is None, reason="failing calls need a C compiler")
def test_the_harness_notices_what_is_broken_and_finds_the_rest_whole(world, tmp_path):
    build = runpy.run_path(str(HARNESS / "build.py"))["build"]
    command = [sys.executable, HARNESS, "--part", "0", "--workers", "1", "--cases", *CASES]
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **quiet, "LD_PRELOAD": str(build(tmp_path)), "WINNOW_TORTURE_WORLD": str(world)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = {one["case"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == CASES.keys()
    for name, word in CASES.items():
        assert found[name]["held"], found[name]
        assert word in found[name]["what"], found[name]
