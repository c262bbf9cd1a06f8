"""What every row format is made of: the registry, and how a field of a raw row is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

Row = dict[str, Any]
Turn = tuple[str, str]
"""(role, content) of one message."""

ROLES_EXPECTED = "expected system, user, assistant or tool"
RESPONSES = ("completion", "response", "output", "answer", "solution")
"""Fields that hold a response beside a prompt, in the order in which they are tried."""


class RowError(ValueError):
    """A row that cannot be used: `reason` is a code that is counted, the message names the field."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Example(msgspec.Struct, frozen=True, gc=False):
    """One conversation as a format found it.

    `turns` end with the response, or with the prompt when there is none (unlabelled). `used` names the row's fields that
    are not metadata. `alternatives` are accepted answers besides the response. `adjusted` names what was changed or left
    out on the way, one code each time; `metadata`, where given, stands for the row's other fields, and `source` is the example's.
    """

    turns: list[Turn]
    used: tuple[str, ...]
    alternatives: list[str] = []
    adjusted: Collection[str] = ()
    metadata: Mapping[str, Any] | None = None
    source: str | None = None


class Gathering(Protocol):
    """Rows that make examples only together, as the messages of a tree do."""

    def add(self, row: Row, line: int) -> None:
        """Take one row. Raises RowError."""

    def finish(self) -> Iterator[tuple[int, Example | RowError, Row]]:
        """(line, example or why there is none, row) of everything that was taken."""


@dataclass(frozen=True)
class Format:
    """A named way to write examples: `matches(field names)`, and `convert(row)`, which raises RowError.

    `fields` describes it to a reader; `expects` are the fields that a whole row has. A format whose rows belong together
    has `gathers`, which the rows of one file go through instead.
    """

    name: str
    fields: str
    matches: Callable[[Collection[str]], bool]
    convert: Callable[[Row], list[Example]]
    expects: tuple[str, ...] = ()
    gathers: Callable[[], Gathering] | None = None


FORMATS: dict[str, Format] = {}


def row_format(
    name: str,
    fields: str,
    matches: Callable[[Collection[str]], bool],
    expects: tuple[str, ...] = (),
    gathers: Callable[[], Gathering] | None = None,
) -> Callable:
    """Register a function Row → list[Example] as format `name`; the other arguments are those of `Format`."""

    def register(convert: Callable[[Row], list[Example]]) -> Callable[[Row], list[Example]]:
        FORMATS[name] = Format(name, fields, matches, convert, expects, gathers)
        return convert

    return register


def has(*names: str) -> Callable[[Collection[str]], bool]:
    """Matches rows that have all of `names`."""
    return set(names).issubset


def text(row: Row, name: str, default: str | None = None) -> str:
    """The string in field `name`; numbers and booleans are written out. Missing or null gives `default`, else RowError."""
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
        return str(value)
    raise RowError("wrong_type", f"{name}: expected a string, found {kind(value)}")


def answers(row: Row, name: str) -> list[str]:
    """One or several accepted answers in field `name`, given as a string or a list; [] when missing, null or blank."""
    value = row.get(name)
    if not isinstance(value, list):
        return [given] if (given := text(row, name, "")).strip() else []
    return [given for item in value if (given := text({name: item}, name, "")).strip()]


def response_field(row: Row, names: tuple[str, ...] = RESPONSES) -> str:
    """The first of `names` that holds something in this row; the first of all where none does."""
    for name in names:
        if row.get(name):
            return name
    present = [name for name in names if name in row]
    filled = [name for name in present if row[name] not in (None, "", [])]  # 0 and false are answers
    return (filled or present or names)[0]


def ask(question: str, responses: list[str], used: tuple[str, ...], system: str = "") -> list[Example]:
    """One question with the first response, the others as alternatives."""
    turns = [("system", system), ("user", question)] if system.strip() else [("user", question)]
    if responses:
        turns.append(("assistant", responses[0]))
    return [Example(turns, used, responses[1:])]


def with_input(instruction: str, context: str) -> str:
    """An instruction and what it is about, as one question."""
    return f"{instruction}\n\n{context}" if context.strip() else instruction


def kind(value: Any) -> str:
    """The JSON type of a value in words."""
    if value is None:
        return "null or nothing"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
