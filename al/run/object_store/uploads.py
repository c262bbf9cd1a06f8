"""What a run has on its store, from events.jsonl: an event comes before an upload, and after what else it says is done.

| event              | says                                             | without a row in run.db the folder is        |
|--------------------|--------------------------------------------------|----------------------------------------------|
| `store.used`       | artifacts of this run go to `url`                |                                              |
| `store.upload`     | the upload of `folder` begins                    | left by a kill: `gc` lists and deletes it    |
| `store.published`  | the row that vouches for `folder` is written     | newer than run.db: nothing is done           |
| `store.forgotten`  | its row is dropped next: it is damaged           | `gc` lists and deletes it                    |
| `store.deleted`    | `gc` has deleted it                              |                                              |

Only folders of which these events speak are ever deleted. So a copy of a run, which has its id and its store, loses nothing to the other.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from al.errors import EnvironmentProblem
from al.run.integrity import MANIFEST
from al.run.object_store.objects import ObjectStore, folder_name
from al.run.ownership import EVENTS, events_with
from al.terminal import show

UPLOAD, PUBLISHED, FORGOTTEN, DELETED, USED = (
    f"store.{what}" for what in ("upload", "published", "forgotten", "deleted", "used")
)
Row = tuple[str, str, str]
"""Stage, fingerprint, sha256 of the manifest: what run.db has of an artifact."""
Log = Callable[..., None]
"""`Run.event`."""


def last_events(run: Path) -> dict[str, str]:
    """{folder: the last event about it} of everything that this run has uploaded and not deleted."""
    found: dict[str, str] = {}
    for event in events_with(run / EVENTS, '"event": "store.'):
        if "folder" in event:
            found[event["folder"]] = event["event"]
    return {folder: event for folder, event in found.items() if event != DELETED}


def note(store: ObjectStore | None, log: Log, event: str, row: Row) -> None:
    """Write one of these events, if the run has a store."""
    if store is not None:
        log(event, folder=folder_name(*row))


def upload(store: ObjectStore | None, log: Log, row: Row, sealed: Path) -> None:
    """Copy a sealed directory, which `row` is going to vouch for, to the store of a run, if it has one. Raises EnvironmentProblem."""
    if store is not None:
        store.require()  # a file system that is not mounted any more would be filled from below
        note(store, log, UPLOAD, row)
        store.upload(folder_name(*row), sealed)


def withdraw(store: ObjectStore) -> None:
    """Delete what a run that is gone has there. That it fails is reported, because it happens while another error ends the command."""
    try:
        store.delete()
    except EnvironmentProblem as error:
        show(f"note: left on the store: {error}", file=sys.stderr)


def left_over(run: Path, store: ObjectStore, rows: Iterable[Row]) -> dict[str, int]:
    """{folder: bytes} of what no row vouches for and `gc` may delete: uploads that a kill cut off, and artifacts that were forgotten."""
    listed = {folder_name(*row) for row in rows}
    ours = (folder for folder, event in last_events(run).items() if event != PUBLISHED and folder not in listed)
    sizes = {folder: store.size(folder) for folder in ours}
    return {folder: size for folder, size in sorted(sizes.items()) if size is not None}


def newer_than_database(run: Path, rows: Iterable[Row]) -> list[Path]:
    """Where artifacts lie, in the run, that were published to the store according to events.jsonl, and have no row: run.db is older."""
    keys = {row[:2] for row in rows}
    published = {_key(folder) for folder, event in last_events(run).items() if event == PUBLISHED}
    return [run / "artifacts" / stage / key for stage, key in sorted(published - keys)]


def leave(run: Path) -> None:
    """Write down that the copy of a run at `run` has its artifacts in its folder, and no store."""
    if used_by(run) is not None:
        _append(run, USED, url=None)


def forget_missing(run: Path, present: Collection[tuple[str, str]]) -> list[str]:
    """Write down as forgotten what was published to the store of a run without its database, and of which no publication is there any more.

    Args:
        present: stage and fingerprint of what is.

    Returns:
        Folders.
    """
    published = [folder for folder, event in last_events(run).items() if event == PUBLISHED]
    missing = [folder for folder in published if _key(folder) not in present]
    for folder in missing:
        _append(run, FORGOTTEN, folder=folder)
    return missing


def _append(run: Path, event: str, **fields: Any) -> None:
    """An event of a run that is not open."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields})
    with (run / EVENTS).open("a", encoding="utf-8") as events:
        events.write(line + "\n")


def _key(folder: str) -> tuple[str, str]:
    """Stage and fingerprint of what was published in a folder."""
    stage, _, name = folder.partition("/")
    return stage, name.partition("-")[0]


def used_by(run: Path) -> ObjectStore | None:
    """The store of a run without its database; None if it has none."""
    urls = [event.get("url") for event in events_with(run / EVENTS, f'"{USED}"')]
    return ObjectStore(urls[-1]) if urls and urls[-1] else None


def bring_manifests(run: Path, store: ObjectStore) -> None:
    """Put into the run's folder the manifest of every artifact that is whole on the store, of several publications the newest. Raises
    EnvironmentProblem."""
    store.require()
    newest: dict[Path, tuple[str, bytes]] = {}
    for folder in store.whole_folders():
        content = store.read(f"{folder}/{MANIFEST}")
        stage, key = _key(folder)
        made = _made(content)
        cache = run / "artifacts" / stage / key
        if made is not None and folder == folder_name(stage, key, hashlib.sha256(content).hexdigest()):
            newest[cache] = max(newest.get(cache, ("", b"")), (made, content))
    for cache, (made, content) in newest.items():
        here = cache / MANIFEST
        if not here.is_file() or (_made(here.read_bytes()) or "") < made:
            cache.mkdir(parents=True, exist_ok=True)
            here.write_bytes(content)


def _made(manifest: bytes) -> str | None:
    try:
        return str(json.loads(manifest)["created"])
    except (ValueError, KeyError, TypeError):
        return None
