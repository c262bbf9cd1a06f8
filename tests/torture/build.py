"""Compiles the library that makes calls fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def build(folder: Path) -> Path:
    """The library of failing_calls.c, compiled. Exits where there is no C compiler or no LD_PRELOAD."""
    compiler, source = shutil.which("cc"), Path(__file__).with_name("failing_calls.c")
    if compiler is None or os.uname().sysname != "Linux":
        sys.exit(
            "torture: expected Linux with a C compiler (cc), which makes calls fail; install one, e.g. the package gcc"
        )
    library = folder / "failing_calls.so"
    subprocess.run([compiler, "-O1", "-w", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
