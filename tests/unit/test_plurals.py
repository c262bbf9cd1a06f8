"""What commands print of a count goes through `al.excerpt.counted`, so that none prints "1 examples"."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from al.excerpt import counted

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for room in ("commands", "review", "comparison") for path in (ROOT / "al" / room).rglob("*.py"))
NOUNS = "answer|artifact|cluster|edit|example|file|group|prompt|request|round|row|run|seed|source|step|text|token"


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (1, ("example",), "1 example"),
        (0, ("example",), "0 examples"),
        (2000, ("edited text",), "2,000 edited texts"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
    ],
)
def test_a_noun_agrees_with_its_count(count, words, text):
    assert counted(count, *words) == text


def written_plurals(source: str) -> list[str]:
    """Counts in f-strings that a plural follows whatever they are: `{x:,} rows`, `{len(x)} rows`. After "the" they are more than one."""
    found = []
    for node in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.JoinedStr)):
        before = ""
        for value, after in zip(node.values, [*node.values[1:], None], strict=True):
            if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                count, spec = ast.unparse(value.value), value.format_spec and ast.unparse(value.format_spec)
                plural = re.match(rf" (?:{NOUNS})s\b(?!/)", str(after.value))
                counts = spec == "f','" or count.startswith("len(")
                if plural and counts and not count.isupper() and not before.endswith("the "):
                    found.append(f"{{{count}}}{plural[0]}")
            before = str(value.value) if isinstance(value, ast.Constant) else ""
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_count_is_followed_by_a_plural_alone(path):
    assert written_plurals(path.read_text(encoding="utf-8")) == []


def test_the_scan_finds_plurals():
    found = written_plurals('f"{n:,} rows, {len(x)} files and {k} tokens"; f"of the {n:,} rows {MOST:,} runs"')
    assert found == ["{n} rows", "{len(x)} files"]
