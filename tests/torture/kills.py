"""SIGKILL: at named points, at random times, and with publishing broken on purpose."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cases import Case, Fell, expect, row
from world import contents, last_line, options, same, sound, succeeds, undisturbed, winnow

from al.run import artifacts
from al.run.integrity import MANIFEST

POINTS = (
    *("pool.start", "pool.files", "pool.renamed", "tokens.files", "embeddings.manifest", "groups.renamed", "split.renamed"),
    *("clusters.committed", "plan.files", "score.shard", "score.renamed", "selection.files", "selection.renamed"),
    *("packs.manifest", "train.start", "train.step:1", "train.checkpoint.before_rename", "train.files", "train.renamed"),
    *("random.committed", "train.renamed:2", "evaluate.manifest:2", "report.files", "report.renamed", "report.committed"),
    *("adapter.files", "adapter.renamed", "adapter.committed"),
)  # fmt: skip
SEEDS, ROUNDS, BROKEN = 20, 200, 10


def continued(run: Path, seed: int) -> None:
    """Run the same command again; it must end where an undisturbed run ends."""
    succeeds("round", "--run", run, *options(seed))
    undisturbed_round(run, seed)


def undisturbed_round(run: Path, seed: int) -> None:
    """That a finished round is the one that nothing disturbs."""
    sound(run)
    same(contents(run), undisturbed(seed))


@row(
    "kill points",
    f"SIGKILL at {len(POINTS)} named points × {SEEDS} seeds",
    "same ids, same bytes, no id twice, no orphan",
)
def _points(seed: int) -> Iterator[Case]:
    for number in range(seed, seed + SEEDS):
        for point in POINTS:
            yield Case(f"{point} seed={number}", functools.partial(_killed_at, point, number), str(number))


def _killed_at(point: str, seed: int, place: Path) -> str:
    killed = winnow("round", "--run", place / "run", *options(seed), WINNOW_FAILPOINT=point)
    expect(killed.code == -signal.SIGKILL, f"the point was never passed; exit code {killed.code}")
    continued(place / "run", seed)
    return "killed"


@row("kill times", f"SIGKILL at random times over {ROUNDS} rounds", "same ids, same bytes, no id twice, no orphan")
def _times(seed: int) -> Iterator[Case]:
    for number in range(ROUNDS):
        yield Case(f"time {number} seed={seed}", functools.partial(_killed_sometime, seed, number))


@functools.cache
def _seconds(seed: int) -> float:
    undisturbed.cache_clear()
    started = time.monotonic()
    undisturbed(seed)
    return time.monotonic() - started


def _killed_sometime(seed: int, number: int, place: Path) -> str:
    """A first kill during the whole round, and, every second time, another one during what was left."""
    rng, kills = random.Random(f"{seed} {number}"), 0
    for _ in range(1 + number % 2):
        moment = rng.uniform(0, _seconds(seed))
        done = winnow("round", "--run", place / "run", *options(seed), kill_after=moment)
        if done.code == 0:
            break
        expect(done.code == -signal.SIGKILL, f"exit code {done.code}: {last_line(done)}")
        kills += 1
    else:
        succeeds("round", "--run", place / "run", *options(seed))
    undisturbed_round(place / "run", seed)
    return f"killed {kills} times"


@row("broken publishing", "the same with publishing broken on purpose, in two ways", "the harness notices")
def _broken(seed: int) -> Iterator[Case]:
    stages = ("pool", "tokens", "embeddings", "split", "clusters", "score", "selection", "packs", "train", "report")
    for stage in stages[:BROKEN]:
        for way in (row_before_rename, copy_in_place_of_rename):
            name = f"{way.__name__} of {stage} seed={seed}"
            yield Case(name, functools.partial(_noticed, way, stage, seed))


def _noticed(way: Callable[[str], None], stage: str, seed: int, place: Path) -> str:
    before = functools.partial(way, stage)
    point = f"{stage}.committed"
    killed = winnow("round", "--run", place / "run", *options(seed), before=before, WINNOW_FAILPOINT=point)
    expect(killed.code == -signal.SIGKILL, f"the broken publishing was never reached; exit code {killed.code}")
    try:
        continued(place / "run", seed)
    except Fell:
        return "noticed"
    raise Fell("publishing was broken and the harness did not notice")


def row_before_rename(broken: str) -> None:
    """Commit the row of stage `broken` before its artifact has its name; the process is killed in between."""

    def publish(temporary: Path, final: Path, stage: str) -> None:
        if stage != broken:
            whole(temporary, final, stage)

    whole, artifacts.publish = artifacts.publish, publish


def copy_in_place_of_rename(broken: str) -> None:
    """Copy the files of stage `broken` to their place one by one, the manifest last, and be killed before that."""

    def publish(temporary: Path, final: Path, stage: str) -> None:
        if stage == broken:
            shutil.copytree(temporary, final, ignore=shutil.ignore_patterns(MANIFEST))
            os.kill(os.getpid(), signal.SIGKILL)
        whole(temporary, final, stage)

    whole, artifacts.publish = artifacts.publish, publish
