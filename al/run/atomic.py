"""Files that are there as a whole or not at all: written next to their place, flushed to the disk, renamed. Everything in `al` that
replaces a single file goes through here; directories are published by `al.run.artifacts`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        raise EnvironmentProblem(f"{path}: cannot be written ({error.strerror or error}).") from None


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` as `written_whole` does."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
