"""What all tests share: the small world, and the command line run inside this process or as a child."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import child_process  # noqa: E402


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON printed on stdout."""
        return json.loads(self.out)


def winnow(*arguments: object) -> Result:
    """Run the command line in this process."""
    import cli
    from al import progress

    out, err, code = io.StringIO(), io.StringIO(), 0
    progress._stop_requested.clear()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def winnow_child(*arguments: object, **environment: str) -> Result:
    """Run the command line as a real child process, which may be killed; the code is negative then, as of `subprocess`."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        child = child_process.start([str(argument) for argument in arguments], environment, out, err)
        child.join(timeout=300)
        return Result(child.exitcode, out.read_text(), err.read_text())


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of a small world of its own for this test session; see `tiny_world`."""
    from tiny_world import build_world

    return build_world(tmp_path_factory.mktemp("world"))
