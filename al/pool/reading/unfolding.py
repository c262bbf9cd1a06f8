"""Rows of Arrow batches as Python values, within bounds: a few kilobytes of a table may stand for gigabytes of rows.

One string of 8 MiB in a dictionary can be the value of every row. So dictionaries stay dictionaries until it is known how many bytes
each row takes without them; then rows are unfolded in slices of at most SLICE_ROWS rows and about SLICE_BYTES.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from al.pool.formats import RowError
from al.pool.reading.json_lines import oversize
from al.pool.reading.unpacking import LEAST_BOMB, zip_bomb

SLICE_ROWS, SLICE_BYTES = 1024, 16 * 2**20
VALUE = 8
"""Bytes that a value counts besides its text; an estimate of a number, or of the place of a text."""


@dataclass
class Unfolding:
    """The rows of one file. `longest`: bytes of a row; `packed`: bytes of the file; `max_ratio`: of unfolded to packed bytes."""

    longest: int
    packed: int
    max_ratio: float
    unfolded: int = 0

    def check(self, more: int) -> None:
        """Count `more` unfolded bytes. Raises RowError: above `max_ratio` and LEAST_BOMB, as for compressed text."""
        self.unfolded += more
        if self.unfolded > max(LEAST_BOMB, self.max_ratio * self.packed):
            raise zip_bomb(self.packed, self.unfolded, self.max_ratio)

    def rows(self, batch: pa.RecordBatch, check: bool = False) -> Iterator[Any]:
        """The rows as dicts, or a RowError for one that is too long or that Python cannot represent. `check`: offsets may be invalid.

        Raises:
            RowError: reading must stop, see `check`.
        """
        for start in range(0, batch.num_rows, SLICE_ROWS):
            for part in _sound(batch.slice(start, SLICE_ROWS), check):
                if isinstance(part, RowError):
                    yield part
                else:
                    yield from self._unfold(part)

    def _unfold(self, batch: pa.RecordBatch) -> Iterator[Any]:
        sizes = np.full(batch.num_rows, VALUE, dtype=np.int64)
        for column in batch.columns:
            sizes += unfolded_sizes(column)
        ends, start = np.cumsum(sizes), 0
        while start < len(sizes):
            before = int(ends[start] - sizes[start])
            count = max(1, int(np.searchsorted(ends, before + SLICE_BYTES, side="right")) - start)
            too_long = np.flatnonzero(sizes[start : start + count] > self.longest)
            count = max(1, int(too_long[0])) if len(too_long) else count
            self.check(int(ends[start + count - 1]) - before)
            if sizes[start] > self.longest:
                yield oversize(int(sizes[start]), self.longest)
            else:
                yield from _python_rows(batch.slice(start, count))
            start += count


def unfolded_sizes(column: pa.Array) -> np.ndarray:
    """(n,) int64: about how many bytes each value takes without dictionaries and run lengths. Nothing is unfolded to find out."""
    kind, count = column.type, len(column)
    if count == 0 or pa.types.is_null(kind):
        return np.full(count, VALUE, dtype=np.int64)
    if isinstance(kind, pa.BaseExtensionType):
        return unfolded_sizes(column.storage)
    if pa.types.is_dictionary(kind):
        _check_indices(column)
        known = np.append(unfolded_sizes(column.dictionary), VALUE)
        return known[column.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)]
    if pa.types.is_run_end_encoded(kind):
        ends = column.run_ends.to_numpy(zero_copy_only=False)
        places = np.searchsorted(ends, column.offset + np.arange(count), side="right")
        return unfolded_sizes(column.values)[places]
    if pa.types.is_struct(kind):
        return sum((unfolded_sizes(field) for field in column.flatten()), np.full(count, VALUE, dtype=np.int64))
    if pa.types.is_map(kind):
        column = column.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
        kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return VALUE + _sizes_of_lists(column)
    if _is_text(kind):
        return VALUE + pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    try:
        return np.full(count, VALUE + kind.bit_width // 8, dtype=np.int64)
    except ValueError:  # views and unions: no value is longer than all of them
        return np.full(count, VALUE + column.nbytes, dtype=np.int64)


def _check_indices(column: pa.DictionaryArray) -> None:
    """Arrow reads indices from Parquet without a look at them, and later whatever memory they point to."""
    bounds = pc.min_max(column.indices)
    if column.null_count < len(column) and not 0 <= bounds["min"].as_py() <= bounds["max"].as_py() < len(
        column.dictionary
    ):
        raise pa.ArrowInvalid(f"a value outside its dictionary of {len(column.dictionary):,}")


def _sizes_of_lists(column: pa.Array) -> np.ndarray:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if lengths.sum() > 8 * column.nbytes:  # less than a bit for each: run lengths, or nulls that are not stored
        return lengths * VALUE
    totals, ends = np.concatenate([[0], np.cumsum(unfolded_sizes(column.flatten()))]), np.cumsum(lengths)
    return totals[ends] - totals[ends - lengths]


def _is_text(kind: pa.DataType) -> bool:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(is_one(kind) for is_one in texts)


def _sound(batch: pa.RecordBatch, check: bool) -> Iterator[pa.RecordBatch | RowError]:
    """The batch; if `check` finds damage in it, its rows one by one, a RowError for each that is damaged."""
    try:
        if check:
            batch.validate(full=True)
    except (ValueError, pa.ArrowException) as error:
        if batch.num_rows == 1:
            yield _unfit(batch, error)
            return
        for index in range(batch.num_rows):
            yield from _sound(batch.slice(index, 1), check)
        return
    yield batch


def _python_rows(batch: pa.RecordBatch) -> Iterator[Any]:
    """The rows of a batch as dicts; a RowError for a row that Python cannot represent."""
    try:
        rows = pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], batch.schema.names).to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        if batch.num_rows == 1:
            yield _unfit(batch, error)
            return
        for index in range(batch.num_rows):
            yield from _python_rows(batch.slice(index, 1))
        return
    for row in rows:  # pandas writes NaN for a missing value
        yield {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}


def _plain(column: pa.Array) -> pa.Array:
    """The column without dictionaries. Only its own values are copied: a cast of a slice would unfold what lies outside it too."""
    plain = _without_dictionaries(column.type)
    if plain == column.type:
        return column
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return column.take(pa.array(np.arange(len(column)))).cast(plain)


def _without_dictionaries(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_dictionaries(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_without_dictionaries(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_without_dictionaries(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(_without_dictionaries(kind.key_type)),
            kind.item_field.with_type(_without_dictionaries(kind.item_type)),
        )
    return kind


def _unfit(batch: pa.RecordBatch, error: Exception) -> RowError:
    field = next((f"{name}: " for name in batch.schema.names if _fails(batch.column(name))), "")
    if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
        return RowError("bad_utf8", f"{field}a string is not UTF-8")
    return RowError("bad_value", f"{field}{error}")  # a date or time outside Python's range


def _fails(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
        column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        return True
    return False
