"""External sort of records by id: memory is bounded for any size of pool.

    add(record) … → blocks of columns ──64 MiB──▶ sorted run on disk (Arrow)
    tables()      → for each range of ids: the part of every run, sorted together, exact duplicates merged

Ids are uniform hashes, so equal ranges of ids have nearly equal numbers of rows. Memory holds one block as Python objects (1 MiB of
text), one buffer of columns (about 64 MiB), one range (about 32,768 rows or 64 MiB), and one batch (about 1 MiB) of every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
        ("unlearned", pa.list_(pa.int32())),
    ]
)
DUPLICATES = pa.schema(
    [("id", pa.string()), ("origin", pa.string()), ("kept_origin", pa.string()), ("exact", pa.bool_())]
)
"""`exact`: the two rows also agree in the fields outside the conversation."""
# Of equal ids the first in this order is kept: examples of an earlier pool version, then by file, line, example of the row.
_ORDER = [("fresh", pa.int8()), ("file", pa.string()), ("line", pa.int64()), ("part", pa.int32())]
_RUN = pa.schema([*EXAMPLES, *_ORDER])
_SORT_KEYS = [("id", "ascending"), *((name, "ascending") for name, _ in _ORDER)]

BUFFER_BYTES = 64 * 2**20
BLOCKS = 64
"""Bytes of text per block. Python objects take several times the memory of columns, and few of them stay in the cache."""
ROW_BYTES = 400  # bytes of a row besides its text
RANGE_ROWS, RANGE_BYTES = 32_768, 64 * 2**20
BATCH_BYTES = 2**20
PAST_ALL = "g"
"""A bound that sorts after every id."""


class Range(NamedTuple):
    """The examples and duplicates with `low` <= id < `high`; both sorted by id."""

    low: str
    high: str
    examples: pa.Table
    duplicates: pa.Table


class Spill:
    """Collects records and returns them sorted by id, without duplicates. The caller removes `folder`."""

    def __init__(self, folder: Path, buffer_bytes: int = BUFFER_BYTES):
        self._folder = folder
        self._buffer_bytes, self._block_bytes = buffer_bytes, buffer_bytes // BLOCKS
        self._paths: list[Path] = []
        self._count = self._bytes = 0
        self._blocks: list[pa.Table] = []
        self._buffered = 0
        self._clear()

    def _clear(self) -> None:
        self._rows: list[tuple] = []
        self._offsets, self._roles, self._contents = [0], [], []
        self._waiting = 0

    def add(self, record: Record, file: str, line: int, part: int) -> None:
        """Add one record, read from `line` of `file`; `part` counts the examples of one row from 0."""
        # Only texts and tuples of texts are kept: a list per row would slow the garbage collector.
        alternatives = tuple(record.alternatives)
        kept = (
            record.id,
            record.source,
            alternatives,
            record.labelled,
            record.metadata,
            record.unlearned,
            file,
            line,
            part,
        )
        self._rows.append(kept)
        size = ROW_BYTES + len(record.metadata)
        for role, content in record.turns:
            self._roles.append(role)
            self._contents.append(content)
            size += len(content)
        self._offsets.append(len(self._roles))
        self._waiting += size
        if self._waiting >= self._block_bytes:
            self._close_block()

    def add_kept(self, examples: pa.Table) -> None:
        """Add examples of an earlier pool version: each is kept and has precedence over an equal new one."""
        zeros = pa.array(np.zeros(len(examples), dtype=np.int8))
        file = pc.replace_substring_regex(examples["origin"], ":[^:]*$", "")
        if "unlearned" not in examples.column_names:  # written by an older Winnow
            examples = examples.append_column("unlearned", pa.array([[]] * len(examples), pa.list_(pa.int32())))
        columns = [*examples.select(EXAMPLES.names).columns, zeros, file, zeros, zeros]
        self._add_block(pa.table(columns, names=_RUN.names).cast(_RUN))

    def _close_block(self) -> None:
        """Convert the waiting rows to columns."""
        if not self._rows:
            return
        identity, source, alternatives, labelled, metadata, unlearned, *place = zip(*self._rows, strict=True)
        origin = [
            f"{file}:{line}" if part == 0 else f"{file}:{line}#{part + 1}"
            for file, line, part in zip(*place, strict=True)
        ]
        flat = [pa.array(self._roles, pa.string()), pa.array(self._contents, pa.string())]
        messages = pa.ListArray.from_arrays(
            pa.array(self._offsets, pa.int32()), pa.StructArray.from_arrays(flat, fields=list(MESSAGE))
        )
        fresh = np.ones(len(identity), dtype=np.int8)
        columns = [identity, source, messages, alternatives, labelled, origin, metadata, unlearned, fresh, *place]
        self._clear()
        arrays = [pa.array(values, type=field.type) for values, field in zip(columns, _RUN, strict=True)]
        self._add_block(pa.table(arrays, schema=_RUN))

    def _add_block(self, block: pa.Table) -> None:
        self._blocks.append(block)
        self._buffered += block.nbytes
        if self._buffered >= self._buffer_bytes:
            self._write_run(self._take_buffer())

    def _take_buffer(self) -> pa.Table:
        table = pa.concat_tables([_RUN.empty_table(), *self._blocks]).combine_chunks()
        self._count += len(table)
        self._bytes += self._buffered
        self._blocks, self._buffered = [], 0
        return _sorted(table)

    def _write_run(self, table: pa.Table) -> None:
        path = self._folder / f"run-{len(self._paths):05d}.arrow"
        rows = max(1, len(table) * BATCH_BYTES // max(1, table.nbytes))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, _RUN) as writer:
            writer.write_table(table, max_chunksize=rows)
        self._paths.append(path)

    def tables(self) -> Iterator[Range]:
        """The ranges of ids in ascending order."""
        self._close_block()
        last = self._take_buffer()
        runs = [_Run(_batches_of(path)) for path in self._paths] + [_Run(iter(last.to_batches()))]
        ranges = max(1, self._count // RANGE_ROWS, self._bytes // RANGE_BYTES)
        low = ""
        for end in range(1, ranges + 1):
            high = f"{end * 2**64 // ranges:016x}" if end < ranges else PAST_ALL
            parts = [part for run in runs for part in run.below(high)]
            table = pa.Table.from_batches(parts, schema=_RUN)
            yield Range(low, high, *_merge(table if len(runs) == 1 else _sorted(table)))
            low = high


class _Run:
    """A sorted run, read from the front."""

    def __init__(self, batches: Iterator[pa.RecordBatch]):
        self._batches = batches
        self._waiting = next(batches, None)

    def below(self, bound: str) -> Iterator[pa.RecordBatch]:
        """Remove and return the rows whose id is below `bound`."""
        while self._waiting is not None:
            stop = _first_at_least(self._waiting.column("id"), bound)
            yield self._waiting.slice(0, stop)
            if stop < len(self._waiting):
                self._waiting = self._waiting.slice(stop)
                return
            self._waiting = next(self._batches, None)


def _batches_of(path: Path) -> Iterator[pa.RecordBatch]:
    # Read, not mapped: used pages of a mapping count as this process's memory until another process needs it.
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        yield from reader


def _sorted(table: pa.Table) -> pa.Table:
    order = pc.sort_indices(table.select([name for name, _ in _SORT_KEYS]), sort_keys=_SORT_KEYS)
    return table.take(order).combine_chunks()


def _first_at_least(ids: pa.Array, bound: str) -> int:
    """First position whose id is not below `bound`, by bisection."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if ids[middle].as_py() < bound:
            low = middle + 1
        else:
            high = middle
    return low


def _equal(column: pa.ChunkedArray, left: pa.Array, right: pa.Array) -> pa.Array:
    """(m,) bool: whether the values at `left` and `right` agree."""
    values = column.combine_chunks()
    if pa.types.is_list(values.type):  # Arrow compares no lists; the few that are not empty are compared in Python
        found = zip(values.take(left).to_pylist(), values.take(right).to_pylist(), strict=True)
        return pa.array([one == other for one, other in found], pa.bool_())
    return pc.equal(values.take(left), values.take(right))


def _merge(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split a sorted table into the first row of each id, and the others with the origin they were merged into.

    A file that is imported again repeats its earlier examples. Such a row is the example itself at its new place, not a
    duplicate.
    """
    ids, origins = table["id"].combine_chunks(), table["origin"].combine_chunks()
    first = np.ones(len(table), dtype=bool)
    first[1:] = pc.not_equal(ids[1:], ids[:-1])
    if first.all():
        return table.select(EXAMPLES.names), DUPLICATES.empty_table()
    leader, group = np.flatnonzero(first), np.cumsum(first) - 1
    fresh = table["fresh"].to_numpy()
    file = table["file"].combine_chunks().dictionary_encode().indices.to_numpy()
    of_kept = (fresh[leader][group] == 0) & (file[leader][group] == file)
    again = ~first & of_kept & ((np.roll(file, 1) != file) | (np.roll(fresh, 1) == 0))
    current = leader.copy()
    current[group[again]] = np.flatnonzero(again)
    kept_origins = origins.take(pa.array(current))
    kept = table.select(EXAMPLES.names).take(pa.array(leader))
    kept = kept.set_column(EXAMPLES.get_field_index("origin"), "origin", kept_origins)
    merged = np.flatnonzero(~first & ~again)
    at, of = pa.array(merged), pa.array(leader[group[merged]])
    exact = pc.and_(*(_equal(table[name], at, of) for name in ("metadata", "alternatives")))
    duplicates = [ids.take(at), origins.take(at), kept_origins.take(pa.array(group[merged])), exact]
    return kept, pa.table(duplicates, schema=DUPLICATES)
