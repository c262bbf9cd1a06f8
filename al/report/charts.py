"""The charts of a report as plotly.js specifications (plain dicts), one function per chart; al.report.drawing tells what they share.

Text that comes from outside goes through `plain`, because plotly reads a subset of HTML in labels and hover texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from al.report import (
    charts_rounds,  # noqa: F401 (registers its charts)
    charts_selection,  # noqa: F401
    charts_training,  # noqa: F401
    labels,
)
from al.report.drawing import CHARTS, SYMBOLS, Chart, chart, plot_layout, spec
from al.report.values import lookup
from al.report.verdict import Comparison, comparisons


def build_charts(summary: Mapping[str, Any]) -> dict[str, Chart]:
    """Every registered chart that this summary has the numbers for: {id: {"data", "layout", "label" for ARIA}}."""
    drawn = {name: function(summary) for name, function in CHARTS.items()}
    return {name: specification for name, specification in drawn.items() if specification is not None}


@chart("models-nll")
def models_nll(summary: Mapping[str, Any]) -> Chart | None:
    """Macro NLL of each model as a dot."""
    names = [n for n in labels.models_of(lookup(summary, "evaluation")) if n in labels.MODELS]
    if not names:
        return None
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": labels.MODELS[name],
            "x": [lookup(summary, "evaluation", "models", name, "macro_nll")],
            "y": [labels.MODELS[name]],
            "marker": {"size": 13, "symbol": SYMBOLS[name], "color": f"@{name}"},
            "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
        }
        for name in names
    ]
    layout = plot_layout("NLL, nats per token", None, rows=len(names))
    return spec(data, layout, "NLL of each model, mean over sources", 90 + 38 * len(names))


@chart("differences-nll")
def differences_nll(summary: Mapping[str, Any]) -> Chart | None:
    """Selected minus each other model in macro NLL, with 95% intervals."""
    return _differences(summary, "macro_nll", "NLL difference, nats per token", 1)


@chart("differences-em")
def differences_em(summary: Mapping[str, Any]) -> Chart | None:
    """Selected minus each other model in macro exact match, in percentage points, with 95% intervals."""
    return _differences(summary, "macro_em", "Exact match difference, points", 100)


def _differences(summary: Mapping[str, Any], metric: str, title: str, factor: int) -> Chart | None:
    shown = [c for c in comparisons(summary, metric) if c.outcome != "unmeasured"]
    if not shown:
        return None
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": labels.MODELS[c.against],
            "x": [c.value * factor],
            "y": [f"minus {labels.MODELS[c.against].lower()}"],
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [(c.high - c.value) * factor],
                "arrayminus": [(c.value - c.low) * factor],
                "color": f"@{c.against}",
                "thickness": 2.5,
                "width": 7,
            },
            "marker": {"size": 12, "symbol": SYMBOLS[c.against], "color": f"@{c.against}"},
            "customdata": [[c.low * factor, c.high * factor]],
            "hovertemplate": "%{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
        }
        for c in shown
    ]
    layout = plot_layout(title, None, rows=len(shown))
    layout["xaxis"].update(zeroline=True, zerolinewidth=2, range=_around_zero(shown, factor))
    return spec(data, layout, f"Selected minus the others with 95% intervals: {title}", 90 + 38 * len(shown))


def _around_zero(shown: Sequence[Comparison], factor: int) -> list[float]:
    """An axis range that shows every interval and zero, with room at both ends."""
    low = min(0.0, *(min(c.low, c.value) for c in shown))
    high = max(0.0, *(max(c.high, c.value) for c in shown))
    room = 0.1 * (high - low) or 1.0
    return [(low - room) * factor, (high + room) * factor]
