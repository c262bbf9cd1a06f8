"""Tables: CSV and TSV, Parquet, Arrow. Columns with the same name become `name`, `name (2)`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from al.pool.formats import RowError
from al.pool.reading.arrow_messages import unpacked_bytes
from al.pool.reading.json_lines import RawRow, bad_utf8, oversize
from al.pool.reading.kinds import BOM
from al.pool.reading.parquet_pages import pages_of
from al.pool.reading.unfolding import SLICE_BYTES, SLICE_ROWS, VALUE, Unfolding
from al.pool.reading.unpacking import Damaged, head_of

MOST_COLUMNS = 10_000
ARROW_FILE = b"ARROW1\0\0"


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, with (2), (3), … appended to repeated ones."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def read_csv(stream: BufferedReader, delimiter: str, longest: int) -> Iterator[RawRow]:
    """The rows of a table in text form, whose first row is the header; `delimiter` is a tab, or a comma (or its replacement).

    A quote that is never closed, or is followed by text, makes its line a bad row; reading continues at the next line.
    """
    if delimiter == ",":
        delimiter = _delimiter(head_of(stream))
    csv.field_size_limit(longest)
    names: list[str] | None = None
    for line, fields, raw in _records(_Lines(stream, longest), delimiter):
        if isinstance(fields, RowError):
            yield line, fields, raw
            if names is None:
                return  # without a header the rows have no meaning
        elif names is None:
            if len(fields) > MOST_COLUMNS:
                found = f"the header has {len(fields):,} columns, the maximum is {MOST_COLUMNS:,}"
                yield line, RowError("invalid_csv", found), raw
                return
            names = distinct_names(fields)
        elif len(fields) > len(names):
            found = f"{len(fields):,} columns, the header has {len(names):,}: {', '.join(names)[:80]}"
            yield line, RowError("invalid_csv", found), raw
        else:
            row = dict(zip(names, [*fields, *[None] * (len(names) - len(fields))], strict=True))
            yield line, _as_text(row), row


def _delimiter(head: bytes) -> str:
    header = head.removeprefix(BOM).split(b"\n", 1)[0]
    return next((mark for mark in ",;\t" if mark.encode() in header), ",")


def _as_text(row: dict[str, str | None]) -> dict[str, str | None] | RowError:
    for name, value in row.items():
        if value is not None and not value.isascii():
            content = value.encode("utf-8", "surrogateescape")
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                return RowError("bad_utf8", f"column {name}: {bad_utf8(content, error)}")
    return row


class _Lines:
    """The lines of a stream as text. Lines of the current record are kept, so that they can be read again.

    A line above `longest` bytes ends the iteration with its RowError in `refused`, as damage does (`damaged`).
    """

    def __init__(self, stream: BufferedReader, longest: int):
        self._stream, self._longest = stream, longest
        self.number = 0
        self.record: list[str] = []
        self._again: list[str] = []
        self.refused: tuple[RowError, str] | None = None
        self.damaged: RowError | None = None
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else self._read()
        self.number += 1
        self.record.append(line)
        return line

    def _read(self) -> str:
        try:
            line = self._stream.readline(self._longest + 1)
            if len(line) > self._longest:
                size = len(line)
                while not line.endswith(b"\n") and (line := self._stream.readline(self._longest)):
                    size += len(line)
                self.refused = (oversize(size, self._longest), "")
                raise StopIteration
        except Damaged as error:
            self.damaged, line = error.row, b""
        if not line:
            self.ended = True
            raise StopIteration
        if self.number == 0:
            line = line.removeprefix(BOM)
        return line.decode("utf-8", "surrogateescape")

    def pass_over_blank(self) -> None:
        """Skip to the next non-empty line in one step: a bomb may contain millions of empty ones."""
        while not self._again and (waiting := head_of(self._stream))[:1] in (b"\n", b"\r"):
            blank = waiting[: len(waiting) - len(waiting.lstrip(b"\r\n"))]
            self._stream.read(len(blank))
            self.number += blank.count(b"\n")

    def read_again(self) -> None:
        """Return all lines of the record except its first to the input."""
        self._again += self.record[:0:-1]
        self.number -= len(self.record) - 1
        self.record = self.record[:1]
        self.ended = False


def _records(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str] | RowError, str]]:
    """(first line, fields or error, raw text) of every non-blank record."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.record = []
        try:
            fields = next(reader, None)
            error = None
        except csv.Error as failure:
            fields, error = None, RowError("invalid_csv", str(failure))
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
        start = lines.number - len(lines.record) + 1
        if error is not None and lines.record:
            if "new-line character" in str(error):
                found = "a single carriage return outside quotes; end lines with LF or CR LF"
                error = RowError("invalid_csv", found)
            elif "unexpected end" in str(error) or len(lines.record) > 1:
                error = RowError("invalid_csv", f"a quote is not closed, or text follows it ({error})")
            lines.read_again()
            yield start, error, lines.record[0][:400]
        elif fields:
            yield start, fields, lines.record[0][:400]
        elif lines.record:
            lines.pass_over_blank()
        if lines.refused is not None and not lines._again:
            refused, raw = lines.refused
            lines.refused = None
            lines.number += 1
            yield lines.number, refused, raw
        elif fields is None and error is None:
            break
    if lines.damaged is not None:
        yield lines.number + 1, lines.damaged, ""


def read_parquet(path: Path, longest: int, max_ratio: float) -> Iterator[RawRow]:
    """The rows of a Parquet file, numbered from 1. `longest` and `max_ratio`: as for `Unfolding`."""
    number = 0
    try:
        with path.open("rb") as opened:  # Arrow itself opens no path that is not UTF-8
            metadata = pq.read_metadata(opened)
            unfolding = Unfolding(longest, path.stat().st_size, max_ratio)
            unfolding.check(_unpacked_bytes(metadata))
            unfolding.unfolded = 0
            for page in (page for column in _columns(metadata) for page in pages_of(opened, column, unfolding.packed)):
                unfolding.check(page)
            unfolding.unfolded = 0  # what is read is counted row by row
            texts = _encoded(metadata, ("PLAIN_DICTIONARY", "RLE_DICTIONARY"))
            with pq.ParquetFile(opened, metadata=metadata, read_dictionary=texts) as file:
                names = distinct_names(file.schema_arrow.names)
                for batch in _batches(file):
                    for row in unfolding.rows(batch.rename_columns(names)):
                        number += 1
                        yield number, row, row if isinstance(row, dict) else ""
    except RowError as error:
        yield number + 1, error, ""
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        yield number + 1, RowError("damaged_parquet", str(error).splitlines()[0]), ""


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """The rows in order. A batch stays inside a row group: Arrow cannot join the dictionaries of two groups inside a list or struct."""
    rows = _batch_rows(file.metadata)
    for group in range(file.metadata.num_row_groups):
        yield from file.iter_batches(batch_size=rows, row_groups=[group])


def _columns(metadata: pq.FileMetaData) -> Iterator[pq.ColumnChunkMetaData]:
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        yield from (row_group.column(index) for index in range(row_group.num_columns))


def _unpacked_bytes(metadata: pq.FileMetaData) -> int:
    """Bytes of all pages once decompressed, as the footer has them, and of the values of lists, which may be run lengths of nothing."""
    pages = values = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            pages += column.total_uncompressed_size
            values += max(0, column.num_values - group.num_rows)
    return pages + VALUE * values


def _encoded(metadata: pq.FileMetaData, encodings: tuple[str, ...]) -> list[str]:
    """The paths of the columns of texts that are encoded in one of these ways."""
    found = (column for column in _columns(metadata) if column.physical_type == "BYTE_ARRAY")
    return sorted({column.path_in_schema for column in found if set(encodings) & set(column.encodings)})


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Rows to decode at a time. A text in DELTA_BYTE_ARRAY repeats the start of the one before, so any of them may be as long as all."""
    sizes = [column.total_uncompressed_size for column in _columns(metadata)]
    if _encoded(metadata, ("DELTA_BYTE_ARRAY",)):
        return max(1, min(SLICE_ROWS, SLICE_BYTES // max(1, *sizes)))
    return max(1, min(SLICE_ROWS, SLICE_BYTES * max(1, metadata.num_rows) // max(1, sum(sizes))))


def read_arrow(path: Path, longest: int, max_ratio: float) -> Iterator[RawRow]:
    """The rows of an Arrow IPC file or stream (Feather 2, and the files of `datasets`), numbered from 1; as `read_parquet`."""
    number = 0
    unfolding = Unfolding(longest, path.stat().st_size, max_ratio)
    try:
        with pa.memory_map(os.fsencode(path)) as file:  # bytes: the path need not be UTF-8
            for batch in _arrow_batches(file, unfolding):
                for row in unfolding.rows(batch, check=True):
                    number += 1
                    yield number, row, row if isinstance(row, dict) else ""
    except RowError as error:
        yield number + 1, error, ""
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        yield number + 1, RowError("damaged_arrow", str(error).splitlines()[0]), ""


def _arrow_batches(file: pa.MemoryMappedFile, unfolding: Unfolding) -> Iterator[pa.RecordBatch]:
    """The batches in the order in which they were written. A file is a stream between two marks, and is read as one: its footer could name
    other messages than those that were checked."""
    start = len(ARROW_FILE) if file.read(len(ARROW_FILE)) == ARROW_FILE else 0
    file.seek(start)
    with suppress(pa.ArrowException, OSError):  # damage, which reading reports after the rows before it
        for message in pa.ipc.MessageReader.open_stream(file):
            unfolding.check(unpacked_bytes(message))
    unfolding.unfolded = 0  # what is read is counted row by row
    file.seek(start)
    with pa.ipc.open_stream(file) as reader:
        names = distinct_names(reader.schema.names)
        for batch in reader:
            yield batch.rename_columns(names)
