"""What all tests share: the small world, and the folders that tests import from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported, and for children too: small sums, equal in every process
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported: GPU kernels run on the CPU

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of a small world of its own for this test session; see `tiny_world`."""
    from tiny_world import build_world

    return build_world(tmp_path_factory.mktemp("world"))
