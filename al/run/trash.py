"""The trash of a run: what a killed process left, and artifacts found damaged. Only `gc` deletes it, after showing it."""

from __future__ import annotations

import datetime
import shutil
from dataclasses import dataclass
from pathlib import Path

from al.errors import RunStateError

TRASH = "trash"


@dataclass(frozen=True)
class Discarded:
    """One entry of the trash: its name, which begins with the time at which it was moved there (UTC), and its size."""

    name: str
    bytes: int


def discard(run: Path, path: Path) -> Path:
    """Move `path`, a file or directory inside `run`, into the trash; returns where it is now. A link is moved, not followed."""
    folder = run / TRASH
    if folder.is_symlink():
        raise RunStateError(
            f"{folder}: expected a directory, found a link. Remove the link; Winnow does not follow it."
        )
    folder.mkdir(exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    name = "-".join(part.removeprefix(".") for part in path.relative_to(run).parts if part != "artifacts")
    final, again = folder / f"{stamp}-{name}", 1
    while final.exists() or final.is_symlink():
        again += 1
        final = folder / f"{stamp}-{name}-{again}"
    return path.rename(final)


def contents(run: Path) -> list[Discarded]:
    """Everything in the trash, oldest first."""
    folder = run / TRASH
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [Discarded(path.name, _size(path)) for path in sorted(folder.iterdir())]


def delete(run: Path, names: list[str]) -> None:
    """Delete these entries of the trash for good. Links inside are removed, what they point to stays."""
    for name in names:
        path = run / TRASH / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _size(path: Path) -> int:
    files = [path] if path.is_symlink() or not path.is_dir() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())
