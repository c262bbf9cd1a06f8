"""Whether files are as they were published.

An artifact is checked when a process uses it for the first time (`Artifact.path`), so that a flipped bit is never trained on:

| file         | checked on first use                                     | by `verify` and `doctor` |
|--------------|----------------------------------------------------------|--------------------------|
| below 1 GB   | size, sha256                                             | size, sha256             |
| larger       | size, sha256 of 64 blocks; all of it if its mtime changed | size, sha256             |
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from al.errors import RunStateError
from al.program import PROGRAM

MANIFEST = "manifest.json"
LARGE = 10**9
BLOCK, BLOCKS = 1 << 20, 64
_checked: set[tuple[str, int]] = set()
"""Artifacts that this process has used: the directory and the inode of its manifest, which is another one if it was made again."""


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as a manifest has them; of a large one also its mtime and the sha256 of BLOCKS blocks."""
    size = path.stat().st_size
    found: dict[str, Any] = {"bytes": size, "sha256": sha256_file(path)}
    if size >= LARGE:
        found |= {"mtime_ns": path.stat().st_mtime_ns, "blocks_sha256": _sha256_of_blocks(path, size)}
    return found


def damage(directory: Path, files: Mapping[str, Mapping[str, Any]], whole: bool = True) -> list[str]:
    """What differs between a directory and the `files` of its manifest, one line each; empty when nothing does. Without `whole`, large
    files are checked by their blocks."""
    found = (problem(directory / name, entry, whole) for name, entry in files.items())
    return [line for line in found if line is not None]


def problem(path: Path, entry: Mapping[str, Any], whole: bool = True) -> str | None:
    """How a file differs from its `entry` in a manifest; None if it does not."""
    if not path.is_file():
        return f"{path}: missing"
    if path.stat().st_size != entry["bytes"]:
        return f"{path}: {path.stat().st_size} bytes, the manifest says {entry['bytes']}"
    return None if _same(path, entry, whole) else f"{path}: content differs from the manifest (sha256)"


def _same(path: Path, entry: Mapping[str, Any], whole: bool) -> bool:
    if not whole and entry.get("mtime_ns") == path.stat().st_mtime_ns:
        return _sha256_of_blocks(path, entry["bytes"]) == entry["blocks_sha256"]
    return sha256_file(path) == entry["sha256"]


def _sha256_of_blocks(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for i in range(BLOCKS):
            handle.seek((size - BLOCK) * i // (BLOCKS - 1))
            digest.update(handle.read(BLOCK))
    return digest.hexdigest()


def check_on_first_use(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Check an artifact once in this process.

    Raises:
        RunStateError: a file is missing or differs; names it.
    """
    if is_trusted(directory):
        return
    problems = damage(directory, files, whole=False)
    if problems:
        raise RunStateError(f"{problems[0]}{_more(problems)}. {way_back(directory)}")
    trust(directory)


def is_trusted(directory: Path) -> bool:
    """Whether this process has checked or written an artifact."""
    return _key(directory) in _checked


def trust(directory: Path) -> None:
    """Do not check this artifact again in this process, which has just written it."""
    _checked.add(_key(directory))


def _key(directory: Path) -> tuple[str, int]:
    manifest = directory / MANIFEST
    return str(directory.resolve()), manifest.stat().st_ino if manifest.is_file() else 0


def _more(problems: list[str]) -> str:
    return f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""


def way_back(directory: Path) -> str:
    """What to do about a damaged artifact at `directory`, for an error."""
    run = directory.parents[2] if len(directory.parents) > 2 else Path("DIR")
    return (
        f"It changed after it was published and was not used. Restore it from a backup, or run `{PROGRAM} doctor --run {run} "
        f"--drop-damaged` to forget the artifact and `{PROGRAM} resume --run {run}` to make it again."
    )
