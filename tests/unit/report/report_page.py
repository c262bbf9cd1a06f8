"""Reading a report back: its numbers, its text, its scripts, as a browser's parser would find them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "br", "img", "input", "hr", "rect"}


@dataclass
class Number:
    """A shown number: its machine-readable value (None where the page shows a dash), where it comes from, its text."""

    value: Any
    path: str | None
    derived: str | None
    text: str = ""


@dataclass
class Element:
    """A start tag with its attributes; `text` is filled for scripts and headings only."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """All elements, numbers and visible text of a page."""

    elements: list[Element] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self._number: Number | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append(Element(tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "data" or (tag == "span" and "data-path" in attributes):
            value = json.loads(attributes["value"]) if tag == "data" else None
            self._number = Number(value, attributes.get("data-path"), attributes.get("data-derived"))
            self.numbers.append(self._number)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()
        if tag in ("data", "span"):
            self._number = None

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            self.elements[-1].text += data
            return
        self.text += data
        if self._number is not None:
            self._number.text += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def data(self) -> dict[str, str]:
        """Text of every script element that is data, by id."""
        return {e.attributes["id"]: e.text for e in self.all("script") if "type" in e.attributes}

    def charts(self) -> dict[str, Any]:
        return json.loads(self.data()["chart-data"])


def read_page(html: str) -> Page:
    """The page parsed to its end, every element closed in order."""
    page = Page()
    page.feed(html)
    page.close()
    assert not page._open, page._open
    return page


def resolve(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901); None where a step is absent."""
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list):
            document = document[int(step)]
        else:
            document = (document or {}).get(step)
    return document


def shown(text: str) -> tuple[float, float]:
    """The number that a text shows and half a unit of its last digit: "−1,234.5%" is (-1234.5, 0.05).

    Durations such as "3 min 22 s" come back in seconds.
    """
    text = (
        text.replace("\u2212", "-").replace(",", "").replace("+", "", 1)
        if text[:1] == "+"
        else text.replace("\u2212", "-")
    )
    units = dict((unit, float(size)) for size, unit in re.findall(r"(\d+) (h|min|s)\b", text))
    if "min" in units:
        seconds = units.get("h", 0) * 3600 + units["min"] * 60 + units.get("s", 0)
        return seconds, 30.5 if "h" in units else 0.5
    digits = re.match(r"-?[\d.]+(?:e-?\d+)?", text.replace(",", "").removeprefix("< "))[0]
    mantissa, _, exponent = digits.partition("e")
    places = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return float(digits), 0.5 * 10**-places
