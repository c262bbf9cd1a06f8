"""What axe-core found once, checked without a browser: contrast of the colours that text has, headers and regions with names."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from comparison_documents import paying
from pool_documents import pool_document
from report_details import details
from report_page import read_page
from report_summaries import later_round

from al.comparison.page import render_comparison
from al.report.page.base import read_template
from al.report.page.pool import render_pool
from al.report.page.round import render_html
from al.review.page import render_page

Colour = tuple[float, ...]
PAGES: dict[str, Callable[[], str]] = {
    "round": lambda: render_html(later_round(), details()),
    "comparison": lambda: render_comparison(paying()),
    "pool": lambda: render_pool(pool_document()),
    "review": lambda: render_page()[0],
}
TEXT = ("ink", "soft", "link", "good", "bad")
READABLE = 4.5
"""The ratio that WCAG 2.2, 1.4.3 asks for text."""


def themes() -> dict[str, dict[str, Colour]]:
    """The colours of report.css by theme and name, as red, green and blue of 0 to 1."""
    light, dark = read_template("report.css").split("@media screen and (prefers-color-scheme: dark)")[:2]
    found = {"light": named(light.split("* { box-sizing")[0])}
    return found | {"dark": found["light"] | named(dark.split("* { box-sizing")[0])}


def named(css: str) -> dict[str, Colour]:
    return {
        name: tuple(int(value[i : i + 2], 16) / 255 for i in (0, 2, 4))
        for name, value in re.findall(r"--([\w-]+): #([0-9a-f]{6})\b", css)
    }


def luminance(colour: Colour) -> float:
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour: Colour, page: Colour, share: float) -> Colour:
    return tuple(share * c + (1 - share) * p for c, p in zip(colour, page, strict=True))


def test_the_formula_is_wcags():
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert contrast(named("--a: #767676;")["a"], (1, 1, 1)) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_page_and_card(theme: str):
    colours = themes()[theme]
    weak = {
        (name, ground): round(ratio, 2)
        for name in TEXT
        for ground in ("page", "card")
        if (ratio := contrast(colours[name], colours[ground])) < READABLE
    }
    assert weak == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_the_cells_of_agreement_and_from_pressed_buttons(theme: str):
    colours, css = themes()[theme], read_template("report.css")
    cells = re.findall(r"\.heat-\w+-\d \{ background: color-mix\(in srgb, var\(--(\w+)\) (\d+)%", css)
    assert len(cells) == 8 and ".heat .soft { color: inherit; }" in css
    for role, share in cells:
        assert contrast(colours["ink"], mixed(colours[role], colours["page"], int(share) / 100)) >= READABLE
    for role in ("selected", "bad"):
        assert contrast(colours["page"], colours[role]) >= READABLE


@pytest.mark.parametrize("kind", PAGES)
def test_headers_have_text_and_regions_names_of_their_own(kind: str):
    html = PAGES[kind]()
    empty = [cell for cell in re.findall(r"<th\b[^>]*>.*?</th>", html, re.S) if not re.sub("<[^>]*>", "", cell).strip()]
    assert [cell for cell in empty if 'aria-hidden="true"' not in cell] == []
    page = read_page(html)
    titles = {
        e.attributes["id"]: e.text.strip() for e in page.elements if e.tag in ("h1", "h2") and e.attributes.get("id")
    }
    regions = [e.attributes.get("aria-label") for e in page.elements if e.attributes.get("role") == "region"]
    sections = [titles.get(e.attributes.get("aria-labelledby") or "") for e in page.elements if e.tag == "section"]
    names = [name for name in [*regions, *sections] if name]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    assert len([name for name in regions if not name]) == 0
    labels = {e.attributes.get("for") for e in page.elements if e.tag == "label"}
    for field in (e for e in page.elements if e.tag in ("input", "select", "textarea")):
        inside = field.attributes.get("type") == "checkbox"
        assert inside or field.attributes.get("id") in labels or field.attributes.get("aria-label"), field
