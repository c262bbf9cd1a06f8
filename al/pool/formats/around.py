"""What belongs to the conversation of a single question in any format: system prompt, history, tools and context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from al.pool.formats.base import AROUND, CONTEXT, HISTORY, SYSTEM, Example, Row, RowError, Turn, joined, kind, text
from al.pool.formats.turns import Notes, listed, read_turns, with_tools


def in_context(convert: Callable[[Row], list[Example]]) -> Callable[[Row], list[Example]]:
    """`convert` of a format of single questions, for rows that also have fields of `AROUND`.

    The system prompt comes first, then the turns of the history; the context is put in front of the question, unless the question
    contains it.
    """

    def converted(row: Row) -> list[Example]:
        """The examples of a row."""
        examples = convert(row)
        if AROUND.isdisjoint(row):
            return examples
        notes = Notes()
        before = [turn for name in HISTORY if row.get(name) for turn in _history(row[name], name, notes)]
        context = joined(*(_context(row[name], name) for name in CONTEXT if row.get(name)))
        return [notes.added_to(_surrounded(example, row, before, context)) for example in examples]

    return converted


def system_prompt(row: Row) -> str:
    """The system prompt of a row, "" without one; several are joined. Raises RowError."""
    return joined(*(text(row, name, "") for name in SYSTEM if name in row))


def with_system(turns: list[Turn], row: Row) -> list[Turn]:
    """The turns with the row's system prompt in front, unless the first message is one that contains it."""
    if "system" not in row and "system_prompt" not in row:
        return turns
    system = system_prompt(row).strip()
    if turns and turns[0][0] == "system" and system in turns[0][1]:
        return turns
    return [("system", system), *turns] if system else turns


def _history(value: Any, name: str, notes: Notes) -> list[Turn]:
    """The earlier turns in field `name`: pairs of question and answer, or messages."""
    value = listed(value, name)
    if all(isinstance(message, dict) for message in value):
        return read_turns(value, name, notes)
    turns: list[Turn] = []
    for index, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("wrong_type", f"{name}[{index}]: expected a pair of question and answer, found {kind(pair)}")
        asked, answered = (text({name: said}, name) for said in pair)
        turns += [("user", asked), ("assistant", answered)]
    return turns


def _context(value: Any, name: str) -> str:
    """The text of a context: a string, or a list of strings or of objects with a text."""
    if not isinstance(value, list):
        return text({name: value}, name)
    parts = []
    for item in value:
        if isinstance(item, dict) and (
            held := next((key for key in ("text", "content", "contents") if key in item), None)
        ):
            title = text(item, "title", "")
            parts.append(f"{title}\n{text(item, held)}" if title.strip() else text(item, held))
        else:
            parts.append(text({name: item}, name))
    return joined(*parts)


def _surrounded(example: Example, row: Row, before: list[Turn], context: str) -> Example:
    turns = list(example.turns)
    at = max((index for index, (role, _) in enumerate(turns) if role == "user"), default=None)
    if at is not None and context and not any(context in content for role, content in turns if role != "assistant"):
        turns[at] = ("user", joined(context, turns[at][1]))
    first = 1 if turns and turns[0][0] == "system" else 0
    turns = with_system([*turns[:first], *before, *turns[first:]], row)
    if row.get("tools"):
        turns = with_tools(turns, row["tools"], "tools")
    return replace(example, turns=turns, used=(*example.used, *AROUND))
