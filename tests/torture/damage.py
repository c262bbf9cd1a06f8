"""Each kind of file of a run flipped, cut or deleted: found before use, and mended."""

from __future__ import annotations

import functools
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cases import Case, Fell, expect, row
from world import contents, copy, options, refused, same, sound, succeeds, winnow, world

from al.run.database import DATABASE
from al.run.ownership import EVENTS

DAMAGES = 360
"""A run of two rounds has about 70 kinds of file."""
MOVES = 40
WAYS = ("flipped", "cut", "deleted")
NOT_TRUSTED = {EVENTS, "run.lock.owner"}
"""A log, and a note of who works: read with every line distrusted, and never a source of results while run.db is whole."""


@functools.cache
def _two_rounds(seed: int) -> Path:
    """A run of two rounds, under the name that its copies have too."""
    folder = tempfile.mkdtemp(dir=world().parent)
    run = Path(folder) / "run"
    for _ in range(2):
        succeeds("round", "--run", run, *options(seed))
    return run


@functools.cache
def _three_rounds(seed: int) -> dict[str, str]:
    """What a copy of it holds after another round."""
    with tempfile.TemporaryDirectory(dir=world().parent) as folder:
        run = copy(_two_rounds(seed), Path(folder))
        succeeds("round", "--run", run, *options(seed))
        return contents(run)


def _kinds(run: Path) -> dict[str, list[Path]]:
    """{kind: files} of a run: by stage and name for artifacts, by name for the rest."""
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file() and not p.is_symlink()):
        parts = path.relative_to(run).parts
        if path.stat().st_size and parts[0] not in ("scratch", "trash", "run.lock"):
            kind = "/".join((parts[1], *parts[3:])) if parts[0] == "artifacts" else "/".join(parts)
            found.setdefault(kind, []).append(path.relative_to(run))
    return found


@row(
    "damaged files",
    "each kind of file of a run flipped, cut or deleted",
    "found before use, a line and no traceback, mended to the same bytes, the next round is the same",
)
def _damaged(seed: int) -> Iterator[Case]:
    for number in range(DAMAGES):
        yield Case(f"damage {number} seed={seed}", functools.partial(_mended, seed, number))


def spoil(path: Path, way: str, rng: random.Random) -> None:
    """Flip a bit of a file, cut it, or delete it."""
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    if way == "deleted":
        path.unlink()
        return
    if way == "flipped":
        content[at] ^= 1 << rng.randrange(8)
    else:
        del content[at:]
    path.write_bytes(content)


def _mended(seed: int, number: int, folder: Path) -> str:
    run = copy(_two_rounds(seed), folder)
    kinds, way = _kinds(run), WAYS[number % len(WAYS)]
    name = sorted(kinds)[number // len(WAYS) % len(kinds)]
    rng = random.Random(f"{seed} {name} {way} {number}")
    path = rng.choice(kinds[name])
    spoil(run / path, way, rng)
    try:
        return f"{_found_and_mended(run, path, seed)} ({way})"
    except Fell as fell:
        raise Fell(f"{path} {way}: {fell}") from None


def _found_and_mended(run: Path, path: Path, seed: int) -> str:
    used = winnow("round", "--run", run, *options(seed))
    found = winnow("doctor", "--run", run, "--json")
    expect("Traceback" not in found.err, f"a traceback from doctor: {found.err[-300:]}")
    if used.code:
        line = refused(used, 5)
        expect(path.name in line or path.parent.name in line, f"the line does not name the file: {line}")
        expect(found.code == 5, f"doctor ended with {found.code}")
    mend(run, found.code, path.name == DATABASE)
    succeeds("doctor", "--run", run)
    if not (run / "rounds/003/report.html").exists():  # else `resume` has finished it
        succeeds("round", "--run", run, *options(seed))
    sound(run)
    made, wanted = contents(run), _three_rounds(seed)
    if path.parts[0] == "artifacts" and not (run / Path(*path.parts[:3])).exists():  # only a round under way needed it
        wanted = {name: sha256 for name, sha256 in wanted.items() if Path(name).parts[:2] != path.parts[1:3]}
    same(made, wanted)
    if used.code == 0 and found.code == 0:
        expect(path.name in NOT_TRUSTED or path.name == DATABASE, "nobody noticed")
        return "a file whose content nothing depends on"
    return "found before use" if used.code else "not used, found by doctor"


def mend(run: Path, found: int, database: bool) -> None:
    """What the messages say: `repair` for run.db, `doctor --drop-damaged` and `resume` for the rest."""
    if found == 0:
        return
    succeeds("repair", "--run", run) if database else succeeds("doctor", "--run", run, "--drop-damaged")
    while (again := winnow("resume", "--run", run, "--json")).code == 0:
        pass
    expect(re.search(r"nothing to resume", again.err), f"resume ended with {again.code}: {again.err[-300:]}")


@row("moved runs", f"a run of two rounds exported and imported, {MOVES} times, once in two with a bit of the archive flipped",
     "the next round is the same as at home; a flipped archive is refused and leaves nothing")  # fmt: skip
def _moved(seed: int) -> Iterator[Case]:
    for number in range(MOVES):
        yield Case(f"move {number} seed={seed}", functools.partial(_moves, seed, number), "moved")


def _moves(seed: int, number: int, place: Path) -> str:
    archive, run = place / "run.tar", place / "run"
    succeeds("export-run", archive, "--run", _two_rounds(seed))
    if number % 2:
        spoil(archive, "flipped", random.Random(f"{seed} {number}"))
        done = winnow("import-run", archive, "--run", run)
        if done.code:
            refused(done, 3)
            expect(not run.exists(), "something was left")
            return "flipped: refused"
    else:
        succeeds("import-run", archive, "--run", run)
    succeeds("doctor", "--run", run)
    succeeds("round", "--run", run, *options(seed))
    sound(run)
    same(contents(run), _three_rounds(seed))
    return "flipped where nothing depends on it" if number % 2 else "moved"
