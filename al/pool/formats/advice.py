"""The `--map` to try for a row without a format: which column asks, which answers, by their names and by what one row has in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from al.excerpt import cut
from al.pool.formats.base import kind

LOOKED_AT = 40
"""Maximum number of columns that are judged; a header may have a million."""
SHOWN, EXAMPLE = 8, 32
"""Columns that a message shows with a value, and characters of that value."""
ASKS = frozenset(
    "question query prompt instruction input inquiry ask asked request problem user human q".split()  # noqa: SIM905
)
ANSWERS = frozenset(
    "answer response output reply completion solution said assistant bot target label gold a".split()  # noqa: SIM905
)
"""Words of column names, without a plural s."""
_NO_TEXT = frozenset(
    "id uid idx index uuid guid hash url link date day time timestamp created updated split lang language name email "  # noqa: SIM905
    "number num nr no count length score rating rank".split()
)
"""Last words of the names of columns that hold neither a prompt nor a response."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")
_NUMBER = re.compile(r"[-+]?[$€£]?\s?\d[\d.,]*\s?%?")
_CODE = re.compile(r"\S*\d\S*|\d[\d\s:./TZ+-]*")


def is_number(text: str) -> bool:
    """Whether a text is a bare number: `17`, `-2.5`, `1,200`, `30 %`."""
    return _NUMBER.fullmatch(text.strip()) is not None


def advice(row: Mapping[str, Any]) -> str:
    """What to type for a row without a format. Where no column is clearly the question, or the answer, a placeholder stands, which fails
    if it is copied."""
    asked = "map the fields with --map, for example --map"
    candidates: dict[str, str] = {}
    for name, value in islice(row.items(), LOOKED_AT):
        if not isinstance(name, str) or len(name) > LOOKED_AT or _words(name)[-1:] in ([word] for word in _NO_TEXT):
            continue
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value[:LOOKED_AT]):
            return f"{asked} {shlex.quote(f'conversations={name}')} (`pool.map`)"
        candidates |= _texts(name, value)
    question, answer = _pair(candidates)
    return f"{asked} {shlex.quote(f'instruction={question},output={answer}')} (`pool.map`)"


def columns_with_values(row: Mapping[str, Any]) -> str:
    """`ticket ('0'), question ('How do I …')`: the columns of a row, each with what this row has in it; "none" without any."""
    shown = [f"{cut(str(name), LOOKED_AT)} ({_value(value)})" for name, value in islice(row.items(), SHOWN)]
    more = f" and {len(row) - SHOWN:,} more" if len(row) > SHOWN else ""
    return ", ".join(shown) + more or "none"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return repr(cut(" ".join(value[: 4 * EXAMPLE].split()), EXAMPLE))
    return str(value)[:EXAMPLE] if isinstance(value, (bool, int, float)) else kind(value)


def _words(name: str) -> list[str]:
    """The words of a column's name in lower case, without a plural s: `customerQuestions` is customer, question."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words]


def _texts(name: str, value: Any) -> dict[str, str]:
    """{path: text} of a column: itself, or the first two texts of a list."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value[:LOOKED_AT]):
        return {f"{name}.{at}": text for at, text in enumerate(value[:2])}
    if isinstance(value, str) and value.strip():
        return {name: value}
    return {name: str(value)} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}


def _pair(candidates: Mapping[str, str]) -> tuple[str, str]:
    """The paths of question and answer, or placeholders."""
    question = next(_named(candidates, ASKS), None)
    answer = next(_named(candidates, ANSWERS, numbers=True), None)
    if question is None and answer is not None and len(answer) == 1:
        answer = None  # `a` is an answer next to `q` only
    others = [path for path, text in candidates.items() if path not in (question, answer) and _is_prose(text)]
    turns = [path for path in candidates if path[-2:] in (".0", ".1")]
    if question is None and answer is None and len(turns) == 2:
        question, answer = turns
    elif (question is None) != (answer is None) and len(others) == 1:
        question, answer = question or others[0], answer or others[0]
    return question or "YOUR_QUESTION_COLUMN", answer or "YOUR_ANSWER_COLUMN"


def _named(candidates: Mapping[str, str], words: frozenset[str], numbers: bool = False) -> Iterator[str]:
    """The paths whose last word for a question or an answer is one of `words`: sentences first, the longest first, numbers and codes last
    or not at all."""
    fitting = {}
    for path, text in candidates.items():
        named = [word for word in _words(path) if word in ASKS or word in ANSWERS]
        coded = _CODE.fullmatch(text.strip()) is not None
        if named and named[-1] in words and (numbers or not coded):
            fitting[path] = (coded, not _is_prose(text), -len(text))
    yield from sorted(fitting, key=lambda path: fitting[path])


def _is_prose(text: str) -> bool:
    """Whether a text is more than a word, a number, a date or a code."""
    return len(text.split()) > 1 and _CODE.fullmatch(text.strip()) is None
