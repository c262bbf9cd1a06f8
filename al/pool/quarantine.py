"""Unusable rows, kept on disk during an import: a file with only bad rows must not fill the memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al.pool.formats import RowError

QUARANTINE = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("snippet", pa.string()),
    ]
)
TABLE = "quarantine.parquet"
SNIPPET = 200
_BUFFERED = 8_192
_LONGEST_MESSAGE = 500


class Quarantine:
    """Collects bad rows in reading order. The caller removes `folder`."""

    def __init__(self, folder: Path):
        self.count = 0
        self._path = folder / "quarantine.arrow"
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, QUARANTINE)
        self._rows: list[tuple[str, int, str, str, str]] = []

    def add(self, file: str, line: int, error: RowError, raw: Any) -> None:
        """Add a row of `file`; `raw` is the source of its snippet."""
        self.count += 1
        self._rows.append((file, line, error.reason, _storable(str(error)[:_LONGEST_MESSAGE]), snippet(raw)))
        if len(self._rows) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else [[]] * len(QUARANTINE)
        arrays = [pa.array(values, type=field.type) for values, field in zip(columns, QUARANTINE, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=QUARANTINE))
        self._rows = []

    def close(self) -> None:
        """Close the file on disk; no more rows can be added."""
        self._flush()
        self._writer.close()
        self._sink.close()

    def write(self, out: Path, previous: Path | None, read: set[str]) -> None:
        """Write the table of pool `out`: rows of pool `previous` from files that are not in `read`, then the new rows."""
        with pq.ParquetWriter(out / TABLE, QUARANTINE, compression="zstd") as writer:
            for batch in _earlier(previous / TABLE, read) if previous else ():
                writer.write_batch(batch)
            with pa.OSFile(str(self._path)) as file, pa.ipc.open_stream(file) as reader:
                for batch in reader:
                    writer.write_batch(batch)


def _earlier(previous: Path, read: set[str]) -> Iterator[pa.RecordBatch]:
    forgotten = pa.array(sorted(read), pa.string())
    with pq.ParquetFile(previous) as file:
        for batch in file.iter_batches(batch_size=_BUFFERED):
            yield batch.filter(pc.invert(pc.is_in(batch.column("file"), value_set=forgotten)))


def snippet(raw: Any) -> str:
    """The start of a raw row on one line, at most 200 characters, with control characters and bad bytes escaped."""
    if isinstance(raw, bytes):
        raw = raw[: 4 * SNIPPET].decode("utf-8", errors="backslashreplace")
    elif not isinstance(raw, str):
        try:
            raw = json.dumps(raw, ensure_ascii=False, default=str)
        except (ValueError, TypeError, RecursionError):
            raw = ""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw[:SNIPPET])[:SNIPPET]


def _storable(message: str) -> str:
    return message.encode("utf-8", "backslashreplace").decode()
