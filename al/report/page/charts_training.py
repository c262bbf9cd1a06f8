"""The charts of the training section: each a line per lineage over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al import labels
from al.report.page.drawing import DASHES, SYMBOLS, Chart, chart, plot_layout, spec, trace
from al.report.reading.values import lookup
from al.report.reading.view import LINEAGES, step_curve

CURVES = {
    "curve-lr": ("lr", "Learning rate"),
    "curve-grad-norm": ("grad_norm", "Gradient norm"),
    "curve-rate": ("tokens_per_s", "Tokens per second"),
    "curve-memory": ("memory_gib", "Memory in use, GiB"),
}


@chart("curve-loss")
def curve_loss(summary: Mapping[str, Any]) -> Chart | None:
    """Training loss by step, selected and control, with the dev loss where it was evaluated and the step that was kept."""
    title = "Loss, nats per target token"
    traces = _lines(summary, "loss")
    if not traces:
        return None
    traces += [made for model in LINEAGES for made in _dev_loss(summary, model)]
    return spec(traces, plot_layout("Step", title, legend=True), f"{title} by training step", 300)


def _curve_chart(name: str, key: str, title: str) -> None:
    @chart(name)
    def by_step(summary: Mapping[str, Any]) -> Chart | None:
        """One quantity by step, selected and control."""
        traces = _lines(summary, key)
        layout = plot_layout("Step", title, legend=True)
        return spec(traces, layout, f"{title} by training step", 270) if traces else None


for _name, (_key, _title) in CURVES.items():
    _curve_chart(_name, _key, _title)


def _lines(summary: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    traces = []
    for model in LINEAGES:
        curve = lookup(summary, "training", model, "curve") or []
        if any(point.get(key) is not None for point in curve):
            points = [(point.get("step"), point.get(key)) for point in curve]
            mode = "lines+markers" if len(curve) <= 50 else "lines"
            style = {"dash": DASHES[model], "symbol": SYMBOLS[model], "size": 6}
            traces.append(trace(points, labels.MODELS[model], model, mode, **style))
    return traces


def _dev_loss(summary: Mapping[str, Any], model: str) -> list[dict[str, Any]]:
    """The dev losses of a lineage, and a ring round the one whose adapter was kept."""
    points = step_curve(summary, model, "dev_loss")
    if not points:
        return []
    name = f"{labels.MODELS[model]}, dev"
    dev = trace(points, name, model, symbol="x", dash="longdashdot", width=1.5)
    kept = [point for point in points if point[0] == lookup(summary, "training", model, "best_step")]
    if not kept:
        return [dev]
    ring = {"symbol": "circle-open", "size": 16, "color": f"@{model}", "line": {"width": 2, "color": f"@{model}"}}
    return [dev, trace(kept[:1], f"{name}, kept", model, "markers", showlegend=False) | {"marker": ring}]
