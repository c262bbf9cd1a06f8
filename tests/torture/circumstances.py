"""Two processes on one run, stale locks, a wrong clock, odd paths, places that cannot be written, and other users."""

from __future__ import annotations

import ctypes
import functools
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cases import Case, Fell, expect, row
from command_line import ended, start
from world import SECONDS, contents, options, refused, same, sound, succeeds, undisturbed, winnow

RACES, NOBODY, YEAR = 20, 65534, 365 * 86400
NAMES = (
    *("two words", "quo'te\"s", "ünï–cødé 日本", "new\nline", "-dash", "per%20cent%", "ha#sh?mode=ro&x=1", "semi;colon&amp"),
    *("{brace}", "*star[1]", "back\\slash", "$HOME", "fox 🦊", "right\u202eleft", "tab\tbell\x07", "n" * 200, "a=b,c:d", "...", "~"),
)  # fmt: skip
LOOKING = (
    ("status",),
    ("report",),
    ("doctor",),
    ("plan", "--budget", "10"),
    ("pool", "inspect"),
    ("pool", "export", "OUT"),
)


@row(
    "two at once",
    f"two rounds started on one run, {RACES} times",
    "one works, the other is refused with a line; the same run",
)
def _two_at_once(seed: int) -> Iterator[Case]:
    for number in range(RACES):
        yield Case(f"race {number} seed={seed}", functools.partial(_race, seed, number))


def _race(seed: int, number: int, place: Path) -> str:
    run, words = place / "run", [*options(seed)]
    streams = [Path(tempfile.mkdtemp(dir=place)) for _ in range(2)]
    first = start(["round", "--run", str(run), *words], streams[0], method="fork")
    time.sleep(random.Random(f"{seed} {number}").uniform(0, 1.5))
    second = start(["round", "--run", str(run), *words], streams[1], method="fork")
    found = []
    for child, folder in ((first, streams[0]), (second, streams[1])):
        child.join(SECONDS)
        expect(child.exitcode is not None, "one of the two did not end")
        found.append(ended(child, folder))
    lost = [done for done in found if done.code]
    expect(len(lost) <= 1, f"both ended with an error: {[done.err[-200:] for done in lost]}")
    sound(run)
    if not lost:
        return "one after the other"
    expect("another process" in refused(lost[0], 5), "the line does not say why")
    same(contents(run), undisturbed(seed))
    return "one refused"


def _works(before: Callable[[Path], object], seed: int, place: Path) -> str:
    """A round after `before` has prepared its folder."""
    run = place / "run"
    run.mkdir()
    before(run)
    succeeds("round", "--run", run, *options(seed))
    sound(run)
    same(contents(run), undisturbed(seed))
    return "works"


STALE: dict[str, Callable[[Path], object]] = {
    "a lock nobody holds": lambda run: (run / "run.lock").write_text("12345"),
    "an owner that is gone": lambda run: (run / "run.lock.owner").write_text(
        "pid 999999 on elsewhere since 1999-01-01"
    ),
    "an owner that is no text": lambda run: (run / "run.lock.owner").write_bytes(b"\xff\xfe\x00pid"),
    "an empty run.db": lambda run: (run / "run.db").touch(),
}


@row("stale locks", "what a killed or foreign process leaves: locks, owners, an empty run.db", "the round works")
def _stale(seed: int) -> Iterator[Case]:
    for name, before in STALE.items():
        yield Case(f"{name} seed={seed}", functools.partial(_works, before, seed))


@row("moved clock", "the clock ten years back or ahead, and moved between two commands", "the same run")
def _clock(seed: int) -> Iterator[Case]:
    for years in ((-10,), (10,), (10, -10), (-10, 10)):
        yield Case(f"years {years} seed={seed}", functools.partial(_clock_moved, years, seed))


def _clock_moved(years: tuple[int, ...], seed: int, place: Path) -> str:
    run = place / "run"
    if len(years) > 1:
        winnow("round", "--run", run, *options(seed), before=_moves(years[0]), WINNOW_FAILPOINT="train.step:2")
    succeeds("round", "--run", run, *options(seed), before=_moves(years[-1]))
    sound(run)
    same(contents(run), undisturbed(seed))
    return "works"


def _moves(years: int) -> Callable[[], object]:
    return lambda: ctypes.CDLL(None).failing_calls_move_clock(ctypes.c_long(years * YEAR))


@row("odd paths", f"{len(NAMES)} odd names of a run's folder, and one that is not UTF-8", "works, or a line")
def _paths(seed: int) -> Iterator[Case]:
    for name in (*NAMES, os.fsdecode(b"not utf-8 \xff\xfe")):
        yield Case(f"{ascii(name)} seed={seed}", functools.partial(_in_folder, name, seed))


def _in_folder(name: str, seed: int, place: Path) -> str:
    run = place / name
    done = winnow("round", "--run", run, *options(seed))
    if done.code:
        refused(done, 2, 4, 5)
        expect(not run.exists() or not any(run.iterdir()), "refused, and a folder was left")
        return "refused"
    sound(run)
    for command in LOOKING[:3]:
        succeeds(*command, "--run", run)
    return "works"


@row(
    "no right to write",
    f"{len(LOOKING)} reading commands and a round, on a read-only run and as another user",
    "reading works; a line",
)
def _rights(seed: int) -> Iterator[Case]:
    for owner in (NOBODY, 0):
        whose = "read-only" if owner == NOBODY else "of another user"
        for command in (*LOOKING, ("round",), ("gc", "--yes")):
            yield Case(
                f"{' '.join(command)} {whose} seed={seed}",
                functools.partial(_without_rights, owner, command, seed),
                whose,
            )


@functools.cache
def _finished(seed: int) -> Path:
    run = Path(tempfile.mkdtemp(dir=os.path.dirname(os.environ["WINNOW_TORTURE_WORLD"]))) / "run"
    succeeds("round", "--run", run, *options(seed))
    return run


def _without_rights(owner: int, command: tuple[str, ...], seed: int, place: Path) -> str:
    """As user NOBODY, in a run without write bits that `owner` has."""
    from world import copy

    if os.getuid() != 0:
        return "not tried: only root can become another user"
    run = copy(_finished(seed), place)
    out = place / "out"
    out.mkdir()
    for folder in (*place.parents, place):
        if folder.is_relative_to("/dev/shm") or folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o055)
    for path in (run, *run.rglob("*"), out):
        os.chown(path, NOBODY if path == out else owner, owner, follow_symlinks=False)
        if not path.is_symlink() and path != out:
            path.chmod(0o555 if path.is_dir() else 0o444)
    words = [str(out / "pool.jsonl") if word == "OUT" else word for word in command]
    more = options(seed) if command == ("round",) else []
    done = winnow(*words, "--run", run, *more, before=lambda: _become_nobody(out))
    if command[0] in ("round", "gc"):
        expect("cannot be written" in refused(done, 5), "the line does not say why")
        return "refused with a line"
    if done.code:
        raise Fell(f"exit code {done.code}: {done.err[-300:]}")
    return "works"


def _become_nobody(home: Path) -> None:
    os.environ.update(HOME=str(home), XDG_CACHE_HOME=str(home), TMPDIR=str(home))
    tempfile.tempdir = None
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
