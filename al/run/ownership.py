"""What in a run directory belongs to the run. Winnow moves or replaces only that, and never on the word of run.db alone.

Unlisted are the entries of `artifacts/` that no row of run.db vouches for:

| entry                                                        | is                       | what happens             |
|--------------------------------------------------------------|--------------------------|--------------------------|
| `.tmp-<stage>-<fingerprint>/`                                | a build that was killed  | to the trash             |
| has a manifest of this run, events.jsonl says it was started | killed before its row    | to the trash             |
| has a manifest of this run, events.jsonl says anything else  | newer than run.db        | the run is not opened    |
| anything else: files, links, folders of other programs, runs | foreign                  | left untouched; `doctor` |
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from al.errors import RunStateError
from al.program import PROGRAM
from al.run import database
from al.run.artifacts import fingerprint
from al.run.database import DATABASE, WAL
from al.run.integrity import MANIFEST

EVENTS = "events.jsonl"
LEFT_BY_A_START = {DATABASE, WAL, "run.db-shm", "run.db-journal", "run.lock", "run.lock.owner"}
"""What a process may leave that was killed while it made a run directory."""
OF_A_RUN = LEFT_BY_A_START | {
    EVENTS,
    "progress.json",
    "artifacts",
    "scratch",
    "trash",
    "rounds",
    "labelling",
    "tracking",
}
OF_A_RUN |= {"stdin", "run.db.new", "comparison.json", "comparison.html", "pool.html"}
OF_A_ROUND = {"report.html", "summary.json", "details.json", "config.json", "review"}
SCRATCH, UNFINISHED = re.compile(r".+-[0-9a-f]{20}"), re.compile(r"\..+\.\d+\.tmp")
TEMPORARY = re.compile(r"\.tmp-.+-[0-9a-f]{20}")
TRAINING = re.compile(r"train-[0-9a-f]{20}")
SHOWN = 4
OF_WRONG_INPUT = (2, 3)
"""Exit codes of errors in the config and in the data (al.errors)."""
READ_AGAIN = {"pool", "tokens", "languages", "cleaned"}
"""Stages before the costly ones: what they made of wrong input is made again from the corrected one."""


@dataclass(frozen=True)
class Unlisted:
    """Entries of `artifacts/` without a row, as the module's table has them: killed builds, artifacts newer than run.db, others."""

    killed: tuple[Path, ...]
    newer: tuple[Path, ...]
    foreign: tuple[Path, ...]


def is_run(path: Path) -> bool:
    """Whether there is a run at `path`; False when a run may be made there. Reads only.

    Raises:
        RunStateError: the directory holds something, but no run.db of Winnow.
    """
    if not path.exists() and not path.is_symlink():
        return False
    if not path.is_dir():
        raise RunStateError(f"{path}: expected a directory for the run, found a file. Give another --run.")
    state = database.state(path)
    if state == "ours":
        return True
    found = sorted(entry.name for entry in os.scandir(path))
    if state == "damaged":
        raise RunStateError(
            f"{path / DATABASE}: the database is damaged. Nothing was changed, and the artifacts next to it are as they were. Restore "
            f"run.db together with run.db-wal from a backup, or make it again with `{PROGRAM} repair --run {path}`."
        )
    if state == "other":
        raise RunStateError(
            f"{path / DATABASE}: expected the database of a run, found a file that Winnow did not make or that is damaged. "
            f"Nothing was changed. Restore run.db from a copy, or give another --run."
        )
    wal = path / WAL
    others = [name for name in found if name not in LEFT_BY_A_START or (name == WAL and wal.stat().st_size)]
    if not others:
        return False
    lost = "empty" if (path / DATABASE).is_file() else "missing"
    manifests = sum(1 for _ in path.glob(f"artifacts/*/*/{MANIFEST}"))
    stored = any(event.get("url") for event in events_with(path / EVENTS, '"store.used"'))
    if manifests or stored or others == [WAL]:
        raise RunStateError(
            f"{path}: run.db is {lost}, but {manifests} artifacts of a run are here{stored * ', more are on its store'}. Nothing was "
            f"changed. Restore run.db together with run.db-wal from where this directory was copied or backed up, or make it again with "
            f"`{PROGRAM} repair --run {path}`."
        )
    raise RunStateError(
        f"{path}: expected a run or an empty directory, found {_some(others)}. Nothing was changed. Give another --run."
    )


def nearby(path: Path) -> str:
    """Runs that may be meant instead of `path`, where there is none: " (runs here: runs/demo)", the most similar name first; else ""."""
    found = {
        str(entry.parent) for folder in (path.parent, Path("runs"), Path()) for entry in folder.glob(f"*/{DATABASE}")
    }
    if not found:
        return ""
    close = difflib.get_close_matches(path.name, [Path(name).name for name in found], n=SHOWN, cutoff=0.5)
    names = sorted(found, key=lambda name: (close.index(Path(name).name) if Path(name).name in close else SHOWN, name))
    return f" (runs here: {_some(names)})"


def check_name(path: Path) -> None:
    """Raise RunStateError for a run directory whose path is not UTF-8: Arrow and safetensors can open no file in it."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise RunStateError(f"{path}: expected a path in UTF-8, found other bytes in it. Give another --run.") from None


def unlisted(run: Path, run_id: str | None, listed: Iterable[tuple[str, str]]) -> Unlisted:
    """The entries of `run`/artifacts that are not among `listed` (stage, fingerprint). Links are reported and never followed.

    `run_id` is None for a run of an earlier version, whose manifests name no run: they are its own if its events know them.
    """
    root, known = run / "artifacts", set(listed)
    killed: list[Path] = []
    foreign: list[Path] = []
    own: list[tuple[Path, dict[str, Any]]] = []
    for stage in _entries(root):
        if not stage.is_dir(follow_symlinks=False):
            foreign.append(Path(stage.path))
        elif TEMPORARY.fullmatch(stage.name):
            killed.append(Path(stage.path))
        else:
            for entry in _entries(Path(stage.path)):
                if (stage.name, entry.name) in known:
                    continue
                manifest = _manifest(entry, stage.name)
                if manifest is None:
                    foreign.append(Path(entry.path))
                else:
                    own.append((Path(entry.path), manifest))
    last = _last_events(run / EVENTS, {path.name for path, _ in own}) if own else {}
    newer = []
    for path, manifest in own:
        event = last.get(path.name)
        if manifest.get("run") != run_id if "run" in manifest else event is None:
            foreign.append(path)
        else:
            (killed if event == "stage.started" else newer).append(path)
    return Unlisted(tuple(killed), tuple(newer), tuple(sorted(foreign)))


def remove_failed_start(run: Path, made: Iterable[Path], wrong_input: bool = False) -> None:
    """Remove what a process made for a new run and holds nothing: its files of a start, and of the folders `made` those that are then
    empty, innermost first. Nothing is removed if it has an artifact or scratch, or anything else is in the directory.

    `wrong_input`: it was a round that ended because its data or config was wrong. A pool that it had only read and tokenized goes too: it
    cannot be used as it is, and the corrected file would be refused as changed.
    """
    stages = _entries(run / "artifacts")
    if wrong_input and {stage.name for stage in stages} <= READ_AGAIN:
        for stage in stages:
            if not stage.is_symlink():
                shutil.rmtree(stage.path)
    folders = [*(Path(entry.path) for entry in _entries(run / "scratch")), run / "scratch", run / "artifacts"]
    files = {entry.name for entry in _entries(run)} - {"scratch", "artifacts"}
    if not files <= LEFT_BY_A_START | {EVENTS}:
        return
    with suppress(OSError):  # a folder that is not empty holds somebody's work
        for folder in folders:
            if folder.is_dir():
                folder.rmdir()
        for name in files:
            (run / name).unlink()
        for folder in made:
            folder.rmdir()


def strangers(run: Path, roles: Mapping[int, Collection[str]]) -> list[Path]:
    """What lies in a run directory outside artifacts/ and Winnow does not make. `roles`: those of each round, whose links are its own."""
    found = [
        Path(entry.path)
        for entry in _entries(run)
        if entry.name not in OF_A_RUN and not UNFINISHED.fullmatch(entry.name)
    ]
    found += [Path(entry.path) for entry in _entries(run / "scratch") if not SCRATCH.fullmatch(entry.name)]
    for entry in _entries(run / "rounds"):
        if not entry.name.isdecimal() or int(entry.name) not in roles or not entry.is_dir(follow_symlinks=False):
            found.append(Path(entry.path))
            continue
        ours = {*roles[int(entry.name)], *OF_A_ROUND}
        found += [Path(file.path) for file in _entries(Path(entry.path)) if file.name not in ours]
    return found


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    """Entries of a directory by name; none of one that is a link or not there."""
    if directory.is_symlink() or not directory.is_dir():
        return []
    with os.scandir(directory) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def own_artifacts(run: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """{(stage, fingerprint): manifest} of every whole artifact that a run wrote here, whatever run.db says."""
    found = {}
    for stage in _entries(run / "artifacts"):
        if stage.is_dir(follow_symlinks=False) and not TEMPORARY.fullmatch(stage.name):
            for entry in _entries(Path(stage.path)):
                manifest = _manifest(entry, stage.name)
                if manifest is not None:
                    found[stage.name, entry.name] = manifest
    return found


def _manifest(entry: os.DirEntry[str], stage: str) -> dict[str, Any] | None:
    """The manifest of an artifact, if the directory has one that belongs to its own name; otherwise None."""
    path = Path(entry.path) / MANIFEST
    if not entry.is_dir(follow_symlinks=False) or path.is_symlink() or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        key = fingerprint(stage, found["version"], found["inputs"], found["params"])
        return found if found["stage"] == stage and found["fingerprint"] == entry.name == key else None
    except (ValueError, KeyError, TypeError):
        return None


def abandoned_scratch(run: Path) -> list[Path]:
    """Folders of scratch/ with a training that no command can continue: a round was finished after it was last started.

    Of a round under way, and of fine-tuning without rounds, the same config continues it.
    """
    folders = [entry for entry in _entries(run / "scratch") if TRAINING.fullmatch(entry.name)]
    names = {
        entry.name.removeprefix("train-"): Path(entry.path) for entry in folders if entry.is_dir(follow_symlinks=False)
    }
    started: dict[str, bool] = {}
    for event in events_with(run / EVENTS, '"round.done"', *names) if names else ():
        if event.get("event") == "round.done":
            started = dict.fromkeys(started, True)
        elif event.get("event") == "stage.started" and event.get("fingerprint") in names:
            started[event["fingerprint"]] = False
    return [names[name] for name, over in started.items() if over]


def events_with(path: Path, *words: str) -> Iterator[dict[str, Any]]:
    """Events of events.jsonl, oldest first, whose line has one of these words."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if any(word in line for word in words):
                with suppress(ValueError):  # the end of a process that was killed while it wrote
                    yield json.loads(line)


def _last_events(path: Path, fingerprints: set[str]) -> dict[str, str]:
    """The last `stage.…` event of each fingerprint in events.jsonl."""
    found = (event for event in events_with(path, *fingerprints) if event.get("fingerprint") in fingerprints)
    return {event["fingerprint"]: event["event"] for event in found if event["event"].startswith("stage.")}


def refuse_newer(run: Path, newer: Iterable[Path]) -> None:
    """Raise RunStateError if there are artifacts that run.db should know and does not."""
    names = [str(path.relative_to(run / "artifacts")) for path in newer]
    if names:
        raise RunStateError(
            f"{run}: run.db is older than the artifacts next to it: it does not know {_some(names)}. Nothing was changed. Restore "
            f"run.db together with run.db-wal from where this directory was copied or backed up; or make run.db again with `{PROGRAM} "
            f"repair --run {run}`; or move the named folders out of {run / 'artifacts'} to go on from what run.db knows."
        )


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
