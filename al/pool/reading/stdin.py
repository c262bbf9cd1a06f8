"""Standard input as a file: piped data is kept with the run, so that it has a digest and can be read again."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from al.run.atomic import move_into_place

STDIN = "-"
SPOOLED = re.compile(r"stdin-[0-9a-f]{8}")
"""Name of a file of piped data; it contains the sha256 of its bytes."""
_CHUNK = 2**20


def spool(folder: Path, stream: BinaryIO | None = None) -> Path:
    """Copy standard input (or `stream`) into `folder`, creating it; the same bytes give the same file."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting, digest = folder / "stdin.part", hashlib.sha256()
    stream = stream or sys.stdin.buffer
    with waiting.open("wb") as file:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    spooled = folder / f"stdin-{digest.hexdigest()[:8]}"
    move_into_place(waiting, spooled)
    return spooled


def with_stdin_spooled(names: Iterable[str], folder: Path) -> tuple[str, ...]:
    """The names of sources, with `-` replaced by a file in `folder` with the data of standard input."""
    return tuple(str(spool(folder)) if name == STDIN else name for name in names)
