"""What every chart is made of: the registry, plotly layouts and traces, text that plotly cannot read as markup.

Charts are plotly.js specifications (plain dicts), one function each, in the modules `charts_*` of this folder; those are found, not listed.
Colours are written as roles ("@selected"); the page's script replaces them with the CSS variable of that name, so one
specification serves light, dark and print. Only SVG traces: plotly's WebGL ones would need `unsafe-eval`.
"""

from __future__ import annotations

import html
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Chart = dict[str, Any]
CHARTS: dict[str, Callable[[Mapping[str, Any]], Chart | None]] = {}
SYMBOLS = {"base": "circle", "previous": "diamond", "selected": "square", "control": "triangle-up"}
DASHES = {"base": "dash", "selected": "solid", "control": "dot"}


def chart(name: str) -> Callable[[Callable], Callable]:
    """Register a function `summary -> Chart | None` (None: nothing to draw) under the id that the templates use."""

    def register(function: Callable) -> Callable:
        """Add the function and return it."""
        CHARTS[name] = function
        return function

    return register


def build_charts(summary: Mapping[str, Any]) -> dict[str, Chart]:
    """Every registered chart that this summary has the numbers for: {id: {"data", "layout", "label" for ARIA}}."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("charts_"):
            importlib.import_module(f"{__package__}.{module.name}")
    drawn = {name: function(summary) for name, function in CHARTS.items()}
    return {name: specification for name, specification in drawn.items() if specification is not None}


def plot_layout(x_title: str, y_title: str | None, *, legend: bool = False) -> dict[str, Any]:
    """Axes with titles, and a legend above them if there is one."""

    def axis(title: str | None) -> dict[str, Any]:
        """An axis with its title."""
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


def trace(
    points: Sequence[tuple[Any, Any]],
    name: str,
    role: str,
    mode: str = "lines+markers",
    *,
    symbol: str = "circle",
    dash: str = "solid",
    width: float = 2,
    size: int = 8,
    **more: Any,
) -> dict[str, Any]:
    """Points (x, y) as a line, as markers or both, in the colour of a role."""
    made: dict[str, Any] = {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
    }
    if "lines" in mode:
        made["line"] = {"color": f"@{role}", "width": width, "dash": dash}
    if "markers" in mode:
        made["marker"] = {"symbol": symbol, "size": size, "color": f"@{role}"}
    return made | more


def spec(data: list[dict], layout: dict[str, Any], label: str, height: int) -> Chart:
    """A chart of this height in pixels; `label` is what a screen reader says."""
    return {"data": data, "layout": {**layout, "height": height}, "label": label}


def plain(text: str, limit: int = 80) -> str:
    """Text as plotly shows it literally: it decodes entities after it has searched for tags."""
    return html.escape(text if len(text) <= limit else text[: limit - 1] + "…", quote=False)
