"""The charts of a report as plotly.js specifications (plain dicts), one function per chart.

Colours are written as roles ("@selected"); the page's script replaces them with the CSS variable of that name, so one
specification serves light, dark and print. Only SVG traces: plotly's WebGL ones would need `unsafe-eval`.
Text that comes from outside goes through `_plain`, because plotly reads a subset of HTML in labels and hover texts.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from al.report import labels, view
from al.report.values import lookup
from al.report.verdict import Comparison, comparisons

Chart = dict[str, Any]
CHARTS: dict[str, Callable[[Mapping[str, Any]], Chart | None]] = {}
# One SVG node a point: 4,000 draw in well under a second on a phone, 100,000 hang it.
MAP_POINTS = 4000
_SYMBOLS = {"base": "circle", "previous": "diamond", "selected": "square", "control": "triangle-up"}
_DASHES = {"base": "dash", "selected": "solid", "control": "dot"}


def chart(name: str) -> Callable[[Callable], Callable]:
    """Register a function `summary -> Chart | None` (None: nothing to draw) under the id that the templates use."""

    def register(function: Callable) -> Callable:
        CHARTS[name] = function
        return function

    return register


def build_charts(summary: Mapping[str, Any]) -> dict[str, Chart]:
    """Every registered chart that this summary has the numbers for: {id: {"data", "layout", "label" for ARIA}}."""
    drawn = {name: function(summary) for name, function in CHARTS.items()}
    return {name: spec for name, spec in drawn.items() if spec is not None}


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
            "marker": {"size": 13, "symbol": _SYMBOLS[name], "color": f"@{name}"},
            "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
        }
        for name in names
    ]
    layout = _layout("NLL, nats per token", None, rows=len(names))
    return _spec(data, layout, "NLL of each model, mean over sources", 90 + 38 * len(names))


@chart("differences-nll")
def differences_nll(summary: Mapping[str, Any]) -> Chart | None:
    """Selected minus each other model in macro NLL, with 95% intervals."""
    return _differences(summary, "macro_nll", "NLL difference, nats per token", 1)


@chart("differences-em")
def differences_em(summary: Mapping[str, Any]) -> Chart | None:
    """Selected minus each other model in macro exact match, in percentage points, with 95% intervals."""
    return _differences(summary, "macro_em", "Exact match difference, points", 100)


@chart("clusters")
def cluster_quotas(summary: Mapping[str, Any]) -> Chart | None:
    """Quota against mean loss of each measured cluster, with the standard error of the loss."""
    rows = [c for c in summary.get("clusters") or [] if c.get("loss") is not None]
    if not rows:
        return None
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [c["loss"] for c in rows],
        "y": [c.get("quota") for c in rows],
        "error_x": {"type": "data", "array": [c.get("loss_stderr") for c in rows], "color": "@base", "thickness": 1},
        "text": [_plain(c.get("name") or "") for c in rows],
        "marker": {"size": 8, "color": "@selected"},
        "hovertemplate": "%{text}<br>loss %{x:.3f}, quota %{y}<extra></extra>",
    }
    unit = _plain(lookup(summary, "budget", "unit") or "examples")
    layout = _layout("Mean loss ± standard error, nats", f"Quota, {unit}")
    return _spec([trace], layout, "Quota of each cluster against its mean loss", 320)


@chart("scores-nll")
def scores_nll(summary: Mapping[str, Any]) -> Chart | None:
    """Distribution of NLL, measured against picked."""
    return _histogram(summary, "nll", "measured", "NLL, nats per response token")


@chart("scores-entropy")
def scores_entropy(summary: Mapping[str, Any]) -> Chart | None:
    """Distribution of predictive entropy, measured against picked."""
    return _histogram(summary, "entropy", "measured", "Entropy, nats per response token")


@chart("lengths")
def lengths(summary: Mapping[str, Any]) -> Chart | None:
    """Distribution of length, left against picked."""
    return _histogram(summary, "length", "left", "Length, tokens")


@chart("map")
def pool_map(summary: Mapping[str, Any]) -> Chart | None:
    """The pool on two principal components, the picked above the rest; the last trace is for a chosen cluster."""
    points = summary.get("map") or {}
    if not points.get("x"):
        return None
    rows = map_rows(points)
    clusters = summary.get("clusters") or []
    names = {c.get("cluster"): _plain(f"{c.get('cluster')} {c.get('name') or ''}") for c in clusters}
    data = []
    for is_picked, name in ((0, "left"), (1, "picked")):
        chosen = [i for i in rows if bool(points["picked"][i]) == bool(is_picked)]
        trace = _points([points["x"][i] for i in chosen], [points["y"][i] for i in chosen], name)
        trace["customdata"] = [points["cluster"][i] for i in chosen]
        trace["text"] = [names.get(points["cluster"][i], str(points["cluster"][i])) for i in chosen]
        trace["hovertemplate"] = f"cluster %{{text}} ({name})<extra></extra>"
        data.append(trace)
    ring = {"size": 10, "symbol": "circle-open", "color": "@control", "line": {"width": 1.5, "color": "@control"}}
    highlight = {**_points([], [], "chosen cluster"), "marker": ring, "hoverinfo": "skip"}
    layout = _layout("First principal component", "Second principal component", legend=True)
    for axis in ("xaxis", "yaxis"):
        layout[axis].update(showticklabels=False, zeroline=False)
    return _spec([*data, highlight], layout, "Map of the pool: what was picked and what was left", 460)


@chart("curve-loss")
def curve_loss(summary: Mapping[str, Any]) -> Chart | None:
    """Training loss by step, selected and control."""
    return _curves(summary, "loss", "Training loss, nats per target token")


@chart("curve-lr")
def curve_lr(summary: Mapping[str, Any]) -> Chart | None:
    """Learning rate by step."""
    return _curves(summary, "lr", "Learning rate")


@chart("curve-grad-norm")
def curve_grad_norm(summary: Mapping[str, Any]) -> Chart | None:
    """Gradient norm by step."""
    return _curves(summary, "grad_norm", "Gradient norm")


@chart("curve-rate")
def curve_rate(summary: Mapping[str, Any]) -> Chart | None:
    """Training speed by step."""
    return _curves(summary, "tokens_per_s", "Tokens per second")


@chart("rounds")
def rounds_nll(summary: Mapping[str, Any]) -> Chart | None:
    """Macro NLL of each model by round, this round last; None in the first round."""
    points = view.round_rows(summary)
    if len(points) < 2:
        return None
    data = []
    for name in labels.MODELS:
        known = [p for p in points if p["models"].get(name) is not None]
        if known and name != "previous":
            trace = {"type": "scatter", "mode": "lines+markers", "name": labels.MODELS[name]}
            trace.update(x=[p["round"] for p in known], y=[p["models"][name] for p in known])
            line = {"color": f"@{name}", "width": 2, "dash": _DASHES[name]}
            data.append({**trace, "line": line, "marker": {"symbol": _SYMBOLS[name], "size": 9, "color": f"@{name}"}})
    layout = _layout("Round", "NLL, nats per token", legend=True)
    layout["xaxis"]["dtick"] = 1 if len(points) <= 20 else None
    return _spec(data, layout, "NLL on the test examples by round", 300)


def map_rows(points: Mapping[str, Sequence], limit: int = MAP_POINTS) -> list[int]:
    """Positions of the points that are drawn: all, or an even spread of `limit` in which the picked fill up to half."""
    picked = [i for i, flag in enumerate(points["picked"]) if flag]
    left = [i for i, flag in enumerate(points["picked"]) if not flag]
    if len(picked) + len(left) <= limit:
        return sorted(picked + left)
    picked = _spread(picked, max(limit // 2, limit - len(left)))
    return sorted(picked + _spread(left, limit - len(picked)))


def _spread(rows: list[int], count: int) -> list[int]:
    if len(rows) <= count:
        return rows
    return [rows[i * len(rows) // count] for i in range(count)]


def _points(x: list, y: list, name: str) -> dict[str, Any]:
    picked = name == "picked"
    size, color, opacity = (7, "@selected", 0.9) if picked else (4, "@base", 0.55)
    marker = {"size": size, "color": color, "opacity": opacity}
    return {"type": "scatter", "mode": "markers", "name": name, "x": x, "y": y, "marker": marker}


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
            "marker": {"size": 12, "symbol": _SYMBOLS[c.against], "color": f"@{c.against}"},
            "customdata": [[c.low * factor, c.high * factor]],
            "hovertemplate": "%{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
        }
        for c in shown
    ]
    layout = _layout(title, None, rows=len(shown))
    layout["xaxis"].update(zeroline=True, zerolinewidth=2, range=_around_zero(shown, factor))
    return _spec(data, layout, f"Selected minus the others with 95% intervals: {title}", 90 + 38 * len(shown))


def _around_zero(shown: Sequence[Comparison], factor: int) -> list[float]:
    """An axis range that shows every interval and zero, with room at both ends."""
    low = min(0.0, *(min(c.low, c.value) for c in shown))
    high = max(0.0, *(max(c.high, c.value) for c in shown))
    room = 0.1 * (high - low) or 1.0
    return [(low - room) * factor, (high + room) * factor]


def _histogram(summary: Mapping[str, Any], key: str, other: str, title: str) -> Chart | None:
    """Two step outlines over the same edges; a step holds its count until the next edge, so the last is repeated."""
    counts = lookup(summary, "histograms", key) or {}
    if len(counts.get("edges") or []) < 2:
        return None
    data = []
    for name, role in ((other, "base"), ("picked", "selected")):
        values = counts.get(name)
        if values:
            line = {"shape": "hv", "color": f"@{role}", "width": 2, "dash": "dot" if role == "base" else "solid"}
            trace = {"type": "scatter", "mode": "lines", "name": name, "x": counts["edges"], "y": [*values, values[-1]]}
            data.append({**trace, "line": line, "fill": "tozeroy", "fillcolor": f"@{role}-fill"})
    layout = _layout(title, "Examples", legend=True)
    layout["yaxis"]["rangemode"] = "tozero"
    return _spec(data, layout, f"Distribution of {title}: picked and {other}", 280)


def _curves(summary: Mapping[str, Any], key: str, title: str) -> Chart | None:
    data = []
    for model in ("selected", "control"):
        curve = lookup(summary, "training", model, "curve") or []
        if any(point.get(key) is not None for point in curve):
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(curve) <= 50 else "lines",
                    "name": labels.MODELS[model],
                    "x": [point.get("step") for point in curve],
                    "y": [point.get(key) for point in curve],
                    "line": {"color": f"@{model}", "width": 2, "dash": _DASHES[model]},
                    "marker": {"symbol": _SYMBOLS[model], "size": 6, "color": f"@{model}"},
                }
            )
    if not data:
        return None
    layout = _layout("Step", title, legend=True)
    return _spec(data, layout, f"{title} by training step", 270)


def _layout(x_title: str, y_title: str | None, *, legend: bool = False, rows: int | None = None) -> dict[str, Any]:
    def axis(title: str | None) -> dict[str, Any]:
        colors = {"gridcolor": "@grid", "zerolinecolor": "@axis", "linecolor": "@axis"}
        heading = {"text": title or "", "font": {"size": 12}}
        return {"title": heading, "automargin": True, "fixedrange": True, "exponentformat": "e", **colors}

    layout = {
        "xaxis": axis(x_title),
        "yaxis": axis(y_title),
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 12, "r": 16, "t": 34 if legend else 12, "b": 12},
        "hovermode": "closest",
        "dragmode": False,
    }
    if rows:
        layout["yaxis"].update(type="category", autorange=False, range=[rows - 0.4, -0.6], showgrid=False)
    return layout


def _spec(data: list[dict], layout: dict[str, Any], label: str, height: int) -> Chart:
    return {"data": data, "layout": {**layout, "height": height}, "label": label}


def _plain(text: str, limit: int = 80) -> str:
    """Text as plotly shows it literally: it decodes entities after it has looked for tags."""
    return html.escape(text if len(text) <= limit else text[: limit - 1] + "…", quote=False)
