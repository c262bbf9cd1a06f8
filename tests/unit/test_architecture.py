"""The house: imports point one way, the command line is quick, nothing is pickled."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {"cli": {"al"}, "al": {"al", "selection", "trainer"}, "selection": {"selection"}, "trainer": {"trainer"}}
ROOMS = set(ALLOWED)
SOURCES = sorted(
    [ROOT / "cli.py", *(p for room in ("al", "selection", "trainer") for p in (ROOT / room).rglob("*.py"))]
)


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found & ROOMS


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert imported_rooms(path) <= ALLOWED[room]


def test_help_answers_in_half_a_second():
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "cli.py", "--help"], cwd=ROOT, check=True, capture_output=True)
        best = min(best, time.perf_counter() - started)
    assert best < 0.5


def test_configuration_imports_nothing_heavy():
    code = "import sys, al.config; print([m for m in ('torch', 'transformers', 'faiss', 'sklearn', 'pyarrow') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize(
    "pattern",
    [r"\bpickle\.", r"yaml\.load\(", r"weights_only\s*=\s*False", r"trust_remote_code\s*=\s*True", r"\btorch\.load\("],
)
def test_nothing_unsafe_is_used(pattern):
    """Trap 30: no pickle, no torch.load, YAML by safe_load, remote code only as the user says."""
    assert [str(p.relative_to(ROOT)) for p in SOURCES if re.search(pattern, p.read_text())] == []
