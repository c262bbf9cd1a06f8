"""Formats with unspecific field names. They are tried last."""

from __future__ import annotations

from al.pool.formats.base import Example, Row, RowError, row_format, text
from al.pool.formats.chat import conversation, cut_unanswered
from al.pool.formats.templated import TAKEN_APART, take_apart
from al.pool.formats.turns import Notes


@row_format("ultrachat", "data: [text, …], starting with the user", lambda names: "data" in names, ("data",))
def _ultrachat(row: Row) -> list[Example]:
    notes = Notes()
    return [notes.example(cut_unanswered(conversation(row.get("data"), "data", notes), notes), ("data",))]


@row_format("text", "text: a whole conversation, parsed with `pool.text_template`", lambda names: "text" in names,
            ("text",))  # fmt: skip
def _text(row: Row) -> list[Example]:
    turns = take_apart(text(row, "text"), "text")
    if turns is not None:
        return [Example(cut_unanswered(turns, Notes()), ("text",), [], (TAKEN_APART,))]
    raise RowError(
        "no_template",
        "text: set `pool.text_template` to parse it, for example '### Human: {user}### Assistant: {assistant}'",
    )
