"""Hooks of mkdocs: pages of the repository's root join those of docs/, and links between the two follow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "index.md": "README.md",
    **{name: name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "submission/README.md")},
}
"""Page of the site: file of the repository."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **other: Any) -> str:
    """Point links at pages of the site: from where a file lies in the repository to where its page lies."""
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    by_source = {file: name for name, file in PAGES.items()}
    ups = "../" * page.file.src_uri.count("/")

    def moved(link: re.Match[str]) -> str:
        """The link as it is on the site; its text alone for a file of the repository that is not on the site."""
        target = (ROOT / source).parent / link[2]
        if "://" in link[2] or not target.exists():  # mkdocs reports the second
            return link[0]
        place = target.resolve().relative_to(ROOT).as_posix()
        if place not in by_source and not place.startswith("docs/"):
            return link[1]
        return f"[{link[1]}]({ups}{by_source.get(place, place.removeprefix('docs/'))}{link[3] or ''})"

    return LINK.sub(moved, markdown)
