"""`pool.map`: maps fields of a row, or texts built from several, to fields of a known format.

    question: q                              the field q
    answer: choices.0.text                   a field inside a field; a number is a list index from 0
    question: "{passage}\\n\\n{query}"         a text built from fields ({{ and }} are braces)

Only mapped fields make the conversation; the row's other fields are metadata.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Iterable, Mapping
from typing import Any

from al.errors import ConfigError
from al.pool.formats.base import FORMATS, SOURCE_FIELDS, Row, RowError, text
from al.pool.formats.detect import detect

Piece = tuple[str, str | None]
"""Literal text, and the path of the field that follows it, if any."""

DESCRIBING = frozenset((*SOURCE_FIELDS, "id", "lang", "language", "group"))
"""Fields that may be mapped although no conversation holds them: they name or describe the example."""
_MISSING = object()


def parse_map(entries: Iterable[str], flag: str = "--map") -> dict[str, str]:
    """{canonical field: field or template} from `instruction=q,output=a` as given on the command line.

    A comma separates only if NAME=VALUE follows, so templates may contain commas.

    Raises:
        ConfigError: an entry is not NAME=VALUE.
    """
    found: dict[str, str] = {}
    for entry in entries:
        name = None
        for part in entry.split(","):
            key, equals, value = part.partition("=")
            if (
                equals
                and key.strip().isidentifier()
                and (name is None or found[name].count("{") == found[name].count("}"))
            ):
                name = key.strip()
                found[name] = value
            elif name is not None:
                found[name] += f",{part}"
            else:
                raise ConfigError(f"{flag} {entry}: expected FIELD=YOURS, for example {flag} instruction=q,output=a.")
    for name, value in found.items():
        if not value.strip():
            raise ConfigError(f"{flag}: {name}= names no field; expected for example {flag} {name}=your_field.")
    return {name: value if "{" in value else value.strip() for name, value in found.items()}


def check_map(mapping: Mapping[str, str], format_name: str, key: str = "pool.map") -> None:
    """Check a mapping. Raises ConfigError if no format has the mapped names or the format does not use one of them, or a template
    is invalid."""
    for name, value in mapping.items():
        _pieces(name, value, key)
    if not mapping:
        return
    found = format_name if format_name != "auto" else detect(mapping.keys())
    if found is not None:
        known = FORMATS[found].uses
        if unused := [name for name in mapping if name not in known and name not in DESCRIBING]:
            raise ConfigError(
                f"{key}: the format {found}, which has {', '.join(n for n in mapping if n not in unused)}, does not use "
                f"{', '.join(unused)}. It uses {', '.join(sorted(known))}. Map onto one of these, or put the field into a text, "
                "for example question='{passage} {query}'."
            )
        return
    known = sorted({name for candidate in FORMATS.values() for name in candidate.expects})
    near = {name: difflib.get_close_matches(name, known, n=1) for name in mapping}
    hint = ", ".join(f"`{found[0]}` for `{name}`" for name, found in near.items() if found and found[0] != name)
    raise ConfigError(
        f"{key}: no format has the field(s) {', '.join(mapping)}"
        + (f"; did you mean {hint}?" if hint else ".")
        + " Map onto one of these, for example: question and answer, instruction and output, messages, conversations, text."
    )


class FieldMap:
    """A compiled mapping.

    Args:
        entries: (canonical field, field or template) pairs.

    Raises:
        ConfigError: an invalid template.
    """

    def __init__(self, entries: Iterable[tuple[str, str]], key: str = "pool.map"):
        self._key = key
        self._pieces = {name: _pieces(name, value, key) for name, value in entries}

    def apply(self, row: Row) -> tuple[Row, Row]:
        """(mapped fields, other fields of the row).

        Raises:
            RowError: missing_field, naming a field that the row lacks.
        """
        used: set[str] = set()
        mapped: dict[str, Any] = {}
        for name, pieces in self._pieces.items():
            if isinstance(pieces, str):
                mapped[name] = self._take(row, pieces, name, used)
                continue
            written = []
            for words, path in pieces:
                written.append(words)
                if path is not None:
                    value = self._take(row, path, name, used)
                    if value is None:
                        raise RowError("missing_field", f"{path}: null; {self._key} needs it for `{name}`")
                    written.append(text({path: value}, path))
            mapped[name] = "".join(written)
        return mapped, {key: value for key, value in row.items() if key not in used}

    def _take(self, row: Row, path: str, name: str, used: set[str]) -> Any:
        if path in row:
            used.add(path)
            return row[path]
        value: Any = row
        steps = path.split(".")
        for step in steps:
            value = _step(value, step)
            if value is _MISSING:
                raise RowError("missing_field", f"{path}: missing; {self._key} needs it for `{name}`")
        used.add(steps[0])
        return value


def _step(value: Any, step: str) -> Any:
    if isinstance(value, dict):
        return value.get(step, _MISSING)
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    return _MISSING


def _pieces(name: str, value: str, key: str) -> str | list[Piece]:
    """The parsed parts of one field path or template."""
    if "{" not in value and "}" not in value:
        return value
    try:
        parsed = [(words, path, spec, how) for words, path, spec, how in string.Formatter().parse(value)]
    except ValueError as error:
        raise ConfigError(f"{key}: {name}: {error} in {value!r}; write {{{{ and }}}} for braces.") from None
    for _, path, spec, how in parsed:
        if path == "" or spec or how:
            raise ConfigError(f"{key}: {name}: expected the name of a field in each pair of braces of {value!r}.")
    return [(words, path) for words, path, _, _ in parsed]
