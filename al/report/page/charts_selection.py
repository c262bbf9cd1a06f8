"""Charts of what was selected: quotas against losses, gains since the round before, distributions of scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al import labels
from al.report.page.drawing import Chart, chart, plain, plot_layout, spec
from al.report.reading.values import lookup


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
        "text": [plain(c.get("name") or "") for c in rows],
        "marker": {"size": 8, "color": "@selected"},
        "hovertemplate": "%{text}<br>loss %{x:.3f}, quota %{y}<extra></extra>",
    }
    unit = plain(lookup(summary, "budget", "unit") or "examples")
    layout = plot_layout("Mean loss ± standard error, nats", f"Quota, {unit}")
    return spec([trace], layout, "Quota of each cluster against its mean loss", 320)


@chart("cluster-gains")
def cluster_gains(summary: Mapping[str, Any]) -> Chart | None:
    """What each cluster's loss was in the round before against what it is now; below the line it fell. None in the first round."""
    rows = [c for c in summary.get("clusters") or [] if c.get("gain") is not None]
    if not rows:
        return None
    before, now = [c["loss_before"] for c in rows], [c["loss"] for c in rows]
    ends = [min(*before, *now), max(*before, *now)]
    error = {"type": "data", "color": "@base", "thickness": 1}
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "clusters",
        "x": before,
        "y": now,
        "error_x": {**error, "array": [c.get("loss_before_stderr") for c in rows]},
        "error_y": {**error, "array": [c.get("loss_stderr") for c in rows]},
        "text": [plain(f"{c.get('cluster')}: {c.get('name') or ''}") for c in rows],
        "marker": {"size": 8, "color": "@selected"},
        "hovertemplate": "%{text}<br>%{x:.3f} before, %{y:.3f} now<extra></extra>",
    }
    line = {"type": "scatter", "mode": "lines", "name": "no change", "x": ends, "y": ends, "hoverinfo": "skip"}
    line["line"] = {"color": "@axis", "width": 1, "dash": "dash"}
    layout = plot_layout("Loss in the round before, nats", "Loss now, nats", legend=True)
    return spec([line, points], layout, "Loss of each cluster, the round before against now", 320)


@chart("lengths")
def lengths(summary: Mapping[str, Any]) -> Chart | None:
    """Distribution of length, left against picked."""
    return _histogram(summary, "length", "left", "Length, tokens")


def _score_chart(name: str, title: str) -> None:
    @chart(f"scores-{name}")
    def distribution(summary: Mapping[str, Any]) -> Chart | None:
        return _histogram(summary, name, "measured", title)


for _name, _title in labels.SCORES.items():
    _score_chart(_name, _title)


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
    layout = plot_layout(title, "Examples", legend=True)
    layout["yaxis"]["rangemode"] = "tozero"
    return spec(data, layout, f"Distribution of {title}: picked and {other}", 280)
