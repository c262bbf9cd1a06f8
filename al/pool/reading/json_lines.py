"""JSON Lines: one value per line. Lines are independent, so a broken one affects no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

import msgspec

from al.pool.formats import RowError
from al.pool.reading.kinds import BOM
from al.pool.reading.unpacking import Damaged

RawRow = tuple[int, Any, Any]
"""(line from 1, or row number in Parquet and Arrow; row or RowError; source of a quarantine snippet)."""

SNIPPET_BYTES = 800
_CHUNK = 2**18
_TOUCHING = re.compile(rb"\}[ \t,]*\{")
"""Where one object may end and the next begin, if a line end between them was lost."""
# Three times as fast as the json module. It refuses some values that json accepts (NaN, lone surrogates, 1e999); refused lines
# are read again with json. Values that both accept are equal (orjson converts integers above 64 bits to floats).
_decode_fast = msgspec.json.Decoder().decode
_decoder = json.JSONDecoder()
_lenient = json.JSONDecoder(strict=False)


def read_lines(stream: BufferedReader, longest: int) -> Iterator[RawRow]:
    """The rows of a JSON Lines stream; a line above `longest` bytes is skipped unread."""
    for number, line, size in split_lines(stream, longest):
        if isinstance(line, RowError):
            yield number, line, b""
        elif size > longest:
            yield number, oversize(size, longest), line
        elif stripped := line.strip():
            value = parse_line(stripped)
            several = _objects(stripped) if isinstance(value, RowError) and _TOUCHING.search(stripped) else None
            for row in several or (value,):
                yield number, row, stripped


def oversize(size: int, longest: int) -> RowError:
    """The error of a row of `size` bytes."""
    return RowError("oversize_row", f"{size:,} bytes; the limit `pool.max_row_bytes` is {longest:,}")


def split_lines(stream: BufferedReader, longest: int) -> Iterator[tuple[int, bytes | RowError, int]]:
    """(number from 1, line without its end, size in bytes) of every non-empty line. Of a line above `longest` bytes only the
    start is given; damage in the stream gives a RowError."""
    number, rest = 0, b""
    try:
        while chunk := stream.read1(_CHUNK):
            if not (number or rest):
                chunk = chunk.removeprefix(BOM)
            if not rest and chunk.isspace():  # a bomb of line ends must not be read one by one
                number += chunk.count(b"\n")
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number += 1
                if line:
                    yield number, (line if len(line) <= longest else line[:SNIPPET_BYTES]), len(line)
            if len(rest) > longest:
                number += 1
                start = rest[:SNIPPET_BYTES]
                size, rest = _skip_line(stream, len(rest))
                yield number, start, size
    except Damaged as error:
        if isinstance(parse_line(rest.strip()), dict):  # only the end of its line is missing
            number += 1
            yield number, rest, len(rest)
        yield number + 1, error.row, 0
        return
    if rest:
        yield number + 1, rest, len(rest)


def _skip_line(stream: BufferedReader, size: int) -> tuple[int, bytes]:
    while chunk := stream.read1(_CHUNK):
        line, end, rest = chunk.partition(b"\n")
        size += len(line)
        if end:
            return size, rest
    return size, b""


def parse_line(line: bytes) -> Any:
    """The JSON value on a line, or the RowError that says why there is none."""
    try:
        return _decode_fast(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _parse_carefully(line)


def _objects(line: bytes) -> list[dict[str, Any]] | None:
    """The objects of a line that holds several, one after the other; None if the line holds anything else."""
    found, at = [], 0
    try:
        content = line.decode("utf-8")
        while at < len(content):
            value, at = _decoder.raw_decode(content, at)
            found.append(value)
            while at < len(content) and content[at] in ", \t":
                at += 1
    except (ValueError, RecursionError):
        return None
    return found if all(isinstance(value, dict) for value in found) else None


def _parse_carefully(line: bytes) -> Any:
    try:
        content = line.decode("utf-8")
        value, end = _decoder.raw_decode(content)
        if content[end:].strip() in ("", ","):  # a comma remains if an array was cut into lines
            return value
        return RowError("invalid_json", f"character {end + 1}: more after the JSON value")
    except UnicodeDecodeError as error:
        return bad_utf8(line, error)
    except json.JSONDecodeError as error:
        if b"\0" in line:
            field = _field_with(content, "\0")
            return RowError("nul_character", f"{field}byte {line.index(0) + 1} is NUL")
        return RowError("invalid_json", f"character {error.pos + 1}: {error.msg}")
    except RecursionError:
        return RowError("invalid_json", "nested too deeply")
    except ValueError as error:  # an integer of more than 4,300 digits
        return RowError("invalid_json", str(error))


def bad_utf8(line: bytes, error: UnicodeDecodeError) -> RowError:
    """The error of a row with invalid bytes; it names their field if possible."""
    content = line.decode("utf-8", errors="surrogateescape")
    field = _field_with(content, content[len(line[: error.start].decode("utf-8"))])
    byte = line[error.start]
    return RowError("bad_utf8", f"{field}byte {error.start + 1} (0x{byte:02x}) is not UTF-8. Save the file as UTF-8.")


def _field_with(content: str, character: str) -> str:
    """ "path.to.field: " of the first string that contains `character`, or "" if the line is not JSON."""
    try:
        value, _ = _lenient.raw_decode(content)
    except (ValueError, RecursionError):
        return ""
    return f"{path}: " if (path := path_to(value, character)) else ""


def path_to(value: Any, character: str) -> str | None:
    """The place of `character` in a JSON value, such as `messages[1].content`; None if it is absent."""
    waiting = [("", value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str) and character in value:
            return path
        if isinstance(value, dict):
            inner = [(f"{path}.{key}".lstrip("."), item) for key, item in value.items()]
            if any(character in key for key in value):
                return path or "a field's name"
            waiting += inner[::-1]
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", item) for index, item in enumerate(value)][::-1]
    return None
