"""The small world in which a round takes two seconds, commands in forked processes, and what must be equal between two runs."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cases import Fell, expect
from command_line import Result, ended, start

from al.errors import UserError
from al.run import integrity, ownership
from al.run.store import Run

EXAMPLES, SECONDS = 60, 240
WORLD = "WINNOW_TORTURE_WORLD"
MEASURES_TIME = {"manifest.json", "plan.json", "report.html", "summary.json", "train.json", "curve.jsonl"}
"""Files that hold seconds or dates; all others are the same bytes in every run of one seed."""
SETTINGS = (
    "holdout.dev=8",
    "holdout.test=8",
    "evaluate.generations=0",
    "evaluate.bootstrap=100",
    "score.sample_per_cluster=all",
    "train.checkpoint_every=1",
)


def world() -> Path:
    """The config of the world, which the process that started this one has built."""
    return Path(os.environ[WORLD])


def options(seed: int, *more: str) -> list[str]:
    """The options of a round: a config, a seed and a budget."""
    found = ["--config", str(world()), "--budget", "10", "--json", "--strategy", "loss"]
    return [*found, *(word for value in (*SETTINGS, f"seed={seed}") for word in ("--set", value)), *more]


def winnow(
    *arguments: object,
    before: Callable[[], object] | None = None,
    kill_after: float | None = None,
    **environment: str,
) -> Result:
    """`cli.py ARGUMENTS` in a fork of this process. `kill_after`: seconds until it is killed with SIGKILL, unless it ended before."""
    with tempfile.TemporaryDirectory() as folder:
        child = start([str(argument) for argument in arguments], Path(folder), environment, "fork", before)
        child.join(SECONDS if kill_after is None else kill_after)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            expect(kill_after is not None, f"{arguments[0]} did not end within {SECONDS} s")
        return ended(child, Path(folder))


def warm_up() -> None:
    """Run a round in this process, so that its forks find every library loaded."""
    from command_line import winnow as here
    from tqdm import tqdm

    tqdm.set_lock(
        threading.RLock()
    )  # its own is shared by all forks, and one that is killed with it in its hands stops the others

    with tempfile.TemporaryDirectory(dir=world().parent) as folder:
        done = here("round", "--run", Path(folder) / "run", *options(0))
    if done.code:
        sys.exit(f"the round that nothing disturbs failed: {done.err}")


def succeeds(*arguments: object, **more: object) -> Result:
    """As `winnow`; raises `Fell` unless the exit code is 0."""
    done = winnow(*arguments, **more)
    expect(done.code == 0, f"{arguments[0]} ended with {done.code}: {last_line(done)}")
    return done


def refused(done: Result, *codes: int) -> str:
    """That a command ended with one of these exit codes, one line and no traceback; returns the line."""
    expect(done.code in codes, f"exit code {done.code}: {last_line(done)}")
    expect("Traceback" not in done.err, f"a traceback: {last_line(done)}")
    lines = [line for line in done.err.splitlines() if line.startswith(("error: ", "Error: "))]
    expect(len(lines) == 1, f"{len(lines)} error lines: {last_line(done)}")
    return lines[0]


def last_line(done: Result) -> str:
    """The last line that a command printed on stderr."""
    lines = [line.strip() for line in done.err.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "nothing on stderr"


@functools.cache
def undisturbed(seed: int, *more: str) -> dict[str, str]:
    """`contents` of a run of one round that nothing disturbed."""
    with tempfile.TemporaryDirectory(dir=world().parent) as folder:
        run = Path(folder) / "run"
        succeeds("round", "--run", run, *options(seed, *more))
        sound(run)
        return contents(run)


def contents(run: Path) -> dict[str, str]:
    """sha256 of every published file that does not measure time, by stage, fingerprint and name; and every training step's loss."""
    found = {}
    with Run.read(run) as opened:
        rows = opened.db.execute("SELECT stage, fingerprint FROM artifacts").fetchall()
    for stage, key in rows:
        directory = run / "artifacts" / stage / key
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            name = path.relative_to(run / "artifacts").as_posix()
            if path.name == "curve.jsonl":
                steps = [json.loads(line) for line in path.read_text().splitlines()]
                found[name] = str([(step["step"], step["loss"]) for step in steps])
            elif path.name not in MEASURES_TIME:
                found[name] = integrity.sha256_file(path)
    return found


def same(found: dict[str, str], wanted: dict[str, str]) -> None:
    """Raise `Fell` naming the first difference of two `contents`."""
    if found != wanted:
        names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise Fell(f"{len(names)} files differ from those of an undisturbed run: {', '.join(names[:8])}")


def sound(run: Path) -> None:
    """That every row's artifact is whole, that there is nothing else, and that no example was picked twice."""
    try:
        with Run.read(run) as opened:
            damaged, found = opened.verify(), opened.unlisted()
    except UserError as error:
        raise Fell(f"the run cannot be opened: {error}") from error
    expect(not damaged, f"damaged: {damaged}")
    orphans = [path.name for path in (*found.killed, *found.newer, *found.foreign)]
    expect(not orphans, f"orphans among the artifacts: {orphans}")
    scratch = sorted(path.name for path in (run / "scratch").glob("*"))
    expect(not scratch, f"scratch left: {scratch}")
    for lineage in ("selection", "control.selection"):
        picks = [np.load(path) for path in sorted(run.glob(f"rounds/*/{lineage}/picked.npy"))]
        every = np.concatenate(picks) if picks else np.empty(0)
        expect(len(every) == len(np.unique(every)), f"{lineage}: an id was picked twice")


def intact(run: Path) -> None:
    """That whatever is published is whole, right after a command was stopped; there may be no run yet."""
    try:
        if ownership.is_run(run):
            with Run.read(run) as opened:
                damaged = opened.verify()
                expect(not opened.unlisted().newer, "there are artifacts newer than run.db")
            expect(not damaged, f"damaged: {damaged}")
    except UserError as error:
        raise Fell(f"the run cannot be opened: {error}") from error


def copy(run: Path, place: Path) -> Path:
    """A copy of a run in `place`, under its own name."""
    return Path(shutil.copytree(run, place / run.name, symlinks=True))
