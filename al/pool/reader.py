"""Raw rows of files, each with the line it stands on. What cannot be read becomes a `RowError` in the row's place.

JSONL, CSV and Parquet are streamed; a .json array is read whole, so its file must fit in memory (twice).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from al.errors import DataError
from al.pool.formats import RowError
from al.pool.sources import Source

RawRow = tuple[int, Any, Any]
"""Line (from 1; row number in Parquet), the row or a RowError, and what a quarantine snippet is cut from."""

BOM = b"\xef\xbb\xbf"


def read_rows(source: Source) -> Iterator[RawRow]:
    """Every row of a file, broken ones included.

    Raises:
        DataError: the file does not exist, cannot be opened, or has an unknown suffix.
    """
    name = source.path.lower().removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            yield from _read_parquet(Path(source.path))
            return
        with _open(Path(source.path)) as stream:
            if name.endswith((".csv", ".tsv")):
                yield from _read_csv(stream, "\t" if name.endswith(".tsv") else ",", source.max_row_bytes)
            elif name.endswith(".json") and _starts_array(stream):
                yield from _read_array(stream)
            elif name.endswith((".jsonl", ".ndjson", ".json")):
                yield from _read_lines(stream, source.max_row_bytes)
            else:
                raise DataError(
                    f"{source.label}: unknown file type; expected .jsonl, .json, .csv, .tsv (or .gz of these) or .parquet."
                )
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"{source.label}: cannot be opened ({error.strerror}). Check `pool.files`.") from None


def _open(path: Path) -> io.BufferedReader:
    if path.name.lower().endswith(".gz"):
        return io.BufferedReader(_Gzip(path), 2**20)
    return path.open("rb", buffering=2**20)


class _Gzip(io.RawIOBase):
    """A .gz file that hands out everything before a damaged place; `GzipFile.read` loses what it read on the way."""

    def __init__(self, path: Path):
        self._file = gzip.open(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read1(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _starts_array(stream: io.BufferedReader) -> bool:
    try:
        return stream.peek(4096).removeprefix(BOM).lstrip().startswith(b"[")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False  # the line reader meets the same damage and reports it


_decoder = json.JSONDecoder()


def parse_line(line: bytes) -> Any:
    """The JSON value on a line, or the RowError that says why there is none."""
    try:
        content = line.decode("utf-8")
        value, end = _decoder.raw_decode(content)
        return (
            value
            if end == len(content)
            else RowError("invalid_json", f"character {end + 1}: more after the JSON value")
        )
    except UnicodeDecodeError as error:
        return RowError(
            "bad_utf8", f"byte {error.start} (0x{line[error.start]:02x}): not UTF-8. Save the file as UTF-8."
        )
    except json.JSONDecodeError as error:
        if b"\0" in line:
            return RowError("nul_character", f"byte {line.index(0)}: NUL in the line")
        return RowError("invalid_json", f"character {error.pos + 1}: {error.msg}")
    except RecursionError:
        return RowError("invalid_json", "nested too deeply")
    except ValueError as error:  # an integer of more than 4,300 digits
        return RowError("invalid_json", str(error))


def _read_lines(stream: BinaryIO, longest: int) -> Iterator[RawRow]:
    number = 0
    try:
        while line := stream.readline(longest + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(BOM)
            if len(line) > longest and not line.endswith(b"\n"):
                size = len(line) + _skip_line(stream)
                yield (
                    number,
                    RowError("oversize_row", f"{size:,} bytes; the limit `pool.max_row_bytes` is {longest:,}"),
                    line[:400],
                )
            elif stripped := line.strip():
                yield number, parse_line(stripped), stripped
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield number + 1, _broken_gzip(error), b""


def _skip_line(stream: BinaryIO) -> int:
    skipped = 0
    while part := stream.readline(2**20):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _broken_gzip(error: Exception) -> RowError:
    return RowError(
        "truncated_gz", f"the compressed file is cut off or damaged from here on ({error}); what came before is kept"
    )


def _read_array(stream: io.BufferedReader) -> Iterator[RawRow]:
    broken = None
    chunks: list[bytes] = []
    try:
        while chunk := stream.read1(2**20):
            chunks.append(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        broken = _broken_gzip(error)
    # Bad bytes become lone surrogates, so that only the rows that hold them are refused, not the file.
    content = b"".join(chunks).removeprefix(BOM).decode("utf-8", errors="surrogateescape")
    chunks.clear()
    line, seen = 1, 0
    for start, end, value in _array_elements(content):
        line += content.count("\n", seen, start)
        seen = start
        if broken is not None and isinstance(value, RowError):
            value = broken
        yield line, value, content[start : min(end, start + 400)]


def _array_elements(content: str) -> Iterator[tuple[int, int, Any]]:
    """(start, end, value) per element; the first element that is no JSON ends the array, as nothing after it is certain."""
    position = _skip_space(content, content.index("[") + 1)
    while content[position : position + 1] != "]":
        try:
            value, end = _decoder.raw_decode(content, position)
        except (ValueError, RecursionError) as error:
            yield position, len(content), RowError("invalid_json", f"{error}; the rest of the array cannot be read")
            return
        yield position, end, value
        position = _skip_space(content, end)
        if content[position : position + 1] == ",":
            position = _skip_space(content, position + 1)
        elif content[position : position + 1] != "]":
            yield (
                position,
                len(content),
                RowError("invalid_json", "expected `,` or `]`; the rest of the array cannot be read"),
            )
            return


_skip_pattern = json.decoder.WHITESPACE


def _skip_space(content: str, position: int) -> int:
    return _skip_pattern.match(content, position).end()


def _read_csv(stream: BinaryIO, delimiter: str, longest: int) -> Iterator[RawRow]:
    csv.field_size_limit(longest)
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(lines, delimiter=delimiter)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield reader.line_num, RowError("invalid_csv", str(error)), ""
            continue
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield reader.line_num + 1, _broken_gzip(error), ""
            return
        if row is None:
            return
        if None in row:
            row = RowError("invalid_csv", f"more columns than the header's {len(reader.fieldnames or ())}")
        yield reader.line_num, row, row if isinstance(row, dict) else ""


def _read_parquet(path: Path) -> Iterator[RawRow]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in _python_rows(batch):
                    number += 1
                    yield number, row, row if isinstance(row, dict) else ""
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        yield number + 1, RowError("damaged_parquet", str(error).splitlines()[0]), ""


def _python_rows(batch: pa.RecordBatch) -> Iterator[Any]:
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            if isinstance(error, UnicodeDecodeError):
                yield RowError("bad_utf8", f"a string is not UTF-8 ({error.reason})")
            else:  # a date or time outside Python's range
                yield RowError("bad_value", str(error))
            return
        for index in range(batch.num_rows):
            yield from _python_rows(batch.slice(index, 1))
        return
    for row in rows:  # pandas writes NaN where a value is missing
        yield {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}
