"""Programs in a process of their own that has only installed packages, as a user of what Winnow writes has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NOTHING_OF_WINNOW = """
import sys
assert not {"al", "trainer", "selection"} & {name.partition(".")[0] for name in sys.modules}
"""


def python(code: str, cwd: Path, *arguments: object) -> str:
    """What a program prints; `sys` is imported."""
    command = [sys.executable, "-I", "-c", f"import sys{code}{NOTHING_OF_WINNOW}", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
