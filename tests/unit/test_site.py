"""The site of `make docs` has every page and the API of every name that `import al` offers. CI builds it; `mkdocs build --strict` finds
broken links."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import yaml

import al

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages(nav):
    """Every page that a navigation names."""
    for entry in nav:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from pages(target) if isinstance(target, list) else [target]


def documented():
    """The modules whose docstrings are pages, by page."""
    found = {}
    for page in (ROOT / "docs" / "api").glob("*.md"):
        found[page.name] = re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found


def test_every_page_of_docs_is_in_the_navigation_and_every_entry_is_a_page():
    listed = list(pages(CONFIG["nav"]))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    hooks = (ROOT / ".ci" / "site.py").read_text(encoding="utf-8")
    assert len(set(listed)) == len(listed) and written <= set(listed)
    for page in set(listed) - written:
        assert f'"{page}"' in hooks, page
        assert page == "index.md" or (ROOT / page).is_file(), page


def test_everything_that_al_offers_is_on_a_page_and_every_module_on_a_page_exists():
    modules = [importlib.import_module(name) for names in documented().values() for name in names]
    assert all(documented().values())
    shown = {name for module in modules for name in vars(module)}
    assert set(al.__all__) <= shown and "ConfigError" in shown


def test_the_site_fetches_nothing_from_another_one():
    assert CONFIG["theme"]["font"] is False and not {"extra_javascript", "extra_css"} & set(CONFIG)
