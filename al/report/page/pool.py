"""What a pool holds as one HTML page: `al.commands.inspect_pool`'s document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al.excerpt import counted
from al.report.page.base import render_document
from al.report.reading import pool_words
from al.terminal import displayable


def render_pool(document: Mapping[str, Any]) -> str:
    """The whole page (about 30 kB and the texts of its examples)."""
    document = displayable(document)
    formats = pool_words.by_format([{**entry, "at": at} for at, entry in enumerate(document["recognised"])])
    title = f"Pool: {counted(document['examples'], 'example')}"
    return render_document("pool", document, title, ["pool/pool.js"], formats=formats, words=pool_words)
