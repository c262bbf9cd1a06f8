"""The tables of a pool directory: written one range of ids at a time (`al.pool.spill`), counted one batch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al.pool.spill import DUPLICATES, EXAMPLES, Range

ROW_GROUP, ROW_GROUP_BYTES = 8_192, 64 * 2**20
FEW_VALUES = ["source", "messages.list.element.role", "metadata"]
"""Columns written with a dictionary. For columns of distinct values a dictionary takes twice the time and more space."""
_PLACE = r":\d+(#\d+)?$"


def write_tables(ranges: Iterable[Range], out: Path, previous: Path | None, read: set[str]) -> tuple[int, int]:
    """Write examples.parquet and duplicates.parquet; returns the numbers of exact duplicates and of other merged rows.

    Args:
        previous: an earlier pool directory; its duplicates are kept, except those in files that were `read` again.
    """
    earlier = previous / "duplicates.parquet" if previous else None
    count = exact = 0
    with (
        _Writer(out / "examples.parquet", EXAMPLES) as examples,
        _Writer(out / "duplicates.parquet", DUPLICATES) as duplicates,
    ):
        for part in ranges:
            merged = part.duplicates
            if earlier is not None:
                merged = pa.concat_tables([merged, _earlier_duplicates(earlier, part, read)])
            merged = _distinct(merged)
            examples.write(part.examples)
            duplicates.write(merged)
            count += len(merged)
            exact += pc.sum(merged["exact"]).as_py() or 0
    return exact, count - exact


def _earlier_duplicates(path: Path, part: Range, read: set[str]) -> pa.Table:
    """Duplicates of the earlier version for examples of this range, each with the current origin of its example."""
    table = pq.read_table(path, filters=[("id", ">=", part.low), ("id", "<", part.high)])
    if "exact" not in table.column_names:  # written by an older Winnow
        table = table.append_column("exact", pa.array([True] * len(table), pa.bool_()))
    files = pc.replace_substring_regex(table["origin"], _PLACE, "")
    table = table.filter(pc.invert(pc.is_in(files, value_set=pa.array(sorted(read), pa.string()))))
    at = pc.index_in(table["id"], value_set=part.examples["id"].combine_chunks())
    return table.set_column(2, "kept_origin", part.examples["origin"].take(at)).cast(DUPLICATES)


def _distinct(table: pa.Table) -> pa.Table:
    """Distinct rows, sorted by all columns."""
    if not len(table):
        return table
    rows = table.group_by(table.column_names).aggregate([]).select(table.column_names)
    return rows.sort_by([(name, "ascending") for name in table.column_names]).cast(table.schema)


class _Writer:
    """A Parquet file whose row groups depend only on its rows, not on their division into tables."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._file = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=FEW_VALUES)
        self._waiting = schema.empty_table()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, failed: type | None, *rest: object) -> None:
        if failed is None and len(self._waiting):
            self._write(len(self._waiting))
        self._file.close()

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._waiting = pa.concat_tables([self._waiting, table])
        while (rows := _row_group(self._waiting)) is not None:
            self._write(rows)

    def _write(self, rows: int) -> None:
        self._file.write_table(self._waiting.slice(0, rows).combine_chunks(), row_group_size=rows)
        self._waiting = self._waiting.slice(rows)


def _row_group(table: pa.Table) -> int | None:
    """Number of rows from the start that make a full row group; None if there are too few."""
    size = np.cumsum(_sizes(table.slice(0, ROW_GROUP)))
    full = int(np.searchsorted(size, ROW_GROUP_BYTES)) + 1
    if full <= len(size):
        return full
    return ROW_GROUP if len(table) >= ROW_GROUP else None


def _sizes(table: pa.Table) -> np.ndarray:
    """(rows,) int64 bytes of text of each example; 0 for tables without text."""
    if "messages" not in table.column_names or not len(table):
        return np.zeros(len(table), dtype=np.int64)
    messages = table["messages"].combine_chunks()
    lengths = pc.binary_length(pc.struct_field(messages.flatten(), "content")).to_numpy(zero_copy_only=False)
    ends = np.cumsum(pc.list_value_length(messages).to_numpy(zero_copy_only=False))
    total = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[ends]
    return np.diff(total, prepend=0) + pc.binary_length(table["metadata"]).to_numpy().astype(np.int64)


def counts(path: Path, column: str) -> Counter:
    """Number of occurrences of each value in a column of a Parquet file."""
    found: Counter = Counter()
    for values in _column(path, column):
        for entry in values.value_counts().to_pylist():
            found[entry["values"]] += entry["counts"]
    return found


def _column(path: Path, column: str) -> Iterator[pa.Array]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=2**16, columns=[column]):
            yield batch.column(0)
