"""Files and folders that are there as a whole or not at all: written next to their place, flushed to the disk, renamed. Everything in
`al` that replaces a single file goes through here; a run's directories are published by `al.run.artifacts`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from al.errors import ConfigError, EnvironmentProblem


def fsync_path(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each of them on the disk when this returns."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        fsync_path(path.parent)


def move_into_place(temporary: Path, path: Path, durable: bool = True) -> None:
    """Rename `temporary`, a finished file of the same folder, to `path`, which it replaces; on the disk when this returns.

    Args:
        durable: False for a file that need not survive a power failure; the rename is atomic all the same.
    """
    if durable:
        fsync_path(temporary)
    temporary.replace(path)
    if durable:
        fsync_path(path.parent)


@contextmanager
def replaced(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary path next to `path` to write to. When the block ends it replaces `path`; when it fails it is removed.

    Args:
        durable: as for `move_into_place`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        move_into_place(temporary, path, durable)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """`replaced` for a path that a user named.

    Raises:
        ConfigError: the folder of `path` does not exist, or `path` is a folder.
        EnvironmentProblem: the file cannot be written (disk full, no permission).
    """
    if path.is_dir() or not path.parent.is_dir():
        found = "is a folder" if path.is_dir() else f"is in a folder that does not exist ({path.parent})"
        raise ConfigError(
            f"{path}: expected the path of a file to write, but it {found}. Make the folder, or name another."
        )
    try:
        with replaced(path) as temporary:
            yield temporary
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be written ({_said(error)}).") from None


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` as `written_whole` does."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """A new folder next to `path` to write to. When the block ends it takes the place of `path`, a folder or nothing; when it fails it is
    removed. What killed processes left of earlier attempts is removed first.

    Raises:
        EnvironmentProblem: it cannot be written (disk full, no permission).
    """
    try:
        make_folder(path.parent)
        _remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.mkdir()
        try:
            yield temporary
            for written in sorted(temporary.rglob("*")):
                if written.is_file():
                    written.chmod(
                        temporary.stat().st_mode & 0o666
                    )  # safetensors writes files that nobody else may read
                fsync_path(written)
            fsync_path(temporary)
            _exchange(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be written ({_said(error)}).") from error


def _said(error: OSError) -> str:
    """What the system said. numpy drops that when it writes less than it should."""
    return error.strerror or f"the disk is full, or fails: {error}"


def _exchange(temporary: Path, path: Path) -> None:
    before = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    if path.exists():
        path.rename(before)
    try:
        temporary.rename(path)
    except OSError:
        if before.exists():
            before.rename(path)
        raise
    fsync_path(path.parent)
    shutil.rmtree(before, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    for found in path.parent.glob(".*.tmp"):
        match = re.fullmatch(rf"\.{re.escape(path.name)}\.(\d+)(\.old)?\.tmp", found.name)
        if match and not psutil.pid_exists(int(match[1])):
            if match[2] and not path.exists():
                found.rename(path)  # killed between the two renames
            else:
                shutil.rmtree(found, ignore_errors=True)
