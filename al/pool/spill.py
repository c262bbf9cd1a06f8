"""External sort of records by id: memory stays bounded however large the pool is.

    add(record) … → a buffer of columns ──full──▶ sorted run on disk (Arrow, memory-mapped)
    tables()      → for each range of ids: the slice of every run, sorted together, exact duplicates merged

Ids are uniform hashes, so equal ranges of them hold nearly equal numbers of rows. In memory are one buffer (about 64 MiB) and
one range (about 32,768 rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al.pool.convert import Record

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
EXAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("messages", pa.list_(MESSAGE)),
        ("alternatives", pa.list_(pa.string())),
        ("labelled", pa.bool_()),
        ("origin", pa.string()),
        ("metadata", pa.string()),
    ]
)
DUPLICATES = pa.schema([("id", pa.string()), ("origin", pa.string()), ("kept_origin", pa.string())])
# Among equal ids the first in this order is kept: what an earlier pool version holds, then by file, line, example of the row.
_ORDER = [("fresh", pa.int8()), ("file", pa.string()), ("line", pa.int64()), ("part", pa.int32())]
_RUN = pa.schema([*EXAMPLES, *_ORDER])
_SORT_KEYS = [("id", "ascending"), *((name, "ascending") for name, _ in _ORDER)]

_NONE: list[str] = []

BUFFER_BYTES = 64 * 2**20
ROW_BYTES = 400  # what a buffered row takes besides its text
RANGE_ROWS = 32_768
ROW_GROUP = 8_192


class Spill:
    """Collects records; gives them back sorted by id, without duplicates. `folder` is the caller's to remove."""

    def __init__(self, folder: Path, buffer_bytes: int = BUFFER_BYTES):
        self._folder = folder
        self._buffer_bytes = buffer_bytes
        self._runs: list[pa.Table] = []
        self._clear()

    def _clear(self) -> None:
        # Flat columns, not a tuple per row: the garbage collector walks every container again and again.
        self._rows: list[list] = [[] for _ in range(9)]
        self._offsets, self._roles, self._contents = [0], [], []
        self._alternatives: dict[int, list[str]] = {}
        self._buffered = 0

    def add(self, record: Record, file: str, line: int, part: int) -> None:
        """Add one record, read from `line` of `file`; `part` counts the examples of one row from 0."""
        origin = f"{file}:{line}" if part == 0 else f"{file}:{line}#{part + 1}"
        self._put(record, origin, (1, file, line, part))

    def add_kept(self, examples: pa.Table) -> None:
        """Add examples of an earlier pool version: each is kept, and wins over an equal new one."""
        for row in examples.to_pylist():
            turns = [(message["role"], message["content"]) for message in row["messages"]]
            record = Record(row["id"], row["source"], turns, row["alternatives"], row["labelled"], row["metadata"])
            self._put(record, row["origin"], (0, "", 0, 0))

    def _put(self, record: Record, origin: str, order: tuple[int, str, int, int]) -> None:
        identity, source, turns, alternatives, labelled, metadata = record
        if alternatives:
            self._alternatives[len(self._offsets) - 1] = alternatives
        for column, value in zip(self._rows, (identity, source, labelled, origin, metadata, *order), strict=True):
            column.append(value)
        size = ROW_BYTES + len(metadata)
        for role, content in turns:
            self._roles.append(role)
            self._contents.append(content)
            size += len(content)
        self._offsets.append(len(self._roles))
        self._buffered += size
        if self._buffered >= self._buffer_bytes:
            self._write_run(self._take_buffer())

    def _take_buffer(self) -> pa.Table:
        identity, source, labelled, origin, metadata, *order = self._rows
        flat = [pa.array(self._roles, pa.string()), pa.array(self._contents, pa.string())]
        messages = pa.ListArray.from_arrays(
            pa.array(self._offsets, pa.int32()), pa.StructArray.from_arrays(flat, fields=list(MESSAGE))
        )
        alternatives = [self._alternatives.get(row, _NONE) for row in range(len(identity))]
        columns = [identity, source, messages, alternatives, labelled, origin, metadata, *order]
        table = pa.table(
            [pa.array(values, type=field.type) for values, field in zip(columns, _RUN, strict=True)], schema=_RUN
        )
        self._clear()
        return _sorted(table)

    def _write_run(self, table: pa.Table) -> None:
        path = self._folder / f"run-{len(self._runs):05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _RUN) as writer:
            writer.write_table(table)
        self._runs.append(pa.ipc.open_file(pa.memory_map(str(path))).read_all())

    def tables(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """(examples, duplicates) of one range of ids after the other, ids ascending overall."""
        runs = [*self._runs, self._take_buffer()]
        ranges = max(1, sum(map(len, runs)) // RANGE_ROWS)
        starts = [0] * len(runs)
        for end in range(1, ranges + 1):
            bound = f"{end * 2**64 // ranges:016x}" if end < ranges else "g"  # "g" sorts after every hex digit
            parts = []
            for index, run in enumerate(runs):
                stop = _first_at_least(run["id"], bound, starts[index])
                parts.append(run.slice(starts[index], stop - starts[index]))
                starts[index] = stop
            yield _merge(_sorted(pa.concat_tables(parts)))


def write_examples(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables into one Parquet file whose row groups do not depend on how the rows were cut into tables."""
    with pq.ParquetWriter(path, EXAMPLES, compression="zstd") as writer:
        waiting = EXAMPLES.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            while len(waiting) >= ROW_GROUP:
                writer.write_table(waiting.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                waiting = waiting.slice(ROW_GROUP)
        if len(waiting):
            writer.write_table(waiting.combine_chunks(), row_group_size=ROW_GROUP)


def _sorted(table: pa.Table) -> pa.Table:
    order = pc.sort_indices(table.select([name for name, _ in _SORT_KEYS]), sort_keys=_SORT_KEYS)
    return table.take(order).combine_chunks()


def _first_at_least(ids: pa.ChunkedArray, bound: str, low: int) -> int:
    """First position from `low` on whose id is not below `bound`, by bisection."""
    high = len(ids)
    while low < high:
        middle = (low + high) // 2
        if ids[middle].as_py() < bound:
            low = middle + 1
        else:
            high = middle
    return low


def _merge(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split a sorted table into the first row of each id, and the others with the origin they were merged into."""
    ids = table["id"].combine_chunks()
    first = pa.concat_arrays([pa.array([True] * min(1, len(ids))), pc.not_equal(ids[1:], ids[:-1])])
    kept = table.filter(first)
    merged = pc.invert(first)
    group = pc.subtract(pc.cumulative_sum(first.cast(pa.int64())), 1)
    origins, kept_origins = table["origin"].filter(merged), kept["origin"].take(group.filter(merged))
    columns = [table["id"].filter(merged), origins, kept_origins]
    # A file imported again after it grew repeats rows under their own origin; those are no duplicates.
    duplicates = pa.table(columns, schema=DUPLICATES).filter(pc.not_equal(origins, kept_origins))
    return kept.select(EXAMPLES.names), duplicates
