"""A document as one HTML page that works from disk: no request leaves it, and no text of the pool can run in it.

Pool text is hostile. Three walls stand in front of it: jinja2 escapes everything, chart data is JSON in which no tag
can begin, and the page's Content-Security-Policy lets run only scripts whose SHA-256 it names.

A page's sections are the files `templates/<kind>/NN-<id>.html.j2` in the order of NN. The first line of each holds its title, as
`{# title: Verdict #}`, and its heading has the id `<id>-title`. So a new section is one new file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from al import labels
from al.report.page.page_data import pack_text
from al.report.reading import view
from al.report.reading.values import MISSING, lookup, pointer, write
from al.report.reading.verdict import OUTCOME_WORDS

TEMPLATES = Path(__file__).parents[1] / "templates"


class Section(NamedTuple):
    """A part of a page: `id` is its anchor, `title` its name in the list of sections, `template` its file."""

    id: str
    title: str
    template: str


@cache
def sections_of(kind: str) -> tuple[Section, ...]:
    """The sections of a kind of page ("round", "comparison" or "pool") in their order.

    Raises:
        ValueError: a file has no title in its first line.
    """
    found = []
    for path in sorted((TEMPLATES / kind).glob("[0-9][0-9]-*.html.j2")):
        title = re.match(r"\{# title: (.+?) #\}", path.read_text(encoding="utf-8"))
        if title is None:
            raise ValueError(f"{path}: expected {{# title: … #}} as the first line")
        found.append(Section(path.name[3:].removesuffix(".html.j2"), title[1], f"{kind}/{path.name}"))
    return tuple(found)


def render_document(
    kind: str,
    document: Mapping[str, Any],
    title: str,
    scripts: Sequence[str],
    json_data: Mapping[str, Any] | None = None,
    packed: Mapping[str, str] | None = None,
    **shown: Any,
) -> str:
    """The page of a document that can be displayed (`al.terminal.displayable`).

    Every number stands in a `<data value="…" data-path="…">` whose path is its JSON pointer in the document; computed ones carry
    `data-derived` with the formula instead. What is missing is said, never left blank.

    Args:
        scripts: files under templates/, in the order in which they run. json_data: JSON for scripts, by the id of its element.
        packed: what scripts unpack, by id; "plotly-data" is a script too. shown: further names for the templates.
    """
    sources = [read_template(name) for name in scripts]
    packed = dict(packed or {})
    plotly = [packed_plotlyjs()[0]] if "plotly-data" in packed else []
    elements = [(name, "application/json", json_script(value)) for name, value in (json_data or {}).items()]
    elements += [(name, "text/plain", Markup(text)) for name, text in packed.items()]
    extra = TEMPLATES / kind / f"{kind}.css"
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            _names_of(document)
            | {"unscripted": None, "dots": {}, "charts": (json_data or {}).get("chart-data") or {}}
            | {"kind": kind, "title": title, "sections": sections_of(kind), "data": None, **shown},
            policy=content_security_policy([*plotly, *sources]),
            css=Markup(read_template("report.css") + (read_template(f"{kind}/{kind}.css") if extra.is_file() else "")),
            scripts=[Markup(text) for text in sources],
            elements=elements,
        )
    )


def read_template(name: str) -> str:
    """A file under templates/."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


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


@cache
def _environment() -> Environment:
    """Templates are compiled once in a process; what depends on a document is in `_names_of`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(derived=_derived, bar=_bar, labels=labels, view=view, outcome_words=OUTCOME_WORDS)
    return environment


def _names_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What templates call to show the document."""

    def number(style: str, *place: Any, signed: bool = False) -> Markup:
        """The number at a path, with the path; a dash where there is none. Steps may be given one by one or in lists."""
        path = list(_steps(place))
        value = lookup(document, *path)
        if value is None:
            return Markup('<span class="missing" data-path="{}">{}</span>').format(pointer(*path), MISSING)
        text = write(value, style, signed=signed)
        return Markup('<data value="{}" data-path="{}">{}</data>').format(json.dumps(value), pointer(*path), text)

    def cell(style: str, *place: Any, signed: bool = False, label: str = "") -> Markup:
        """A table's cell with the number at a path; `label` names it where a narrow window stacks the cells."""
        named = Markup(' data-label="{}"').format(label) if label else ""
        return Markup('<td class="num"{}>{}</td>').format(named, number(style, *place, signed=signed))

    def cells(path: Sequence[str | int], style: str, keys: Iterable[str | int]) -> Markup:
        """A cell for each of several numbers of one style below a path."""
        return Markup("").join(cell(style, path, key) for key in keys)

    return {
        "s": document,
        "n": number,
        "at": lambda *place: lookup(document, *_steps(place)),
        "cell": cell,
        "cells": cells,
    }


def _steps(place: Iterable[Any]) -> Iterator[str | int]:
    """The steps of a path of which some are given as lists."""
    for step in place:
        if isinstance(step, (list, tuple)):
            yield from _steps(step)
        else:
            yield step


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
