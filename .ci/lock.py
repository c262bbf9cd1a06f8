"""Makes the lock files: every package that `make` installs, direct or not, pinned with the hashes of all its files.

    pip install uv && python .ci/lock.py

| file                  | holds                                        | installed                            |
|-----------------------|----------------------------------------------|--------------------------------------|
| requirements.lock     | requirements.txt and what it needs           | always                               |
| requirements-cuda.lock | libraries that CUDA builds of torch need    | if the torch in place asks for them  |
| requirements-dev.lock | what requirements-dev.txt adds               | by `make test`                       |
| requirements-docs.lock | requirements-docs.txt and what it needs     | by `make docs`, apart from the others |

One resolution serves Python 3.11 and newer on Linux, macOS and Windows; markers say where a pin holds.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# Made by .ci/lock.py; do not edit.\n"
CUDA = re.compile(r"(nvidia-|cuda-|triton==)")
CPU_BUILD = "    --hash=sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
"""torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl, for machines that offer PyTorch's build without CUDA next to PyPI's."""


def locked(requirements: str) -> list[str]:
    """An entry of a lock file, with marker and hashes, for everything that a requirements file needs."""
    command = ["uv", "pip", "compile", requirements, "--universal", "--python-version", "3.11", "--generate-hashes"]
    done = subprocess.run(
        [*command, "--no-header", "--no-annotate", "--quiet"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return re.findall(r"^\S.*(?:\n    .*)*", done.stdout, re.MULTILINE)


def pin(entry: str) -> str:
    """`NAME==VERSION` of an entry."""
    return entry.split()[0]


def with_cpu_build(entry: str) -> str:
    """An entry; that of torch with the hash of its build without CUDA."""
    return f"{entry} \\\n{CPU_BUILD}" if entry.startswith("torch==") else entry


def main() -> None:
    """Write the four files."""
    needed = {pin(entry) for entry in locked("requirements.txt")}
    every = locked("requirements-dev.txt")
    other = sorted(needed - {pin(entry) for entry in every})
    if other:
        sys.exit(f"requirements.txt alone is resolved to other versions than with requirements-dev.txt: {other}")
    cuda = [entry for entry in every if CUDA.match(entry)]
    always = [with_cpu_build(entry) for entry in every if pin(entry) in needed and not CUDA.match(entry)]
    more = [entry for entry in every if pin(entry) not in needed or entry.startswith("triton==")]
    write("requirements.lock", "", always)
    write("requirements-cuda.lock", "", cuda)
    write("requirements-dev.lock", "-r requirements.lock\n", more)
    write("requirements-docs.lock", "", locked("requirements-docs.txt"))


def write(name: str, first: str, entries: list[str]) -> None:
    """Write a lock file."""
    (ROOT / name).write_text(HEAD + first + "\n".join(entries) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
