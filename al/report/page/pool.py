"""What a pool holds as one HTML page that works from disk, behind the report's walls: `al.commands.inspect_pool`'s document.

Everything is escaped, no request leaves the page, and only its own script (the filter of the table) may run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from al.report.page.html import TEMPLATES, _environment, content_security_policy
from al.report.reading import pool_words
from al.report.reading.values import displayable

SECTIONS = {
    "overview": "Overview",
    "recognised": "Recognised",
    "sources": "Sources",
    "languages": "Languages",
    "turns": "Turns",
    "lengths": "Lengths",
    "duplicates": "Duplicates",
    "quarantine": "Quarantine",
    "rendered": "As the model sees it",
    "samples": "Browse",
}
RENDERED_CHARACTERS = 3_000


def render_pool(document: Mapping[str, Any]) -> str:
    """The whole page (about 30 kB and the texts of its examples).

    As in the report, a number stands in a `<data value="…" data-path="…">` with its JSON pointer into the document, and a
    computed one carries `data-derived`.
    """
    document = displayable(document)
    script = (TEMPLATES / "pool.js").read_text(encoding="utf-8")
    return (
        _environment(document)
        .get_template("pool.html.j2")
        .render(
            policy=content_security_policy([script]),
            css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            sections=SECTIONS,
            formats=pool_words.by_format([{**entry, "at": at} for at, entry in enumerate(document["recognised"])]),
            sources=_descending(document["sources"]),
            languages=_descending(document["languages"]["counts"]),
            length_sentences=pool_words.length_sentences(document["lengths"]),
            near=pool_words.near_sentence(document["near_duplicates"]),
            refusals=pool_words.refusal_sentence(document["refusals"]),
            rendered=[
                {**example, "segments": pool_words.visible_segments(example, RENDERED_CHARACTERS)}
                for example in document["shown"]
            ],
        )
    )


def _descending(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
