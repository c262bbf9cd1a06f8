"""What all tests share: the small world, and the folders that tests import from."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from al.engine.engine import Engine

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported, and for children too: small sums, equal in every process
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported: GPU kernels run on the CPU
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)  # a round flushes 240 files, which takes seconds on a disk

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    """No test, and nothing that a test runs, changes how many threads torch computes with: sums would come out in another order."""
    yield
    if "torch" in sys.modules:
        assert sys.modules["torch"].get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of a small world of its own for this test session; see `tiny_world`."""
    from tiny_world import build_world

    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def no_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan finds no embedder on this machine, whatever is in its caches."""
    from al.planning import near_duplicates

    monkeypatch.setattr(near_duplicates, "embedder_here", lambda config: None)


@pytest.fixture(scope="session")
def two_rounds(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """A run of two rounds of the small world, made once for this test session, and the summaries of both: with evaluations on dev,
    task groups, written answers, a price and a control, so that every part of a report has something to show."""
    from command_line import winnow

    settings = (
        "select.by=nothing",  # clusters, whose losses are measured
        "train.eval_every=2",
        "report.price_per_hour=36",
        "report.currency=EUR",
        'evaluate.groups={few: ["source-[345]"], many: ["source-[012]"]}',
        "evaluate.generations=4",
        "generate.max_new_tokens=12",
        "evaluate.generate=auto",
        'evaluate.generate_as={"source-[12]": rouge_l}',
        "evaluate.generate_examples=20",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    run = tmp_path_factory.mktemp("runs") / "two"
    summaries = []
    for _ in range(2):
        result = winnow("round", "--config", world, "--run", run, "--budget", 24, "--json", *options)
        assert result.code == 0, result.err
        summaries.append(result.document)
    return run, *summaries


@pytest.fixture(scope="session")
def quick_workers() -> Iterator[None]:
    """Worker processes start from a server that has imported the libraries: on a machine without a GPU that is safe."""
    import multiprocessing

    from command_line import PRELOAD

    from al.engine import processes

    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "START", "forkserver")
        yield


@pytest.fixture(scope="session")
def workers(quick_workers: None) -> Iterator[Callable[[str], Engine]]:
    """Engines by kind ("local", "processes", "ray"), whose workers stay for this test session; skips where Ray is not installed."""
    from al.engine.engine import Engine

    made: dict[str, Engine] = {}

    def engine(kind: str) -> Engine:
        if kind == "ray":
            pytest.importorskip("ray")
            # Ray's workers import the tests' works from here.
            os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS / "unit" / "engine"), *sys.path])
        return made.setdefault(kind, Engine())

    yield engine
    for each in made.values():
        each.close()
