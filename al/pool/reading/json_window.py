"""A moving window over a JSON stream: little more than one value is in memory at a time."""

from __future__ import annotations

import codecs
import json
import re
from io import BufferedReader
from typing import Any

from al.pool.formats import RowError
from al.pool.reading.json_lines import oversize, path_to
from al.pool.reading.unpacking import Damaged

_CHUNK = 2**18
_KEPT = 256  # characters before the position, including the indentation of the value there
_NEAR_END = 16  # an error this near to the end of the text may only mean that more text follows
_MOST_WASTED = 64 * 2**20  # wasted characters, beyond as many as were used; more means a file made to take forever
_DEEP = 2**20  # the count in that sum for a value of endless nesting, because its parsed length is unknown
_between = re.compile(r"[ \t\n\r,]*")
_escaped_byte = re.compile("[\udc80-\udcff]")
_decoder = json.JSONDecoder()


class Window:
    """The part of a stream from `position` on, as `text`; `damage`: the stream broke off after it.

    After `value`, `end` is the end of the value, or -1 if unknown. Bad bytes are lone surrogates in `text`.
    """

    def __init__(self, stream: BufferedReader):
        self.text, self.position, self.end = "", 0, -1
        self.damage: RowError | None = None
        self._stream, self._ended = stream, False
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self._counted, self._line = 0, 1
        self._dropped = self._wasted = 0
        self._bad_bytes = self._tall = False

    def line(self) -> int:
        """Line of the position, from 1."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def grow(self) -> bool:
        """At least double the text from the position on (256 KiB or more); False at the end of the stream."""
        if self._ended:
            return False
        self.line()
        dropped = max(0, self.position - _KEPT)
        wanted, parts = max(_CHUNK, len(self.text) - self.position), [self.text[dropped:]]
        while wanted > 0 and not self._ended:
            try:
                content = self._stream.read1(_CHUNK)
            except Damaged as error:
                self.damage, content = error.row, b""
            self._ended = not content
            part = self._decode(content, self._ended)
            self._bad_bytes = self._bad_bytes or (not part.isascii() and _escaped_byte.search(part) is not None)
            wanted -= len(part)
            parts.append(part)
        self.text = "".join(parts)
        self.position, self._counted, self.end = self.position - dropped, self._counted - dropped, self.end - dropped
        self._dropped += dropped
        return len(parts) > 1 and any(parts[1:])

    def skip_space(self) -> str | None:
        """Move to the next character that is neither space nor comma, and return it; None at the end."""
        while True:
            self.position = _between.match(self.text, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.grow():
                return None

    def value(self, longest: int) -> Any:
        """The JSON value at the position, which does not move; a RowError if it is broken or longer than `longest` bytes."""
        while True:
            self.end = -1
            try:
                value, end = _decoder.raw_decode(self.text, self.position)
            except RecursionError:
                self._wasted += _DEEP
                return RowError("invalid_json", "nested too deeply")
            except json.JSONDecodeError as error:
                if error.pos >= len(self.text) - _NEAR_END or error.msg.startswith("Unterminated string"):
                    if len(self.text) - self.position > longest:
                        return oversize(len(self.text) - self.position, longest)
                    if self.grow():
                        continue
                self._wasted += error.pos - self.position
                return RowError("invalid_json", f"character {error.pos - self.position + 1} of the value: {error.msg}")
            except ValueError as error:  # an integer of more than 4,300 digits
                return RowError("invalid_json", str(error))
            if end < len(self.text) or self.text[end - 1] in '}]"' or not self.grow():
                self.end = end
                return self._checked(value, longest)

    def _checked(self, value: Any, longest: int) -> Any:
        if 4 * (self.end - self.position) > longest:
            size = len(self.text[self.position : self.end].encode("utf-8", "surrogateescape"))
            if size > longest:
                return oversize(size, longest)
        if self._bad_bytes and (bad := _escaped_byte.search(self.text, self.position, self.end)):
            field = f"{path}: " if (path := path_to(value, bad[0])) else ""
            return RowError(
                "bad_utf8", f"{field}byte 0x{ord(bad[0]) - 0xDC00:02x} is not UTF-8. Save the file as UTF-8."
            )
        self._tall = self._tall or (
            self.text[self.position - 1 : self.position] in ("\n", "") and "\n" in self.text[self.position : self.end]
        )
        return value

    def is_last_value(self) -> bool:
        """Whether only white space follows the last value."""
        while not self.text[self.end :].strip():
            if not self.grow():
                return True
        return False

    def open_object(self) -> None:
        """Continue in the middle of an object as if it began with the field at the position."""
        self.position -= 1
        self.text = f"{self.text[: self.position]}{{{self.text[self.position + 1 :]}"
        self._counted = min(self._counted, self.position)

    def find_next(self) -> bool:
        """Move from a broken value to the next certain one; False if there is none."""
        pattern = self._beginning()
        if pattern is None or self._wasted > _MOST_WASTED + self._dropped + self.position:
            return False
        at = self.position + 1
        while (found := pattern.search(self.text, at)) is None:
            self.position = max(at, len(self.text) - _KEPT)
            if not self.grow():
                return False
            at = self.position
        self.position = found.end() - 1
        return True

    def _beginning(self) -> re.Pattern[str] | None:
        """A pattern for the start of a value like the one at the position: the same indentation on its own line."""
        start = self.text.rfind("\n", 0, self.position)
        indent = self.text[start + 1 : self.position]
        if start < 0 and self._dropped:
            return None
        if indent and not indent.isspace():
            if start >= 0:
                return None
            indent = ""  # the first value may share its line with the bracket that opens the array
        if indent:
            return re.compile(rf"\n{re.escape(indent)}\{{")
        if re.match(r"\{\r?\n[ \t]", self.text[self.position : self.position + 4]):
            return re.compile(r"\n\{(?=\r?\n[ \t])")
        # Values of one line each. With multi-line values without indentation, an inner object could be mistaken for a row.
        return None if self._tall else re.compile(r"\n\{(?=[^\r\n])")
