"""The report as one HTML page that works from disk: no request leaves it, and no text of the pool can run in it.

Pool text is hostile. Three walls stand in front of it: jinja2 escapes everything, chart data is JSON in which no tag
can begin, and the page's Content-Security-Policy lets run only scripts whose SHA-256 it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from al import labels
from al.report.page.charts import build_charts
from al.report.page.charts_verdict import verdict_charts
from al.report.page.page_data import color_choices, pack_text, page_data
from al.report.reading import view
from al.report.reading.priced import priced
from al.report.reading.values import MISSING, displayable, lookup, pointer, write
from al.report.reading.verdict import HEADLINE_METRICS, OUTCOME_WORDS, headline, verdict

TEMPLATES = Path(__file__).parents[1] / "templates"
# In the order in which they run; data.js runs plotly.js, which lies packed in the page.
SCRIPTS = ("data.js", "report.js", "map-draw.js", "map-style.js", "map.js", "cards.js", "search.js")
# Order of the page; each is a file templates/sections/<id>.html.j2.
SECTIONS = {
    "verdict": "Verdict",
    "pool": "Pool and time",
    "clusters": "Clusters",
    "evaluation": "Evaluation",
    "sources": "By source",
    "rounds": "Rounds",
    "scores": "Scores",
    "map": "Map",
    "training": "Training",
    "examples": "Examples",
    "reasons": "Reasons",
    "review": "Review",
    "reproduce": "Reproduce",
}


def render_html(summary: Mapping[str, Any], details: Mapping[str, Any] | None = None) -> str:
    """The whole page (about 2.3 MB, most of it plotly.js, packed) for a summary of schema 1 and its details (`details.build_details`).

    Every number stands in a `<data value="…" data-path="…">` whose path is the JSON pointer of that number in the
    summary; computed ones carry `data-derived` with the formula instead. What is missing is said, never left blank.
    What scripts write from the details carries `data-detail`, a JSON pointer into them.
    """
    summary = displayable(summary)
    data = page_data(summary, displayable(details))
    scripts = [(TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS]
    plotly, packed_plotly = packed_plotlyjs()
    return (
        _environment(summary)
        .get_template("report.html.j2")
        .render(
            policy=content_security_policy([plotly, *scripts]),
            css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            scripts=[Markup(text) for text in scripts],
            charts=build_charts(summary),
            dots=verdict_charts(summary),
            data=data,
            packed={"details": Markup(pack_text(json.dumps(data, allow_nan=False))), "plotly": Markup(packed_plotly)},
            sections=SECTIONS,
            headline=headline(summary),
            verdict=verdict(summary),
            priced=priced(summary),
        )
    )


@cache
def packed_plotlyjs() -> tuple[str, str]:
    """plotly.js, and the same packed."""
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    return source, pack_text(source)


def content_security_policy(scripts: list[str]) -> str:
    """A policy under which only these inline scripts run and nothing is fetched.

    Styles may be inline: plotly sets style attributes while it draws, and a style that may load from nowhere leaks
    nothing.
    """
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; connect-src 'none'; "
        "base-uri 'none'; form-action 'none'"
    )


def json_script(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`: no character in it can end the element or a line of it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _environment(summary: dict[str, Any]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def number(style: str, *path: str | int, signed: bool = False) -> Markup:
        value = lookup(summary, *path)
        if value is None:
            return Markup('<span class="missing" data-path="{}">{}</span>').format(pointer(*path), MISSING)
        text = write(value, style, signed=signed)
        return Markup('<data value="{}" data-path="{}">{}</data>').format(json.dumps(value), pointer(*path), text)

    environment.globals.update(
        s=summary,
        n=number,
        at=lambda *path: lookup(summary, *path),
        derived=_derived,
        bar=_bar,
        labels=labels,
        view=view,
        color_choices=color_choices,
        outcome_words=OUTCOME_WORDS,
        headline_metrics=list(HEADLINE_METRICS),
    )
    environment.filters["json_script"] = json_script
    return environment


def _derived(value: float | None, style: str, formula: str, signed: bool = False) -> Markup:
    """A number computed for the page, marked with the formula that made it."""
    if value is None:
        return Markup('<span class="missing">{}</span>').format(MISSING)
    text = write(value, style, signed=signed)
    return Markup('<data value="{}" data-derived="{}">{}</data>').format(json.dumps(value), formula, text)


def _bar(value: float | None, largest: float | None) -> Markup:
    """A bar for a table cell, in SVG so that it needs neither script nor style attribute."""
    width = 100 * value / largest if value and largest else 0
    opening = '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
    return Markup(opening + '<rect width="{}" height="8"/></svg>').format(f"{width:.2f}")
