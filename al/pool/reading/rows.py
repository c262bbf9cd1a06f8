"""Raw rows of files, each with its line. An unreadable row becomes a `RowError` in its place.

Every kind is streamed: memory holds one row, or one batch of rows, whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from al.errors import DataError
from al.pool.formats import RowError
from al.pool.reading.json_lines import RawRow, oversize, parse_line, read_lines, split_lines
from al.pool.reading.json_values import read_values
from al.pool.reading.kinds import BOM, Kind, kind_by_content, kind_by_name
from al.pool.reading.tables import read_arrow, read_csv, read_parquet
from al.pool.reading.unpacking import head_of, open_plain
from al.pool.sources import Source

__all__ = ["RawRow", "parse_line", "read_rows"]

SEPARATOR = b"---"
"""The line that separates documents in a .txt file."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of a Git LFS pointer, which replaces a large file in a clone (github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""
_LOOKED_AT = 20


def read_rows(source: Source) -> Iterator[RawRow]:
    """Every row of a file, broken ones included.

    Raises:
        DataError: the file does not exist, cannot be opened, or has an unreadable kind.
    """
    path = Path(source.path)
    try:
        if not path.is_file() and path.exists():
            raise DataError(f"{source.label}: not a file. Check `pool.files`.")
        if _is_lfs_pointer(path):
            raise DataError(f"{source.label}: a Git LFS pointer, not the data itself. Fetch it with `git lfs pull`.")
        kind = kind_by_name(path.name)
        if kind in ("parquet", "arrow"):
            yield from _read_table(source, kind)
            return
        with open_plain(path, source.max_unpack_ratio) as stream:
            kind = kind or kind_by_content(head_of(stream), source.label)
            if kind not in ("parquet", "arrow"):
                yield from _read_text(stream, kind, source.max_row_bytes)
                return
        yield from _read_table(source, kind)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"{source.label}: cannot be opened ({error.strerror}). Check `pool.files`.") from None


def _read_table(source: Source, kind: Kind) -> Iterator[RawRow]:
    read = read_parquet if kind == "parquet" else read_arrow
    return read(Path(source.path), source.max_row_bytes, source.max_unpack_ratio)


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _read_text(stream: BufferedReader, kind: Kind, longest: int) -> Iterator[RawRow]:
    if kind == "txt":
        return _read_documents(stream, longest)
    if kind in ("csv", "tsv"):
        return read_csv(stream, "\t" if kind == "tsv" else ",", longest)
    by_line = _is_by_line(head_of(stream), is_json=kind == "json")
    return read_lines(stream, longest) if by_line else read_values(stream, longest)


def _is_by_line(head: bytes, is_json: bool) -> bool:
    """Whether a JSON file is read line by line; the suffix is only a hint."""
    *lines, last = head.removeprefix(BOM).lstrip().split(b"\n")
    first = (lines[0] if lines else last).strip()
    if first.startswith(b"[") and first[1:].lstrip()[:1] in (b"", b"{"):
        return False
    if not first.startswith(b"{"):
        return not (is_json and first.startswith(b"["))
    if is_json and lines and first.endswith((b"[", b",", b"{")) and not isinstance(parse_line(first), dict):
        return False  # an object that continues on the next line: `{"data": [{…},`
    alone = [
        line for line in lines[:_LOOKED_AT] if line.startswith(b"{") and isinstance(parse_line(line.strip()), dict)
    ]
    return bool(alone and (len(lines) > 1 or last.strip())) or not (is_json or first == b"{")


def _read_documents(stream: BufferedReader, longest: int) -> Iterator[RawRow]:
    """Plain text as rows {"text": …}, one per document; a line of only `---` separates two."""
    lines: list[bytes] = []
    start = size = before = 0
    for number, line, length in split_lines(stream, longest):
        if isinstance(line, RowError):
            yield from _document(lines, start, size, longest)
            yield number, line, b""
            return
        if line.strip() == SEPARATOR:
            yield from _document(lines, start, size, longest)
            lines, size = [], 0
        else:
            if not lines:
                start, before = number, number
            gap = number - before - 1 if number > before else 0
            size += length + 1 + gap
            if size <= longest:
                lines += [b""] * gap + [line.removesuffix(b"\r")]
        before = number
    yield from _document(lines, start, size, longest)


def _document(lines: list[bytes], start: int, size: int, longest: int) -> Iterator[RawRow]:
    if size > longest:
        yield start, oversize(size, longest), b"\n".join(lines)[:400]
        return
    content = b"\n".join(lines).strip()
    if content:
        try:
            yield start, {"text": content.decode("utf-8")}, content
        except UnicodeDecodeError as error:
            found = f"text: byte 0x{content[error.start]:02x} is not UTF-8. Save the file as UTF-8."
            yield start, RowError("bad_utf8", found), content
