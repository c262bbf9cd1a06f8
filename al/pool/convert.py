"""Raw row → stored record: detect the format, convert the conversation to canonical form, name it by its content.

Canonical form is what chat templates accept: at most one system message, in first place; then user and assistant (or tool)
turns that alternate, starting with the user; a last assistant turn is the response. Adjustments are made and
counted: `merged_turns` (consecutive messages of one role are joined by a blank line), `system_as_user` (a system
message after the first place, or without a following user message, becomes a user turn) and `opening_as_context` (the
assistant speaks first; that turn stays, and is not trained on).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace as replaced
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from al.pool.formats import FORMATS, Example, Format, Gathering, Row, RowError, Turn, recognise, unknown_row
from al.pool.formats.base import SOURCE_FIELDS, Unlearned, kind
from al.pool.formats.base import text as read_text
from al.pool.formats.detect import table_by_column
from al.pool.formats.leftovers import Leftovers
from al.pool.formats.template import TextTemplate
from al.pool.formats.templated import ENDS, TAKEN_APART, take_apart, without_end
from al.pool.mapping import DESCRIBING, FieldMap
from al.pool.repair import Repair
from al.pool.sources import Source

LONGEST_SOURCE_NAME = 80
IMAGE = "<image>"
"""What LLaVA's files write where an image belongs."""
MARKS = ("label", "kto_tag")
"""Fields with a boolean that says whether the response is good."""
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
MARKERS = frozenset(("<", "[", " ", "\n"))
"""First characters of a text that may begin with a marker of a chat template."""
LAYOUTS_KEPT = 4096  # a file whose rows all have different fields must not fill the memory
LAYOUTS_COMPARED = 200  # nor take a millisecond per row to find the nearest format

_canonical_json = msgspec.json.Encoder().encode
_metadata_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str, allow_nan=False).encode


class Record(msgspec.Struct, frozen=True, gc=False):
    """One example as stored, without its origin: the columns of examples.parquet in `al.pool.spill`. `unlearned` are the positions
    of assistant turns that are context only."""

    id: str
    source: str
    turns: list[Turn]
    alternatives: list[str]
    labelled: bool
    metadata: str
    unlearned: tuple[int, ...] = ()


class _Message(msgspec.Struct, gc=False, omit_defaults=True):
    """One message in the form that is hashed: fields in order of their names, `train` only if it is false."""

    content: str
    role: str
    train: bool = True


class _Layout(NamedTuple):
    """How rows of one set of field names are converted; a `format` of None means not at all, for the reason `unknown`. `marks` and
    `media` are the fields of `MARKS` and `MEDIA` that the rows have."""

    format: Format | None
    renamed: Mapping[str, str] = {}
    unknown: str = ""
    marks: tuple[str, ...] = ()
    media: tuple[str, ...] = ()


class Converter:
    """Converts the rows of one source to records and counts formats and adjustments."""

    def __init__(self, source: Source, repair: Repair | None = None):
        self.source = source
        self.repair = repair
        self.formats: Counter[str] = Counter()
        self.adjusted: Counter[str] = Counter()
        self.leftovers = Leftovers(mapped=bool(source.map))
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._whole: dict[tuple[tuple[str, ...], tuple[str, ...]], bool] = {}  # whether a format uses all fields
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
        try:
            return self._convert(row, line)
        except RowError as error:
            raise table_by_column(row) or error from None

    def _convert(self, row: Any, line: int | None) -> list[Record]:
        self._rows += 1
        if isinstance(row, list) and row and all(isinstance(message, dict) for message in row):
            row = {"conversations": row}
        if not isinstance(row, dict):
            raise RowError("not_an_object", f"expected a JSON object, found {type(row).__name__}")
        rest: Row | None = None
        if self._map is not None:
            row, rest = self._map.apply(row)
        names = tuple(row)
        found, renamed, unknown, marks, media = self._layouts.get(names) or self._recognise(names, row)
        if found is None:
            raise RowError("unknown_format", unknown)
        if media:
            _check_text_only(row, media)
        if renamed:
            row = {renamed.get(key, key): value for key, value in row.items()}
        try:
            examples = self._gather(found, row, line) if found.gathers else found.convert(row)
            if rest is not None:
                _check_mapped(row, examples)
            if marks and any(row[mark] in (False, "false", "False") for mark in marks):
                examples = [_set_aside(example) for example in examples]
            records = [self._record(row, example, rest) for example in examples]
            self._note_leftovers(found, row, names, examples, rest)
        except RecursionError:  # deep enough to read, too deep to write
            raise RowError("invalid_json", "nested too deeply") from None
        if renamed:
            self.adjusted["renamed_fields"] += 1
        self.formats[found.name] += 1
        return records

    def _note_leftovers(
        self, found: Format, row: Row, names: tuple[str, ...], examples: list[Example], rest: Row | None
    ) -> None:
        if found.gathers is not None:  # one message of a tree
            used = found.gathers.used
            row = {f"messages[].{name}": value for name, value in row.items() if name not in used}
            self.leftovers.add(found.name, row, (), [])
            return
        used, left = examples[0].used, examples[0].left
        layout = (names, used)
        whole = self._whole.get(layout)
        if whole is None:
            if len(self._whole) >= LAYOUTS_KEPT:
                self._whole.clear()
            whole = self._whole[layout] = row.keys() <= set(used)
        if not whole or rest or left:
            row = {**row, **(rest or {}), **left}
            self.leftovers.add(found.name, row, used, [example.turns for example in examples])

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
        if found and (found[0][1][:1] in MARKERS or found[-1][1].endswith(ENDS)):
            found = self._untemplated(found)
        if self.repair is not None:
            found = self.repair.apply(found, self.adjusted)
            alternatives = self.repair.texts(alternatives)
        turns, unlearned = canonical(found, self.adjusted)
        if alternatives:
            _check_text(alternatives)
        metadata = {key: value for key, value in row.items() if key not in used} if given is None else dict(given)
        if rest:
            metadata = {**rest, **metadata}
        if example.left:
            metadata = {**metadata, **example.left}
        if self.repair is not None:
            metadata = self.repair.fields(metadata)
        if self.source.group is not None:
            metadata.setdefault("group", self.source.group)
        source = example.source if example.source is not None else source_name(metadata, self.source)
        if example.adjusted:
            self.adjusted.update(example.adjusted)
        labelled = turns[-1][0] == "assistant"
        unlearned = unlearned if labelled else ()
        identity = content_id(turns, unlearned)
        return Record(identity, source, turns, alternatives, labelled, _dump(metadata), unlearned)

    def _untemplated(self, turns: list[Turn]) -> list[Turn]:
        """The turns of one question and its response without the markers of a chat template, if they have some."""
        *before, last = turns
        whole = (
            take_apart("".join(said for _, said in turns), "the prompt")
            if len(turns) <= 2 and turns[0][0] == "user"
            else None
        )
        if whole is None:
            said = without_end(last[1]) if last[0] == "assistant" else last[1]
            whole = turns if said == last[1] else [*before, type(last)((last[0], said))]
        if whole is not turns:
            self.adjusted[TAKEN_APART] += 1
        return whole

    def _recognise(self, names: tuple[str, ...], row: Row) -> _Layout:
        if self.source.format != "auto":
            layout = _Layout(FORMATS[self.source.format])
        else:
            found = recognise(names)
            layout = _Layout(FORMATS[found[0]], found[1]) if found else self._unknown_layout(row)
        if layout.format is not None:
            marks = tuple(name for name in MARKS if name in names and name not in layout.format.uses)
            media = tuple(name for name in MEDIA if name in names and name not in self.source.ignore)
            layout = layout._replace(marks=marks, media=media)
        template = self._template
        if template is not None and layout.format is FORMATS["text"]:
            by_template = replaced(
                layout.format, convert=lambda row: [Example(template.split(read_text(row, "text")), ("text",))]
            )
            layout = layout._replace(format=by_template)
        if len(self._layouts) >= LAYOUTS_KEPT:
            self._layouts.clear()
        self._layouts[names] = layout
        return layout

    def _unknown_layout(self, row: Row) -> _Layout:
        self._unknown += 1
        return _Layout(None, {}, unknown_row(row, compared=self._unknown <= LAYOUTS_COMPARED))


def _check_text_only(row: Row, media: tuple[str, ...]) -> None:
    for name in media:
        if row.get(name) not in (None, "", [], {}):
            way = f"to import the text without it, add --ignore {name} (`pool.ignore`)"
            raise RowError("not_text", f"{name}: {kind(row[name])}; only text can be trained on; {way}")


def _check_mapped(row: Row, examples: list[Example]) -> None:
    for name, value in row.items():
        if value not in (None, "", []) and name not in DESCRIBING and examples and name not in examples[0].used:
            raise RowError(
                "mapped_field_not_used", f"{name}: mapped, but this row is read from {', '.join(examples[0].used)}"
            )


def _set_aside(example: Example) -> Example:
    """The example of a row that is marked bad: without its response, which becomes metadata as that of a preference pair."""
    if example.turns[-1][0] != "assistant":
        return example
    adjusted = (*example.adjusted, "rejected_set_aside")
    left = {**example.left, "rejected": example.turns[-1][1]}
    return replace(example, turns=example.turns[:-1], alternatives=[], adjusted=adjusted, left=left)


def canonical(turns: list[Turn], adjusted: Counter[str]) -> tuple[list[Turn], tuple[int, ...]]:
    """(turns in canonical form, positions of those that are context only); `adjusted` counts the changes.

    Raises:
        RowError: empty_field, nul_character, not_text, no_prompt.
    """
    result: list[Turn] = []
    merged: dict[int, list[str]] = {}
    unlearned: set[int] = set()
    before = last = None
    for index, turn in enumerate(turns):
        role, content = turn
        if "\0" in content:
            raise RowError("nul_character", f"message {index} ({role}): NUL at character {content.index(chr(0)) + 1}")
        if not content or content.isspace():
            if role == "system" or (role == "assistant" and index == len(turns) - 1):
                continue
            raise RowError("empty_field", f"message {index} ({role}): the content is empty")
        if role == "user" and IMAGE in content and "</image>" not in content:
            raise RowError("not_text", f"message {index} ({role}): {IMAGE}; only text can be trained on")
        if role == "system" and (before not in (None, "system") or index >= (last := last or _last_asked(turns))):
            adjusted["system_as_user"] += 1
            role, turn = "user", ("user", content)
        if role == before:
            adjusted["merged_turns"] += 1
            merged.setdefault(len(result) - 1, [result[-1][1]]).append(content)
        else:
            result.append(turn)
            before = role
        if type(turn) is Unlearned:
            unlearned.add(len(result) - 1)
    for at, contents in merged.items():
        result[at] = (result[at][0], "\n\n".join(contents))
    first = 1 if result and result[0][0] == "system" else 0
    if len(result) > first + 1 and result[first][0] == "assistant" and result[first + 1][0] == "user":
        adjusted["opening_as_context"] += 1
        unlearned.add(first)
    elif len(result) <= first or result[first][0] != "user":
        found = result[first][0] if len(result) > first else "no message at all"
        raise RowError("no_prompt", f"expected a user message first, found {found}")
    return result, tuple(sorted(unlearned)) if unlearned else ()


def _last_asked(turns: list[Turn]) -> int:
    """Position of the last user message; a system message at the end of the turns becomes one. -1 without any."""
    ends = len(turns) - 1
    return next(
        (at for at in range(ends, -1, -1) if turns[at][0] == "user" or (at == ends and turns[at][0] == "system")), -1
    )


def content_id(turns: list[Turn], unlearned: Collection[int] = ()) -> str:
    """16 hex digits: blake2b-8 of the canonical JSON (sorted keys, no spaces) of the messages.

    Raises:
        RowError: bad_unicode, text without a UTF-8 form.
    """
    try:
        messages = [_Message(content, role) for role, content in turns]
        for at in unlearned:
            messages[at].train = False
        return blake2b(_canonical_json(messages), digest_size=8).hexdigest()
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
