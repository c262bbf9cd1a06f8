"""Raw row → stored record: detect the format, convert the conversation to canonical form, name it by its content.

Every chat template accepts canonical form: at most one system message, in first place; then user and assistant (or tool)
turns that alternate, starting with the user; a last assistant turn is the response. Two adjustments are made and
counted: `merged_turns` (consecutive messages of one role are joined by a blank line) and `system_as_user` (a system
message after the first place, or without a following user message, becomes a user turn).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import msgspec

from al.pool.formats import FORMATS, Example, Format, Gathering, Row, RowError, Turn, recognise, unknown_row
from al.pool.formats.base import text as read_text
from al.pool.formats.template import TextTemplate
from al.pool.mapping import FieldMap
from al.pool.repair import Repair
from al.pool.sources import Source

SOURCE_FIELDS = ("source", "dataset", "task", "category", "data_source", "task_name", "_task_name")
LONGEST_SOURCE_NAME = 80
LAYOUTS_KEPT = 4096  # a file whose rows all have different fields must not fill the memory
LAYOUTS_COMPARED = 200  # nor take a millisecond per row to find the nearest format

_canonical_json = msgspec.json.Encoder().encode
_metadata_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str, allow_nan=False).encode


class Record(msgspec.Struct, frozen=True, gc=False):
    """One example as stored, without its origin: the columns of examples.parquet in `al.pool.spill`."""

    id: str
    source: str
    turns: list[Turn]
    alternatives: list[str]
    labelled: bool
    metadata: str


class _Message(msgspec.Struct, gc=False):
    """One message in the form that is hashed: fields in order of their names."""

    content: str
    role: str


class _Layout(NamedTuple):
    """How rows of one set of field names are converted; a `format` of None means not at all, for the reason `unknown`."""

    format: Format | None
    renamed: Mapping[str, str] = {}
    unknown: str = ""


class Converter:
    """Converts the rows of one source to records and counts formats and adjustments."""

    def __init__(self, source: Source, repair: Repair | None = None):
        self.source = source
        self.repair = repair
        self.formats: Counter[str] = Counter()
        self.adjusted: Counter[str] = Counter()
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._map = FieldMap(source.map) if source.map else None
        self._template = TextTemplate(source.text_template) if source.text_template else None
        self._gathered: dict[str, Gathering] = {}
        self._rows = self._unknown = 0

    def convert(self, row: Any, line: int | None = None) -> list[Record]:
        """The records of one raw row. Usually one; several in a nesting format; none in a format that ends in `finish`.

        `line` is the row's line; without it rows are numbered from 1.

        Raises:
            RowError: the row cannot be used.
        """
        self._rows += 1
        if not isinstance(row, dict):
            raise RowError("not_an_object", f"expected a JSON object, found {type(row).__name__}")
        rest: Row | None = None
        if self._map is not None:
            row, rest = self._map.apply(row)
        names = tuple(row)
        found, renamed, unknown = self._layouts.get(names) or self._recognise(names)
        if found is None:
            raise RowError("unknown_format", unknown)
        if renamed:
            row = {renamed.get(key, key): value for key, value in row.items()}
        records = []
        try:
            for example in self._gather(found, row, line) if found.gathers else found.convert(row):
                records.append(self._record(row, example, rest))
        except RecursionError:  # deep enough to read, too deep to write
            raise RowError("invalid_json", "nested too deeply") from None
        if renamed:
            self.adjusted["renamed_fields"] += 1
        self.formats[found.name] += 1
        return records

    def _gather(self, found: Format, row: Row, line: int | None) -> list[Example]:
        if found.name not in self._gathered:
            self._gathered[found.name] = found.gathers()
        self._gathered[found.name].add(row, self._rows if line is None else line)
        return []

    def finish(self) -> Iterator[tuple[int, Record | RowError, Any]]:
        """(line, record or error, raw row) of everything known only at the end of a file: its message trees."""
        for gathering in self._gathered.values():
            for line, found, row in gathering.finish():
                try:
                    yield line, found if isinstance(found, RowError) else self._record(row, found, None), row
                except RowError as error:
                    yield line, error, row
        self._gathered.clear()

    def _record(self, row: Row, example: Example, rest: Row | None) -> Record:
        found, used, alternatives, given = example.turns, example.used, example.alternatives, example.metadata
        if self.repair is not None:
            found = self.repair.apply(found, self.adjusted)
            alternatives = self.repair.texts(alternatives)
        turns = canonical(found, self.adjusted)
        if alternatives:
            _check_text(alternatives)
        metadata = {key: value for key, value in row.items() if key not in used} if given is None else dict(given)
        if rest:
            metadata = {**rest, **metadata}
        if self.repair is not None:
            metadata = self.repair.fields(metadata)
        if self.source.group is not None:
            metadata.setdefault("group", self.source.group)
        source = example.source if example.source is not None else source_name(metadata, self.source)
        if example.adjusted:
            self.adjusted.update(example.adjusted)
        return Record(content_id(turns), source, turns, alternatives, turns[-1][0] == "assistant", _dump(metadata))

    def _recognise(self, names: tuple[str, ...]) -> _Layout:
        if self.source.format != "auto":
            layout = _Layout(FORMATS[self.source.format])
        else:
            found = recognise(names)
            layout = _Layout(FORMATS[found[0]], found[1]) if found else self._unknown_layout(names)
        template = self._template
        if template is not None and layout.format is FORMATS["text"]:
            by_template = replace(
                layout.format, convert=lambda row: [Example(template.split(read_text(row, "text")), ("text",))]
            )
            layout = layout._replace(format=by_template)
        if len(self._layouts) >= LAYOUTS_KEPT:
            self._layouts.clear()
        self._layouts[names] = layout
        return layout

    def _unknown_layout(self, names: tuple[str, ...]) -> _Layout:
        self._unknown += 1
        return _Layout(None, {}, unknown_row(names, compared=self._unknown <= LAYOUTS_COMPARED))


def canonical(turns: list[Turn], adjusted: Counter[str]) -> list[Turn]:
    """Convert turns to canonical form; `adjusted` counts the changes.

    Raises:
        RowError: empty_field, nul_character, no_prompt.
    """
    result: list[Turn] = []
    merged: dict[int, list[str]] = {}
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
            merged.setdefault(len(result) - 1, [result[-1][1]]).append(content)
        else:
            result.append(turn)
            before = role
    for at, contents in merged.items():
        result[at] = (result[at][0], "\n\n".join(contents))
    asked = result[1:] if result and result[0][0] == "system" else result
    if not asked or asked[0][0] != "user":
        raise RowError(
            "no_prompt", f"expected a user message first, found {asked[0][0] if asked else 'no message at all'}"
        )
    return result


def _asked(turns: list[Turn]) -> bool:
    """Whether a user message follows the first, or another system message, which becomes one."""
    return len(turns) > 1 and turns[1][0] in ("user", "system")


def content_id(turns: list[Turn]) -> str:
    """16 hex digits: blake2b-8 of the canonical JSON (sorted keys, no spaces) of the messages.

    Raises:
        RowError: bad_unicode, text without a UTF-8 form.
    """
    try:
        document = _canonical_json([_Message(content, role) for role, content in turns])
        return blake2b(document, digest_size=8).hexdigest()
    except UnicodeEncodeError as error:
        raise RowError("bad_unicode", f"{_not_text(turns)}: not valid Unicode text ({error.reason})") from None


def _not_text(turns: list[Turn]) -> str:
    """Name of the message that has no UTF-8 form."""
    bad = (
        f"message {index} ({role})"
        for index, (role, text) in enumerate(turns)
        if text.encode("utf-8", "replace") != text.encode("utf-8", "surrogatepass")
    )
    return next(bad, "messages")


def _is_finite(value: Any) -> bool:
    try:
        _metadata_json(value)
    except ValueError:
        return False
    return True


def source_name(metadata: Row, source: Source) -> str:
    """The example's source: a field of the row, if it is a short printable string, else the file's stem."""
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
        for value in metadata.values():
            if type(value) is not str:
                return _metadata_json(metadata)
        # the usual case; the encoder takes twice as long
        written = [f"{encode_basestring_ascii(k)}:{encode_basestring_ascii(v)}" for k, v in sorted(metadata.items())]
        return "{" + ",".join(written) + "}"
    except ValueError:
        field = next((f"{key}: " for key, value in metadata.items() if not _is_finite(value)), "")
        raise RowError("not_finite", f"{field}holds a number that is not finite (NaN or Infinity)") from None
    except TypeError:
        raise RowError("wrong_type", "field names: expected strings") from None
    except RecursionError:  # writing uses more of the stack than reading
        raise RowError("invalid_json", "nested too deeply") from None
