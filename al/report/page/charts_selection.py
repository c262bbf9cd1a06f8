"""Charts of what was selected: quotas against losses, gains since the round before, distributions of scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al import labels
from al.report.page.drawing import Chart, chart, plain, plot_layout, spec, trace
from al.report.reading.values import lookup


@chart("clusters")
def cluster_quotas(summary: Mapping[str, Any]) -> Chart | None:
    """Quota against mean loss of each measured cluster, with the standard error of the loss."""
    rows = [c for c in summary.get("clusters") or [] if c.get("loss") is not None]
    if not rows:
        return None
    error = {"type": "data", "array": [c.get("loss_stderr") for c in rows], "color": "@base", "thickness": 1}
    hover = "%{text}<br>loss %{x:.3f}, quota %{y}<extra></extra>"
    points = trace([(c["loss"], c.get("quota")) for c in rows], "groups", "selected", "markers", error_x=error,
                   text=[plain(c.get("name") or "") for c in rows], hovertemplate=hover)  # fmt: skip
    unit = plain(lookup(summary, "budget", "unit") or "examples")
    layout = plot_layout("Mean loss ± standard error, nats", f"Quota, {unit}")
    return spec([points], layout, "Quota of each group against its mean loss", 320)


@chart("cluster-gains")
def cluster_gains(summary: Mapping[str, Any]) -> Chart | None:
    """What each cluster's loss was in the round before against what it is now; below the line it fell. None in the first round."""
    rows = [c for c in summary.get("clusters") or [] if c.get("gain") is not None]
    if not rows:
        return None
    pairs = [(c["loss_before"], c["loss"]) for c in rows]
    ends = [(value, value) for value in (min(map(min, pairs)), max(map(max, pairs)))]
    errors = {
        axis: {"type": "data", "array": [c.get(key) for c in rows], "color": "@base", "thickness": 1}
        for axis, key in (("error_x", "loss_before_stderr"), ("error_y", "loss_stderr"))
    }
    text = [plain(f"{c.get('cluster')}: {c.get('name') or ''}") for c in rows]
    hover = "%{text}<br>%{x:.3f} before, %{y:.3f} now<extra></extra>"
    points = trace(pairs, "groups", "selected", "markers", text=text, hovertemplate=hover, **errors)
    line = trace(ends, "no change", "axis", "lines", dash="dash", width=1, hoverinfo="skip")
    layout = plot_layout("Loss in the round before, nats", "Loss now, nats", legend=True)
    return spec([line, points], layout, "Loss of each group, the round before against now", 320)


@chart("lengths")
def lengths(summary: Mapping[str, Any]) -> Chart | None:
    """Distribution of length, left against picked."""
    return _histogram(summary, "length", "left", "Length, tokens")


def _score_chart(name: str, title: str) -> None:
    @chart(f"scores-{name}")
    def distribution(summary: Mapping[str, Any]) -> Chart | None:
        """Distribution of one score, picked against measured."""
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
            points = list(zip(counts["edges"], [*values, values[-1]], strict=True))
            made = trace(
                points,
                f"{name}: {sum(values):,}",
                role,
                "lines",
                dash="dot" if role == "base" else "solid",
                fill="tozeroy",
            )
            made["line"]["shape"] = "hv"
            data.append(made | {"fillcolor": f"@{role}-fill"})
    layout = plot_layout(title, "Examples", legend=True)
    layout["yaxis"]["rangemode"] = "tozero"
    return spec(data, layout, f"Distribution of {title}: picked and {other}", 280)
