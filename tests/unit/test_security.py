"""Every protection that SECURITY.md names has the test that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def named():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    return text, re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def test_every_test_that_security_md_names_exists_and_asserts_something():
    _, tests = named()
    assert len(tests) > 20
    for file, name in tests:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name] or [
            None
        ]
        assert found is not None, f"{file} has no {name}"
        assert len(ast.unparse(found).splitlines()) > 1


def test_no_protection_is_claimed_without_a_test():
    text, _ = named()
    table = text.split("## What is protected")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    assert len(rows) > 20
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::test_\w+` \|$", row)] == []
