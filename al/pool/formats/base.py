"""Shared parts of row formats: the registry, and reading of fields."""

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
"""Fields that may hold the response to a prompt, in the order in which they are tried."""


class RowError(ValueError):
    """An unusable row: `reason` is a code that is counted, the message names the field."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Example(msgspec.Struct, frozen=True, gc=False):
    """One conversation as read by a format.

    `turns` end with the response, or with the prompt if there is none (unlabelled). `used` names the row's fields that
    are not metadata. `alternatives` are other accepted answers. `adjusted` lists one code per change or omission.
    `metadata`, if given, replaces the row's other fields; `source` is the example's source.
    """

    turns: list[Turn]
    used: tuple[str, ...]
    alternatives: list[str] = []
    adjusted: Collection[str] = ()
    metadata: Mapping[str, Any] | None = None
    source: str | None = None


class Gathering(Protocol):
    """Rows that form examples only together, such as the messages of a tree."""

    def add(self, row: Row, line: int) -> None:
        """Add one row. Raises RowError."""

    def finish(self) -> Iterator[tuple[int, Example | RowError, Row]]:
        """(line, example or error, row) of all added rows."""


@dataclass(frozen=True)
class Format:
    """A named row format: `matches(field names)`, and `convert(row)`, which raises RowError.

    `fields` describes it in messages; `expects` are the fields of a complete row. A format whose rows belong together
    has `gathers`, which collects the rows of one file instead.
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
    """Register a function Row → list[Example] as format `name`; the other arguments are the fields of `Format`."""

    def register(convert: Callable[[Row], list[Example]]) -> Callable[[Row], list[Example]]:
        """Add `convert` to FORMATS and return it unchanged."""
        FORMATS[name] = Format(name, fields, matches, convert, expects, gathers)
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
        return str(value)
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


def ask(question: str, responses: list[str], used: tuple[str, ...], system: str = "") -> list[Example]:
    """One question with the first response; the others become alternatives."""
    turns = [("system", system), ("user", question)] if system.strip() else [("user", question)]
    if responses:
        turns.append(("assistant", responses[0]))
    return [Example(turns, used, responses[1:])]


def with_input(instruction: str, context: str) -> str:
    """An instruction and its input as one question."""
    return f"{instruction}\n\n{context}" if context.strip() else instruction


def kind(value: Any) -> str:
    """The JSON type of a value in words, for messages."""
    if value is None:
        return "null or nothing"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
