"""Raw row → stored record: recognise its format, bring the conversation into canonical form, name it by its content.

Canonical form is what every chat template accepts: at most one system message, first; then user and assistant (or tool)
turns that alternate, the user's first; a last assistant turn is the response. Two things are adjusted to get there, and
counted: `merged_turns` (neighbouring messages of one role become one, joined by a blank line) and `system_as_user` (a system
message that does not stand first, or that no user message follows, is a user turn).
"""

from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from al.pool.formats import FORMATS, Row, RowError, Turn, detect
from al.pool.sources import Source

SOURCE_FIELDS = ("source", "dataset", "task", "category")
LONGEST_SOURCE_NAME = 80

_metadata_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str, allow_nan=False).encode


class Record(NamedTuple):
    """One example as it is stored, less its origin: the columns of examples.parquet in `al.pool.spill`."""

    id: str
    source: str
    turns: list[Turn]
    alternatives: list[str]
    labelled: bool
    metadata: str


class Converter:
    """Turns the rows of one source into records, counting formats and adjustments on the way."""

    def __init__(self, source: Source):
        self.source = source
        self.formats: Counter[str] = Counter()
        self.adjusted: Counter[str] = Counter()
        self._known: dict[tuple[str, ...], str | None] = {}

    def convert(self, row: Any) -> list[Record]:
        """The records of one raw row (one, except where a format nests several).

        Raises:
            RowError: the row cannot be used.
        """
        if not isinstance(row, dict):
            raise RowError("not_an_object", f"expected a JSON object, found {type(row).__name__}")
        name = self._format_of(row)
        records = [self._record(row, *example) for example in FORMATS[name].convert(row)]
        self.formats[name] += 1
        return records

    def _record(self, row: Row, found: list[Turn], used: tuple[str, ...], alternatives: list[str]) -> Record:
        turns = canonical(found, self.adjusted)
        if alternatives:
            _check_text(alternatives)
        metadata = {key: value for key, value in row.items() if key not in used}
        source = source_name(metadata, self.source)
        return Record(content_id(turns), source, turns, alternatives, turns[-1][0] == "assistant", _dump(metadata))

    def _format_of(self, row: Row) -> str:
        if self.source.format != "auto":
            return self.source.format
        names = tuple(row)
        found = self._known.get(names)
        if found is None:
            found = detect(names)
            if found is None:
                shown = ", ".join(sorted(map(str, names)))[:120] or "none"
                raise RowError("unknown_format", f"fields {shown}: no known format has these (see `pool.format`)")
            self._known[names] = found
        return found


def canonical(turns: list[Turn], adjusted: Counter[str]) -> list[Turn]:
    """Bring turns into canonical form; `adjusted` counts what had to be changed.

    Raises:
        RowError: empty_field, nul_character, no_prompt.
    """
    result: list[Turn] = []
    before = None
    for index, turn in enumerate(turns):
        role, content = turn
        if "\0" in content:
            raise RowError("nul_character", f"message {index} ({role}): NUL at character {content.index(chr(0)) + 1}")
        if not content or content.isspace():
            if role == "system" or (role == "assistant" and index == len(turns) - 1):
                continue
            raise RowError("empty_field", f"message {index} ({role}): the content is empty")
        if role == "system" and (index or not _asked(turns)):
            adjusted["system_as_user"] += 1
            role, turn = "user", ("user", content)
        if role == before:
            adjusted["merged_turns"] += 1
            result[-1] = (role, f"{result[-1][1]}\n\n{content}")
        else:
            result.append(turn)
            before = role
    asked = next((role for role, _ in result if role != "system"), None)
    if asked != "user":
        raise RowError("no_prompt", f"expected a user message first, found {asked or 'no message at all'}")
    return result


def _asked(turns: list[Turn]) -> bool:
    """Whether a user message (or another system message, which will be one) follows the first."""
    return len(turns) > 1 and turns[1][0] in ("user", "system")


def content_id(turns: list[Turn]) -> str:
    """16 hex digits: blake2b-8 of the canonical JSON (sorted keys, no spaces) of the messages.

    Raises:
        RowError: bad_unicode, text that has no UTF-8 form.
    """
    # Written by hand because json.JSONEncoder takes ten times as long: 17 µs a row, a third of the whole import.
    document = ",".join([f'{{"content":{encode_basestring(content)},"role":"{role}"}}' for role, content in turns])
    try:
        return blake2b(f"[{document}]".encode(), digest_size=8).hexdigest()
    except UnicodeEncodeError as error:
        raise RowError("bad_unicode", f"messages: not valid Unicode text ({error.reason})") from None


def source_name(metadata: Row, source: Source) -> str:
    """The example's source: a field of the row that is a short printable string, else the file's stem."""
    if not metadata or source.source_field == "file":
        return source.stem
    for name in SOURCE_FIELDS if source.source_field == "auto" else (source.source_field,):
        value = metadata.get(name)
        if isinstance(value, str) and len(value) <= LONGEST_SOURCE_NAME and value.isprintable() and value.strip():
            return value.strip()
    return source.stem


def _check_text(alternatives: list[str]) -> None:
    for answer in alternatives:
        if "\0" in answer:
            raise RowError("nul_character", "alternative answer: holds a NUL character")
        try:
            answer.encode()
        except UnicodeEncodeError as error:
            raise RowError("bad_unicode", f"alternative answer: not valid Unicode text ({error.reason})") from None


def _dump(metadata: Row) -> str:
    if not metadata:
        return "{}"
    try:
        return _metadata_json(metadata)
    except ValueError:
        raise RowError("not_finite", "a field holds a number that is not finite (NaN or Infinity)") from None
    except TypeError:
        raise RowError("wrong_type", "field names: expected strings") from None
    except RecursionError:  # writing takes more of the stack than reading did
        raise RowError("invalid_json", "nested too deeply") from None
