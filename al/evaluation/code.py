"""Runs written programs against tests. Off unless `evaluate.run_code` asks for it: a program that a model wrote may do anything.

Tests come with the example's metadata, as in HumanEval (`test`, which defines `check`, and `entry_point`; Chen et al. 2021, arXiv
2107.03374) or MBPP (`test_list`, optionally `test_imports` or `test_setup_code`; Austin et al. 2021, arXiv 2108.07732).

Each program runs in a Python process of its own: in an empty temporary folder, without the caller's environment and site packages, with
limits on CPU seconds, wall-clock seconds, memory, file size, open files and processes, and without a network where the system permits
`unshare`. It can still read any file that this user can read, and a bug of the kernel or of Python is a way out. This guards against
accidents, not against an attacker: run code of models that you do not trust in a container or virtual machine.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SECONDS = 10.0
MEMORY = 512 * 2**20
FILE_SIZE = 2**20
ALONE = ("unshare", "--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child")
"""Gives a program namespaces without network and other processes."""
ENDING_WITH_THIS = ("setpriv", "--pdeathsig", "KILL")
"""Kills a program when this process ends, even by SIGKILL: one that sleeps spends none of its CPU time and would stay."""
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_LIMITS = """import resource, runpy, sys
for name, most in (("CPU", {cpu}), ("AS", {memory}), ("FSIZE", {file}), ("NOFILE", 64), ("NPROC", 64), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
runpy.run_path("program.py", run_name="__main__")
"""


@dataclass(frozen=True)
class ProgramTests:
    """`code`: Python that raises if a program is wrong. `entry`: the function that must be defined, "" for any. `given`: the start of the
    program as the question has it, used if the answer only continues it."""

    code: str
    entry: str = ""
    given: str = ""


def find_tests(prompt: str, metadata: Mapping[str, Any]) -> ProgramTests | None:
    """The tests in an example's metadata; None if it has none. `prompt`: the question, which may be the start of the program."""
    cases, check, entry = (metadata.get(name) for name in ("test_list", "test", "entry_point"))
    if isinstance(cases, list) and cases and all(isinstance(case, str) for case in cases):
        setup = metadata.get("test_imports") or metadata.get("test_setup_code") or []
        return ProgramTests("\n".join([*([setup] if isinstance(setup, str) else setup), *cases]))
    if isinstance(check, str) and isinstance(entry, str) and entry.isidentifier():
        return ProgramTests(f"{check}\ncheck({entry})", entry, prompt)
    return None


def program_of(written: str, tests: ProgramTests) -> str:
    """The program in a written answer: its first fenced block, else all of it; a continuation is put after what was given."""
    fenced = _FENCE.search(written)
    code = fenced[1] if fenced else written
    return code if not tests.entry or re.search(rf"\bdef\s+{tests.entry}\b", code) else tests.given + code


def passes_tests(written: str, tests: ProgramTests, seconds: float = SECONDS) -> bool:
    """Whether the program in a written answer runs through its tests within `seconds`."""
    token = secrets.token_hex(
        16
    )  # printed after the tests: a program that ends early, even with exit code 0, has not passed
    source = f"{program_of(written, tests)}\n\n{tests.code}\nprint({token!r}, flush=True)\n"
    with tempfile.TemporaryDirectory(prefix="winnow-code-") as folder:
        (Path(folder) / "program.py").write_text(source, encoding="utf-8", errors="replace")
        limits = _LIMITS.format(cpu=int(seconds) + 1, memory=MEMORY, file=FILE_SIZE)
        command = [*_words(ENDING_WITH_THIS), *_words(ALONE), sys.executable, "-I", "-S", "-c", limits]
        with (Path(folder) / "output").open("w+b") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={"HOME": folder, "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end(process)
            output.seek(0)
            return process.returncode == 0 and output.read(FILE_SIZE).decode("utf-8", "replace").endswith(f"{token}\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started, also if it has ended itself."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@cache
def _words(words: tuple[str, ...]) -> tuple[str, ...]:
    """Words to put before a command; () where this system lacks the program or forbids it."""
    if shutil.which(words[0]) is None:
        return ()
    tried = subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return words if tried.returncode == 0 else ()


def has_network() -> bool:
    """Whether programs run with the network within reach, because the system forbids `unshare`."""
    return not _words(ALONE)
