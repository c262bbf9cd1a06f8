"""Fields that a format does not use: counted per file and format, and judged whether they look like content.

A left-over field looks like content if its name is one of `CONTENT`, or if it is text of which most values contain a space, the
median is over 20 characters, over 10% of the values are distinct, and at least 1% of the rows have one. The judgement uses the
first `EXAMINED` values of a field, so memory does not grow with the file. A value that the conversation contains already, or that
contains the whole conversation (a rendered copy), loses nothing and is not judged.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from al.pool.formats.base import CONTEXT, HISTORY, SYSTEM, Row, Turn, has_text

EXAMINED = 4096
FIELDS_KEPT = 256
"""Left-over fields that are counted per file; a file whose rows all have different fields must not fill the memory."""
LONGEST_EXAMPLE = 120
CONTENT = frozenset(
    (*CONTEXT, *SYSTEM, *HISTORY, "choices", "options", "tools", "functions", "instruction", "question")
)
"""Names of fields that belong to a conversation in every format that has them."""
SET_ASIDE = frozenset(("rejected", "unanswered_turns"))
"""Metadata that is set aside on purpose and counted as such; it stops no import."""
_FROM_POOL = "labelling"
"""The format of files that `label` wrote: their other fields are metadata of the pool, judged when it was imported."""
_CLOSED_CHOICES = ("A", "B", "C", "D")
_MEDIAN, _SPACED, _DISTINCT, _SHARE = 20, 0.5, 0.1, 0.01
_REPEATED = 0.9


@dataclass
class _Field:
    """What is known of one left-over field; lengths, spaces and hashes are of its first values."""

    rows: int = 0
    example: str = ""
    examined: int = 0
    repeated: int = 0
    spaced: int = 0
    lengths: list[int] = field(default_factory=list)
    distinct: set[int] = field(default_factory=set)

    def examine(self, value: Any, turns: list[list[Turn]]) -> None:
        """Add one value of a row that became the conversations `turns`."""
        self.examined += 1
        if isinstance(value, str) and any(_repeats(value, conversation) for conversation in turns):
            self.repeated += 1
            return
        written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        self.example = self.example or written[:LONGEST_EXAMPLE]
        if isinstance(value, str):
            self.lengths.append(len(value))
            self.spaced += " " in value
            self.distinct.add(hash(value))

    @property
    def is_repeated(self) -> bool:
        """Whether nearly all values are in the conversation anyway."""
        return self.examined > 0 and self.repeated >= _REPEATED * self.examined

    @property
    def reads_like_content(self) -> bool:
        """Whether the values are sentences that differ from row to row."""
        count = len(self.lengths)
        return (
            count > 0
            and self.spaced > _SPACED * count
            and statistics.median(self.lengths) > _MEDIAN
            and len(self.distinct) > _DISTINCT * count
        )


class Leftovers:
    """The left-over fields of one file."""

    def __init__(self, mapped: bool = False):
        """With `mapped` the user chose the fields of the conversation, so only the names in `CONTENT` look like content."""
        self._mapped = mapped
        self._fields: dict[tuple[str, str], _Field] = {}

    def add(self, format_name: str, row: Row, used: Collection[str], turns: list[list[Turn]]) -> None:
        """Count the fields of `row` outside `used`; `turns` are the conversations that the row became."""
        for name, value in row.items():
            if name in used or value is None or isinstance(value, (bool, int, float)) or not has_text(value):
                continue
            found = self._fields.get((format_name, name))
            if found is None:
                if len(self._fields) >= FIELDS_KEPT:
                    continue
                found = self._fields[format_name, name] = _Field()
            found.rows += 1
            if found.examined < EXAMINED:
                found.examine(value, turns)

    def listed(self, rows: Mapping[str, int]) -> list[dict[str, Any]]:
        """One entry per field, those that look like content first: `format`, `field`, `rows`, `share` of the format's rows (`rows`),
        `example` ("" if the conversation contains the values), `content`."""
        entries = []
        for (format_name, name), found in self._fields.items():
            share = found.rows / max(1, rows.get(format_name, found.rows))
            content = self._is_content(format_name, name, found, share)
            place = {"format": format_name, "field": name, "rows": found.rows, "share": share}
            entries.append({**place, "example": found.example, "content": content})
        return sorted(
            entries, key=lambda entry: (not entry["content"], -entry["rows"], entry["format"], entry["field"])
        )

    def _is_content(self, format_name: str, name: str, found: _Field, share: float) -> bool:
        if found.is_repeated or name in SET_ASIDE or format_name == _FROM_POOL:
            return False
        if _plain(name) in CONTENT or (name in _CLOSED_CHOICES and all((format_name, n) in self._fields for n in "AB")):
            return True
        return not self._mapped and share >= _SHARE and found.reads_like_content


def listed_leftovers(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The left-over fields of all files of a pool.json, each with its `file`; those that look like content first."""
    found = [{"file": file["file"], **entry} for file in stats["files"] for entry in file.get("leftovers", ())]
    return sorted(found, key=lambda entry: (not entry["content"], entry["file"]))


def describe_leftover(entry: Mapping[str, Any]) -> str:
    """One left-over field in words: where, in how many rows, an example."""
    shown = f"for example {entry['example']!r:.80}" if entry["example"] else "repeated in the conversation"
    looks = "; looks like content" if entry["content"] else ""
    place = f"{entry['file']}: {entry['field']} ({entry['format']})"
    return f"{place}, {entry['rows']:,} rows ({entry['share']:.0%}), {shown}{looks}"


def ignores(names: Collection[str], field: str) -> bool:
    """Whether one of the `names` that the user ignores is this field, or the part of a message's field after `[].`."""
    plain = {_plain(name) for name in names}
    return _plain(field) in plain or _plain(field.rpartition("[].")[2]) in plain


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _repeats(value: str, turns: list[Turn]) -> bool:
    given = value.strip()
    if any(given in content for _, content in turns):
        return True
    return len(given) > len(turns[-1][1]) and all(
        part in given for _, content in turns for part in content.split("\n\n")
    )
