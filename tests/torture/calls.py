"""A disk on which calls fail: the nth write, fsync, rename or creation of a round, and a file system that is full."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cases import Case, expect, row
from world import contents, intact, options, refused, same, sound, succeeds, undisturbed, winnow

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EINTR)
FIRST, LATER, SIZES = 200, 25, 20
ENOUGH_MIB = 64


def arm(folder: Path, nth: int, number: int, for_good: bool = False) -> None:
    """Let the nth call below `folder` fail with this errno, and with `for_good` all that follow; 0: only count them."""
    library = ctypes.CDLL(None)
    library.failing_calls_arm(
        os.fsencode(folder), ctypes.c_long(nth), number, int(for_good), os.fsencode(folder.parent / "failed")
    )


@row(
    "failing calls",
    f"ENOSPC, EIO, EROFS, EINTR at each of the first {FIRST} write, fsync, rename and create calls, and {LATER} times later",
    "state intact, exit code 4 and a line (5 where the lock cannot be written) or the call is repeated, the same run afterwards",
)
def _failing(seed: int) -> Iterator[Case]:
    rng = random.Random(f"{seed} failing calls")
    found = [(number, nth) for number in ERRORS for nth in range(1, FIRST + 1)]
    found += [(number, rng.randrange(FIRST + 1, 900)) for number in ERRORS for _ in range(LATER)]
    rng.shuffle(found)
    for number, nth in found:
        name = f"{errno.errorcode[number]} at call {nth} seed={seed}"
        yield Case(name, functools.partial(_fails_at, seed, number, nth))


def _fails_at(seed: int, number: int, nth: int, place: Path) -> str:
    run = place / "run"
    more = ("--no-control",)
    done = winnow("round", "--run", run, *options(seed, *more), before=functools.partial(arm, run, nth, number))
    failed = place / "failed"
    expect(failed.exists() or done.code == 0, f"call {nth} was never reached, and the round failed")
    what = failed.read_text().split()[0] if failed.exists() else "not reached"
    if done.code:
        refused(
            done, *((4, 5) if number == errno.EROFS else (4,))
        )  # 5: a run that cannot be locked is one to read only
        intact(run)
        succeeds("round", "--run", run, *options(seed, *more))
    sound(run)
    same(contents(run), undisturbed(seed, *more))
    return f"{what}: exit {done.code}"


@row(
    "full disk",
    f"a tmpfs of {SIZES} sizes that fills up during a round, then more space",
    "exit code 4 and a line, then the same run",
)
def _full(seed: int) -> Iterator[Case]:
    rng = random.Random(f"{seed} full disk")
    for _ in range(SIZES):
        size = rng.randrange(20, 1500)
        yield Case(f"{size} KiB seed={seed}", functools.partial(_filled, seed, size))


def _filled(seed: int, size: int, place: Path) -> str:
    mount = place / "small"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", mount], capture_output=True)
    expect(mounted.returncode == 0, f"a tmpfs cannot be mounted here: {mounted.stderr.decode()}")
    try:
        run, more = mount / "run", ("--no-control",)
        refused(winnow("round", "--run", run, *options(seed, *more)), 4)
        intact(run)
        subprocess.run(["mount", "-o", f"remount,size={ENOUGH_MIB}m", mount], check=True, capture_output=True)
        succeeds("round", "--run", run, *options(seed, *more))
        sound(run)
        same(contents(run), undisturbed(seed, *more))
    finally:
        subprocess.run(["umount", "-l", mount], check=True)
    return "exit 4"
