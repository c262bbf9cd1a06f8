"""Formats whose field names say little. The last that are tried."""

from __future__ import annotations

from al.pool.formats.base import Example, Row, RowError, row_format
from al.pool.formats.chat import conversation


@row_format("ultrachat", "data: [text, …], the user's first", lambda names: "data" in names, ("data",))
def _ultrachat(row: Row) -> list[Example]:
    adjusted: list[str] = []
    return [Example(conversation(row.get("data"), "data", adjusted), ("data",), [], adjusted)]


@row_format("text", "text: a whole conversation, which `pool.text_template` takes apart", lambda names: "text" in names,
            ("text",))  # fmt: skip
def _text(row: Row) -> list[Example]:
    raise RowError(
        "no_template",
        "text: say in `pool.text_template` how it is to be taken apart, for example "
        "'### Human: {user}### Assistant: {assistant}'",
    )
