"""What every chart is made of: the registry, plotly layouts, text that plotly cannot read as markup.

Colours are written as roles ("@selected"); the page's script replaces them with the CSS variable of that name, so one
specification serves light, dark and print. Only SVG traces: plotly's WebGL ones would need `unsafe-eval`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

Chart = dict[str, Any]
CHARTS: dict[str, Callable[[Mapping[str, Any]], Chart | None]] = {}
SYMBOLS = {"base": "circle", "previous": "diamond", "selected": "square", "control": "triangle-up"}
DASHES = {"base": "dash", "selected": "solid", "control": "dot"}


def chart(name: str) -> Callable[[Callable], Callable]:
    """Register a function `summary -> Chart | None` (None: nothing to draw) under the id that the templates use."""

    def register(function: Callable) -> Callable:
        CHARTS[name] = function
        return function

    return register


def plot_layout(x_title: str, y_title: str | None, *, legend: bool = False) -> dict[str, Any]:
    """Axes with titles, and a legend above them if there is one."""

    def axis(title: str | None) -> dict[str, Any]:
        colors = {"gridcolor": "@grid", "zerolinecolor": "@axis", "linecolor": "@axis"}
        heading = {"text": title or "", "font": {"size": 12}}
        return {"title": heading, "automargin": True, "fixedrange": True, "exponentformat": "e", **colors}

    return {
        "xaxis": axis(x_title),
        "yaxis": axis(y_title),
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 12, "r": 16, "t": 34 if legend else 12, "b": 12},
        "hovermode": "closest",
        "dragmode": False,
    }


def spec(data: list[dict], layout: dict[str, Any], label: str, height: int) -> Chart:
    """A chart of this height in pixels; `label` is what a screen reader says."""
    return {"data": data, "layout": {**layout, "height": height}, "label": label}


def plain(text: str, limit: int = 80) -> str:
    """Text as plotly shows it literally: it decodes entities after it has looked for tags."""
    return html.escape(text if len(text) <= limit else text[: limit - 1] + "…", quote=False)
