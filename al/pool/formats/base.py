"""Shared parts of row formats: the registry, and reading of fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

Row = dict[str, Any]
Turn = tuple[str, str]
"""(role, content) of one message."""


class Unlearned(tuple):
    """A turn (role, content) of the assistant that is context only: it is not trained on."""

    __slots__ = ()


ROLES_EXPECTED = "expected system, user, assistant or tool"
RESPONSES = (
    *(
        "completion",
        "response",
        "output",
        "answer",
        "solution",
        "canonical_solution",
        "correct_answer",
        "chosen_response",
    ),
    *("generation", "generations", "completions"),
)
"""Fields that may hold the response to a prompt, in the order in which they are tried."""
SYSTEM = ("system", "system_prompt")
CONTEXT = ("context", "contexts", "passage", "passages", "document", "documents", "article", "background", "body")
"""Fields that belong in front of the question."""
HISTORY = ("history",)
SOURCE_FIELDS = ("source", "dataset", "task", "category", "data_source", "task_name", "_task_name")
"""Fields that may name an example's source, in the order in which they are tried."""
AROUND = frozenset((*SYSTEM, *CONTEXT, *HISTORY, "tools"))
"""Fields that belong to the conversation of a single question, in any format of one."""


class RowError(ValueError):
    """An unusable row: `reason` is a code that is counted, the message names the field."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Example(msgspec.Struct, frozen=True, gc=False):
    """One conversation as read by a format.

    `turns` end with the response, or with the prompt if there is none (unlabelled). `used` names the row's fields that
    are not metadata. `alternatives` are other accepted answers. `adjusted` lists one code per change or omission.
    `metadata`, if given, replaces the row's other fields; `source` is the example's source. `left` are parts of used fields that
    the conversation cannot hold; they become metadata.
    """

    turns: list[Turn]
    used: tuple[str, ...]
    alternatives: list[str] = []
    adjusted: Collection[str] = ()
    metadata: Mapping[str, Any] | None = None
    source: str | None = None
    left: Mapping[str, Any] = {}


class Gathering(Protocol):
    """Rows that form examples only together, such as the messages of a tree. `used` names the fields that it reads."""

    used: frozenset[str]

    def add(self, row: Row, line: int) -> None:
        """Add one row. Raises RowError."""

    def finish(self) -> Iterator[tuple[int, Example | RowError, Row]]:
        """(line, example or error, row) of all added rows."""


@dataclass(frozen=True)
class Format:
    """A named row format: `matches(field names)`, and `convert(row)`, which raises RowError.

    `fields` describes it in messages; `expects` are the fields of a complete row, `uses` all fields that it may read. A format whose
    rows belong together has `gathers`, which collects the rows of one file instead.
    """

    name: str
    fields: str
    matches: Callable[[Collection[str]], bool]
    convert: Callable[[Row], list[Example]]
    expects: tuple[str, ...] = ()
    uses: frozenset[str] = frozenset()
    gathers: Callable[[], Gathering] | None = None


FORMATS: dict[str, Format] = {}


def row_format(
    name: str,
    fields: str,
    matches: Callable[[Collection[str]], bool],
    expects: tuple[str, ...] = (),
    uses: Iterable[str] = (),
    gathers: Callable[[], Gathering] | None = None,
) -> Callable:
    """Register a function Row → list[Example] as format `name`; the other arguments are the fields of `Format`. `uses` need not
    repeat `expects`."""

    def register(convert: Callable[[Row], list[Example]]) -> Callable[[Row], list[Example]]:
        """Add `convert` to FORMATS and return it unchanged."""
        FORMATS[name] = Format(name, fields, matches, convert, expects, frozenset((*expects, *uses)), gathers)
        return convert

    return register


def has(*names: str) -> Callable[[Collection[str]], bool]:
    """A `matches` function for rows that have all of `names`."""
    return set(names).issubset


def text(row: Row, name: str, default: str | None = None) -> str:
    """The string in field `name`; numbers and booleans become text. A missing or null field gives `default`, or RowError without one."""
    value = row.get(name)
    if isinstance(value, str):
        return value
    if value is None:
        if default is None:
            raise RowError("missing_field", f"{name}: missing or null; expected a string")
        return default
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("not_finite", f"{name}: expected a string, found {value}, which is not JSON")
    if isinstance(value, (bool, int, float)):
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    raise RowError("wrong_type", f"{name}: expected a string, found {kind(value)}")


def answers(row: Row, name: str) -> list[str]:
    """The accepted answers in field `name`, a string or a list; [] if missing, null or blank."""
    value = row.get(name)
    if not isinstance(value, list):
        return [given] if (given := text(row, name, "")).strip() else []
    return [given for item in value if (given := text({name: item}, name, "")).strip()]


def response_field(row: Row, names: tuple[str, ...] = RESPONSES) -> str:
    """The first of `names` with a value in this row; the first of all if none has one."""
    for name in names:
        if row.get(name):
            return name
    present = [name for name in names if name in row]
    filled = [name for name in present if row[name] not in (None, "", [])]  # 0 and false are answers
    return (filled or present or names)[0]


def ask(question: str, responses: list[str], used: tuple[str, ...]) -> list[Example]:
    """One question with the first response; the others become alternatives."""
    turns = [("user", question)]
    if responses:
        turns.append(("assistant", responses[0]))
    return [Example(turns, used, responses[1:])]


def with_input(instruction: str, context: str) -> str:
    """An instruction and its input as one question."""
    return "\n\n".join(said for said in (instruction, context) if said.strip()) or instruction


def joined(*texts: str) -> str:
    """Texts separated by blank lines, without empty ones and those that another one contains."""
    kept: list[str] = []
    for said in texts:
        if said.strip() and not any(said in other for other in kept):
            kept = [*(other for other in kept if other not in said), said]
    return "\n\n".join(kept)


def has_text(value: Any) -> bool:
    """Whether a value is text, or contains some."""
    if isinstance(value, str):
        return bool(value) and not value.isspace()
    if isinstance(value, dict):
        return any(has_text(item) for item in value.values())
    return isinstance(value, list) and any(has_text(item) for item in value)


def kind(value: Any) -> str:
    """The JSON type of a value in words, for messages."""
    if value is None:
        return "null or nothing"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
