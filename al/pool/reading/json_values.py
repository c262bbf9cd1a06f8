"""JSON that is not one value per line: arrays, multi-line objects in sequence, and an object around a list of rows.

The text is read through a window of little more than one row (`al.pool.reading.json_window`), so memory does not grow with the
file. A broken value ends the reading, unless the next value is certain: on its own line, with the same indentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from io import BufferedReader
from typing import Any

from al.pool.formats import RowError, detect
from al.pool.reading.json_lines import RawRow
from al.pool.reading.json_window import Window

LONGEST_OBJECT = 128 * 2**20
"""Maximum characters of an object that is the whole file (a task file); it may be longer than other rows."""
WRAPPERS = ("data", "train", "rows", "examples", "records", "samples", "validation", "dev", "test")
_WRAPPED = re.compile(rf'\{{\s*"(?:{"|".join(WRAPPERS)})"\s*:\s*\[(?=\s*\{{)')
_LONGEST_HEAD = 200


def read_values(stream: BufferedReader, longest: int) -> Iterator[RawRow]:
    """The elements of arrays and the objects of a JSON stream, each with its first line.

    A file that is one object around one list of objects (`{"data": [{…}, …]}`, see `WRAPPERS`) gives those; if the object's other
    fields are a row of a known format, it is a row too. Commas between
    values may be missing or repeated.
    """
    window = Window(stream)
    wrapped = inside = _enter_wrapper(window)
    first = not inside
    while (mark := window.skip_space()) is not None:
        if mark == "[" and not inside:
            inside, first = True, False
            window.position += 1
        elif mark == "]" and inside:
            window.position += 1
            if wrapped and not (yield from _rest_of_wrapper(window, longest)):
                return
            inside = wrapped = False
        else:
            line = window.line()
            value = window.value(longest if inside else max(longest, LONGEST_OBJECT))
            if isinstance(value, RowError):
                if not (yield from _broken(window, line, value)):
                    return
            elif first and (at := _list_within(window, value)) is not None:
                wrapped = inside = True
                window.position = at + 1
            else:
                yield line, value, value
                window.position = window.end
            first = False
    if window.damage is not None:
        yield window.line(), window.damage, ""
    elif inside:
        yield window.line(), RowError("invalid_json", "the array is not closed; the file may be cut off here"), ""


def _broken(window: Window, line: int, error: RowError) -> Generator[RawRow, None, bool]:
    """Yield the error of the value at the window's position, and go to the next value; False if that cannot be found."""
    snippet = window.text[window.position : window.position + 400]
    if window.end >= 0:  # the value is invalid, but its end is known
        window.position = window.end
        yield line, error, snippet
        return True
    if window.find_next():
        yield line, RowError(error.reason, f"{error}; reading continues at line {window.line()}"), snippet
        return True
    yield line, window.damage or RowError(error.reason, f"{error}; the rest of the file cannot be read"), snippet
    return False


def _enter_wrapper(window: Window) -> bool:
    """Whether the stream begins with an object whose first field is a list of objects; the window is then inside the list."""
    if window.skip_space() != "{":
        return False
    while len(window.text) - window.position < _LONGEST_HEAD and window.grow():
        pass
    found = _WRAPPED.match(window.text, window.position)
    if found is not None:
        window.position = found.end()
    return found is not None


def _rest_of_wrapper(window: Window, longest: int) -> Generator[RawRow, None, bool]:
    """Read the fields after the list, up to the end of the object; False if that cannot be found.

    Another list of rows among them is an error.
    """
    mark, line = window.skip_space(), window.line()
    if mark == "}":
        window.position += 1
        return True
    if mark is None:
        yield (
            line,
            window.damage or RowError("invalid_json", "the object is not closed; the file may be cut off here"),
            "",
        )
        return False
    window.open_object()
    rest = window.value(longest)
    if isinstance(rest, RowError):
        yield line, window.damage or rest, ""
        return False
    if lists := _lists_of_rows(rest):
        yield line, _several(lists), rest
    elif _is_row(rest):
        yield line, rest, rest
    window.position = window.end
    return True


def _list_within(window: Window, value: Any) -> int | None:
    """Start of the only list of rows in an object that is the whole file; None if there is none."""
    lists = _lists_of_rows(value)
    if len(lists) != 1 or not window.is_last_value() or _is_row({key: value[key] for key in value if key != lists[0]}):
        return None
    for found in re.finditer(rf'"{lists[0]}"\s*:\s*(?=\[)', window.text[window.position : window.end]):
        at = window.position + found.end()
        if json.JSONDecoder().raw_decode(window.text, at)[0] == value[lists[0]]:
            return at
    return None


def _is_row(rest: Any) -> bool:
    """Whether the fields of an object next to a list of rows are a row themselves."""
    return isinstance(rest, dict) and detect(rest.keys()) not in (None, "text")


def _lists_of_rows(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    return [name for name in WRAPPERS if (rows := value.get(name)) and _are_objects(rows)]


def _are_objects(rows: Any) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _several(names: list[str]) -> RowError:
    found = ", ".join(f"`{name}`" for name in names)
    return RowError("several_lists", f"{found}: more than one list of rows in a file; write each into its own file")
