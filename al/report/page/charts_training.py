"""The charts of the training section: each a line per lineage over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al import labels
from al.report.page.drawing import DASHES, SYMBOLS, Chart, chart, plot_layout, spec
from al.report.reading.values import lookup

LINEAGES = ("selected", "control")


@chart("curve-loss")
def curve_loss(summary: Mapping[str, Any]) -> Chart | None:
    """Training loss by step, selected and control, with the dev loss where it was evaluated and the step that was kept."""
    title = "Loss, nats per target token"
    traces = _lines(summary, "loss")
    if not traces:
        return None
    traces += [trace for model in LINEAGES for trace in _dev_loss(summary, model)]
    return spec(traces, plot_layout("Step", title, legend=True), f"{title} by training step", 300)


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


@chart("curve-memory")
def curve_memory(summary: Mapping[str, Any]) -> Chart | None:
    """Memory in use by step."""
    return _curves(summary, "memory_gib", "Memory in use, GiB")


def _curves(summary: Mapping[str, Any], key: str, title: str) -> Chart | None:
    traces = _lines(summary, key)
    if not traces:
        return None
    return spec(traces, plot_layout("Step", title, legend=True), f"{title} by training step", 270)


def _lines(summary: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    traces = []
    for model in LINEAGES:
        curve = lookup(summary, "training", model, "curve") or []
        if any(point.get(key) is not None for point in curve):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(curve) <= 50 else "lines",
                    "name": labels.MODELS[model],
                    "x": [point.get("step") for point in curve],
                    "y": [point.get(key) for point in curve],
                    "line": {"color": f"@{model}", "width": 2, "dash": DASHES[model]},
                    "marker": {"symbol": SYMBOLS[model], "size": 6, "color": f"@{model}"},
                }
            )
    return traces


def _dev_loss(summary: Mapping[str, Any], model: str) -> list[dict[str, Any]]:
    """The dev losses of a lineage, and a ring round the one whose adapter was kept."""
    curve = lookup(summary, "training", model, "curve") or []
    points = [(point["step"], point["dev_loss"]) for point in curve if point.get("dev_loss") is not None]
    if not points:
        return []
    steps, losses = zip(*points, strict=True)
    name = f"{labels.MODELS[model]}, dev"
    line = {"color": f"@{model}", "width": 1.5, "dash": "longdashdot"}
    dev = {"type": "scatter", "mode": "lines+markers", "name": name, "x": list(steps), "y": list(losses), "line": line}
    dev["marker"] = {"symbol": "x", "size": 8, "color": f"@{model}"}
    best = lookup(summary, "training", model, "best_step")
    kept = [(step, loss) for step, loss in points if step == best]
    if not kept:
        return [dev]
    ring = {"symbol": "circle-open", "size": 16, "color": f"@{model}", "line": {"width": 2, "color": f"@{model}"}}
    ringed = {"type": "scatter", "mode": "markers", "name": f"{name}, kept", "marker": ring, "showlegend": False}
    return [dev, {**ringed, "x": [kept[0][0]], "y": [kept[0][1]]}]
