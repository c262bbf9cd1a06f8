"""The counts of a pool version, stored in pool.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from al.run.artifacts import write_json


@dataclass(frozen=True)
class PoolStats:
    """The counts of a pool; after several imports they cover all versions.

    `labelled` examples have a response; `answered` ones have none, but another example is the same conversation with one;
    `unlabelled` are the others without a response. `duplicates` are rows merged into an equal row, `merged_after_conversion` rows
    with the same conversation as an example and other fields outside it. `quarantined` counts rows by reason, `sources` and
    `formats` examples by source and rows by format, `adjusted` the changes to conversations (see `al.pool.convert`), and `files`
    one entry per file, of its latest import: label, sha256 of its bytes, reading settings, rows, number of quarantined rows,
    `formats` and `adjusted` of the others, and `leftovers` (`al.pool.formats.leftovers`). `skipped` are files without a usable row
    that were found in a folder: file and reason.

    Importing a file again replaces its counts, but its earlier examples stay. `examples` may then exceed the current content of
    the files.
    """

    examples: int
    labelled: int
    unlabelled: int
    duplicates: int
    quarantined: dict[str, int]
    sources: dict[str, int]
    formats: dict[str, int]
    adjusted: dict[str, int]
    files: list[dict[str, Any]]
    answered: int = 0
    merged_after_conversion: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Raw rows of all files in their latest import: examples (unless a row nests several), duplicates and bad rows."""
        return sum(file["rows"] for file in self.files)

    @classmethod
    def read(cls, pool: Path) -> PoolStats:
        """The counts in pool.json of a pool directory."""
        return cls(**json.loads((pool / "pool.json").read_text(encoding="utf-8")))

    def write(self, pool: Path) -> None:
        """Write pool.json into a pool directory."""
        write_json(pool / "pool.json", asdict(self))
