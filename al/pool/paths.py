"""Expands folders, patterns and links to files. Links are followed, but no folder is entered twice."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from al.errors import ConfigError
from al.pool.reading.kinds import READABLE


def files_below(folder: Path, plain_text: bool = False) -> list[str]:
    """Every readable file below a folder, in order of paths, without hidden files.

    `plain_text`: whether .txt files are data. Without a text template they are notes and licences.
    """
    endings = tuple(ending for ending in READABLE if plain_text or not ending.startswith(".txt"))
    return [str(path) for path in _walk(folder) if path.name.lower().endswith(endings) and path.is_file()]


def matching(pattern: str) -> list[str]:
    """The files that match a glob pattern; `**` matches any number of folders."""
    if "**" not in PurePath(pattern).parts:  # glob follows a link to a parent folder forty times
        return [name for name in glob.glob(pattern) if Path(name).is_file()]
    parts = PurePath(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base, rest = Path(*parts[:fixed]), parts[fixed:]
    found = (path for path in _walk(base) if _matches(path.relative_to(base).parts, rest))
    return [str(path) for path in found if path.is_file()]


def _matches(names: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    if not parts or not names:
        return not names and all(part == "**" for part in parts)
    if parts[0] == "**":
        return _matches(names, parts[1:]) or _matches(names[1:], parts)
    return PurePath(names[0]).match(parts[0]) and _matches(names[1:], parts[1:])


def _walk(folder: Path) -> Iterator[Path]:
    entered: set[tuple[int, int]] = set()
    for current, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(current, name) for name in sorted(names) if not name.startswith("."))


def each_once(paths: Iterable[str]) -> list[str]:
    """The paths in order, without those that resolve to an earlier file."""
    return list({os.path.realpath(path): path for path in sorted(set(paths), reverse=True)}.values())[::-1]


def check_within(paths: Iterable[str], root: str | None) -> None:
    """Raise ConfigError for a path outside the folder `root`, after following links."""
    if root is None:
        return
    allowed = os.path.realpath(os.path.expanduser(root))
    for path in paths:
        real = os.path.realpath(path)
        if os.path.commonpath([allowed, real]) != allowed:
            raise ConfigError(
                f"pool.files: {path} resolves to {real}, which is outside pool.root ({allowed}). Name files below that folder, "
                "or change `pool.root`."
            )
