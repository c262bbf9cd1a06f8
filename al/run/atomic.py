"""Files a user asked for at a path of their own: whole there, or not there at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from al.errors import ConfigError, EnvironmentProblem


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to. When the block ends it replaces `path`; when it fails it is removed.

    Raises:
        ConfigError: the folder of `path` does not exist, or `path` is a folder.
        EnvironmentProblem: the file cannot be written (disk full, no permission).
    """
    if path.is_dir() or not path.parent.is_dir():
        found = "is a folder" if path.is_dir() else f"lies in a folder that does not exist ({path.parent})"
        raise ConfigError(
            f"{path}: expected the path of a file to write, but it {found}. Make the folder, or name another."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be written ({error.strerror or error}).") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` as `written_whole` does."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
