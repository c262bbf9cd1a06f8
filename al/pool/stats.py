"""The counts of a pool version, as written to pool.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from al.run.artifacts import write_json


@dataclass(frozen=True)
class PoolStats:
    """What an import found; for a grown pool the counts cover all its versions.

    `labelled` examples have a response; `answered` ones have none, but another example is the same conversation with one;
    `unlabelled` are the others without a response. `duplicates` are rows merged into an equal example, `quarantined` counts
    rows by reason, `sources` and `formats` examples by source and rows by format, `adjusted` the changes to conversations
    (see `al.pool.convert`), and `files` one entry per file, of its newest reading: label, sha256 of its bytes, how it was read, rows,
    how many of them are in quarantine, and `formats` and `adjusted` of the others.

    A file that is imported again replaces what was counted of it, but the examples it gave before stay: `examples` may then be more
    than the files hold today.
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

    @property
    def rows(self) -> int:
        """Raw rows of all files, each as it was read last: examples (where no row nests several), duplicates and bad rows."""
        return sum(file["rows"] for file in self.files)

    @classmethod
    def read(cls, pool: Path) -> PoolStats:
        """Read pool.json of a pool directory."""
        return cls(**json.loads((pool / "pool.json").read_text(encoding="utf-8")))

    def write(self, pool: Path) -> None:
        """Write pool.json into a pool directory."""
        write_json(pool / "pool.json", asdict(self))
