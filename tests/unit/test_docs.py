"""What the pages say holds: figures come from records, links lead somewhere, every trap has its test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_benchmark_page_is_what_the_records_say():
    done = subprocess.run([sys.executable, ROOT / "benchmarks/render.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:al|selection|trainer|configs|tests|docs|benchmarks)/[\w/.-]+)`", text)
    missing = [link for link in links if link and not (page.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_every_trap_has_a_test_that_names_it():
    numbers = re.findall(r"^\| (\d+) \|", (ROOT / "docs/traps.md").read_text(encoding="utf-8"), re.MULTILINE)
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(numbers) > 15
    assert [n for n in numbers if not re.search(rf"trap_{n}_|trap {n}\b", tests)] == []


def test_every_config_key_is_explained():
    from al.config import Config, walk

    assert [name for name, field in walk(Config) if not field.description] == []
