"""Whether a disk does what runs rely on: flushing, renaming, locking."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import filelock

from al.run.atomic import replaced

PROBE = 1 << 16


def nearest_folder(path: Path) -> Path:
    """`path` if it is a folder, else the nearest one above it: where what is written to `path` will lie."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def probe_disk(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Facts about the disk that holds `folder`, and what does not work there. Writes a file of 64 KiB and removes it again.

    Returns:
        ({"free disk GiB", "fsync ms": of that file with its rename, None where nothing can be written}, [text]).
    """
    facts: dict[str, Any] = {"free disk GiB": round(shutil.disk_usage(folder).free / 2**30, 1), "fsync ms": None}
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place:
            started = time.perf_counter()
            with replaced(Path(place) / "probe") as temporary:
                temporary.write_bytes(bytes(PROBE))
            facts["fsync ms"] = round(1000 * (time.perf_counter() - started), 1)
            locked = _locks(Path(place) / "lock")
    except OSError as error:
        return facts, [f"{folder}: nothing can be written, flushed or locked here ({error.strerror or error})"]
    if not locked:
        return facts, [f"{folder}: file locks have no effect here, so two rounds could write one run; use another disk"]
    return facts, []


def _locks(path: Path) -> bool:
    """Whether a lock keeps a second one out."""
    with filelock.FileLock(path):
        try:
            with filelock.FileLock(path).acquire(timeout=0):
                return False
        except filelock.Timeout:
            return True
