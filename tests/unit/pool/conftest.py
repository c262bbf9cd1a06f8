"""A folder of files, imported: what the pool's tests look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from al.config.pool import PoolConfig
from al.pool.importer import import_pool
from al.pool.sources import find_sources
from al.pool.stats import PoolStats
from al.pool.store import Pool


@dataclass(frozen=True)
class Imported:
    """A pool directory and its tables."""

    path: Path
    stats: PoolStats

    @property
    def pool(self) -> Pool:
        return Pool.open(self.path)

    @property
    def conversations(self) -> list[list[tuple[str, str]]]:
        return [[(m["role"], m["content"]) for m in messages] for messages in self.pool.iter_messages()]

    @property
    def only(self) -> list[tuple[str, str]]:
        """The one conversation there is."""
        (conversation,) = self.conversations
        return conversation

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        return pq.read_table(self.path / "quarantine.parquet").to_pylist()

    @property
    def refused(self) -> list[tuple[str, str]]:
        """("file:line", reason) per unusable row."""
        return [(f"{row['file']}:{row['line']}", row["reason"]) for row in self.quarantine]

    @property
    def duplicates(self) -> list[tuple[str, str]]:
        """(origin, kept origin) per merged row."""
        return [
            (row["origin"], row["kept_origin"]) for row in pq.read_table(self.path / "duplicates.parquet").to_pylist()
        ]


Content = bytes | str | list


def content_bytes(content: Content) -> bytes:
    """A file's bytes: as given, or one JSON line per row."""
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    return content.encode() if isinstance(content, str) else content


@pytest.fixture
def importing(tmp_path: Path) -> Callable[..., Imported]:
    """importing({file name: bytes, text or rows}, previous=Imported, strict=False, **pool config) → Imported."""
    number = 0

    def run(
        files: Mapping[str, Content], *, previous: Imported | None = None, strict: bool = False, **config: Any
    ) -> Imported:
        nonlocal number
        number += 1
        folder, out = tmp_path / f"input-{number}" / "in", tmp_path / f"pool-{number}"
        out.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content_bytes(content))
        sources = find_sources(PoolConfig(files=[str(folder)], **config))
        stats = import_pool(sources, out, previous=previous.path if previous else None, strict=strict)
        return Imported(out, stats)

    return run


@pytest.fixture
def importing_one(tmp_path: Path) -> Callable[..., Imported]:
    """importing_one(file name, content, **pool config) → Imported, the file named by itself rather than by its folder."""

    def run(name: str, content: Content, **config: Any) -> Imported:
        out = tmp_path / "pool"
        out.mkdir()
        (tmp_path / name).write_bytes(content_bytes(content))
        return Imported(out, import_pool(find_sources(PoolConfig(files=[str(tmp_path / name)], **config)), out))

    return run


@pytest.fixture
def good() -> dict[str, str]:
    """A row that can be used."""
    return {"question": "What is two and two?", "answer": "Four."}
