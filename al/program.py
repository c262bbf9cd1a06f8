"""What to type to start Winnow, for messages and files that say how to go on."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[1] / "pyproject.toml"

PROGRAM = "winnow" if Path((sys.argv or [""])[0]).stem == "winnow" or not _CHECKOUT.exists() else "python cli.py"
"""`winnow` if Winnow was started so or is installed, `python cli.py` in a checkout."""


def invocation() -> str:
    """The command line that runs, for records; for a Python program that imports `al`, without its arguments, which are its own."""
    program, *arguments = sys.argv or [""]
    if Path(program).stem in ("winnow", "cli"):
        return shlex.join([*PROGRAM.split(), *arguments])
    return "a Python program that imports al"
