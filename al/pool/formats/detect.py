"""Detects the format of a row, and writes the message for a row without one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from al.pool.formats.advice import LOOKED_AT, advice, columns_with_values
from al.pool.formats.base import FORMATS, Format, RowError


def detect(names: Collection[str]) -> str | None:
    """The first format that matches a row with these field names, or None."""
    return next((candidate.name for candidate in FORMATS.values() if candidate.matches(names)), None)


def recognise(names: Sequence[str]) -> tuple[str, Mapping[str, str]] | None:
    """(format, {field: new name}) for a row with these field names, or None.

    Fields are renamed only if no format matches the exact names: "Question " becomes "question", unless that exists.
    """
    found = detect(frozenset(names))
    if found is not None:
        return found, {}
    renamed: dict[str, str] = {}
    taken = set(names)
    for name in names:
        plain = name.strip().lower().replace(" ", "_") if isinstance(name, str) else name
        if plain != name and plain not in taken:
            renamed[name] = plain
            taken.add(plain)
    found = detect(frozenset(renamed.get(name, name) for name in names)) if renamed else None
    return (found, renamed) if found is not None else None


def unknown_row(row: Mapping[str, Any], compared: bool = True) -> str:
    """The message for a row without a format: its fields with their values, a map of them and, if `compared`, the nearest format and its
    missing fields (1 ms)."""
    known = sorted(str(name) for name in row)[:LOOKED_AT]
    found = f"fields {columns_with_values(row)}: no known format has these"
    if not compared:
        return f"{found}; {advice(row)}"
    nearest = max(FORMATS.values(), key=lambda candidate: _likeness(candidate, known))
    if _likeness(nearest, known) <= 0 or all(name in known for name in nearest.expects):
        return f"{found}; {advice(row)}"
    lacking = [f"`{name}`{_meant(name, known)}" for name in nearest.expects if name not in known]
    return f"{found}; it looks like {nearest.name}, but has no {' and no '.join(lacking)}; {advice(row)}"


def _likeness(candidate: Format, names: list[str]) -> float:
    """Number of the format's fields in the row; a similar name counts less; 0 if there are none."""
    if not candidate.expects:
        return 0.0
    exact = sum(name in names for name in candidate.expects)
    close = sum(bool(_meant(name, names)) for name in candidate.expects if name not in names)
    return (exact + 0.6 * close) / len(candidate.expects) if exact or close else 0.0


def _meant(name: str, names: list[str]) -> str:
    lowered = {other.strip().lower(): other for other in names}
    near = difflib.get_close_matches(name, [other for other in lowered if other != name], n=1, cutoff=0.8)
    return f" (`{lowered[near[0]][:40]}`?)" if near else ""


def table_by_column(row: Any) -> RowError | None:
    """The error for a row that is a whole table, column by column: lists of one length, or texts by number as pandas writes them."""
    if not isinstance(row, dict) or len(row) < 2:
        return None
    columns = list(row.values())
    lists = all(
        isinstance(column, list) and not any(isinstance(one, list | dict) for one in column) for column in columns
    )
    numbered = all(isinstance(column, dict) and all(str(key).isdecimal() for key in column) for column in columns)
    if not (lists or numbered) or len({len(column) for column in columns}) > 1 or len(columns[0]) < 2:
        return None
    shown = ", ".join(f"`{name}`" for name in list(row)[:4])
    return RowError(
        "columns",
        f"a table column by column ({shown}: {len(columns[0]):,} values each), not one row; write one JSON object per row, "
        "for example with pandas: DataFrame(json.load(open(FILE))).to_json(OUT, orient='records', lines=True)",
    )
