"""Rows written by `pool export`: they are read back unchanged."""

from __future__ import annotations

import json

from al.pool.formats.base import Example, Row, RowError, kind, row_format, text
from al.pool.formats.turns import Notes, read_turns

FIELDS = ("id", "messages", "source", "alternatives", "labelled", "metadata")


@row_format(
    "exported",
    "id, messages, source, alternatives, labelled, metadata and nothing else: written by `pool export`",
    lambda names: len(names) == len(FIELDS) and set(FIELDS).issubset(names),
    uses=FIELDS,
)
def _exported(row: Row) -> list[Example]:
    alternatives, metadata = row.get("alternatives") or [], row.get("metadata") or {}
    if not isinstance(alternatives, list) or not all(isinstance(answer, str) for answer in alternatives):
        raise RowError("wrong_type", f"alternatives: expected a list of texts, found {kind(alternatives)}")
    if isinstance(metadata, str):  # in Parquet
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            raise RowError("invalid_json", "metadata: expected an object as JSON text") from None
    if not isinstance(metadata, dict):
        raise RowError("wrong_type", f"metadata: expected an object, found {kind(metadata)}")
    source = text(row, "source").strip()
    if not source:
        raise RowError("empty_field", "source: empty; expected the name of the data set")
    turns = read_turns(row.get("messages"), "messages", Notes())
    return [Example(turns, FIELDS, alternatives, (), metadata, source)]
