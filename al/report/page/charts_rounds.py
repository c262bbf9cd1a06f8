"""The charts of the rounds section: what each round brought, and how far its picks are from the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al import labels
from al.report.page.drawing import DASHES, SYMBOLS, Chart, chart, plot_layout, spec, trace
from al.report.reading import view
from al.report.reading.values import lookup


@chart("rounds")
def rounds_nll(summary: Mapping[str, Any]) -> Chart | None:
    """Macro NLL of each model by round, this round last; None in the first round."""
    points = view.round_rows(summary)
    if len(points) < 2:
        return None
    lines = {
        name: [(p["round"], p["models"][name]) for p in points if p["models"].get(name) is not None]
        for name in labels.MODELS
        if name != "previous"
    }
    layout = plot_layout("Round", "NLL, nats per token", legend=True)
    layout["xaxis"]["dtick"] = 1 if len(points) <= 20 else None
    return spec(_traces(lines), layout, "NLL on the test examples by round", 300)


@chart("rounds-tokens")
def rounds_tokens(summary: Mapping[str, Any]) -> Chart | None:
    """Macro NLL against the tokens picked so far, starting with base at none; None in the first round."""
    lines = view.nll_by_tokens(summary)
    if len(lookup(summary, "drift", "rounds") or []) < 2 or not lines:
        return None
    layout = plot_layout("Tokens picked so far", "NLL, nats per token", legend=True)
    layout["xaxis"].update(rangemode="tozero", exponentformat="SI")
    return spec(_traces(lines), layout, "NLL on the test examples against the tokens picked so far", 300)


@chart("drift")
def drift_chart(summary: Mapping[str, Any]) -> Chart | None:
    """Distance of each round's picks from the pool, by clusters, with the control's; None in the first round."""
    picked = lookup(summary, "drift", "rounds") or []
    lines = {
        name: [
            (e["round"], e[name]["clusters_from_pool"])
            for e in picked
            if lookup(e, name, "clusters_from_pool") is not None
        ]
        for name in view.LINEAGES
    }
    if len(picked) < 2 or not any(lines.values()):
        return None
    layout = plot_layout("Round", "Distance from the pool, 0 to 1", legend=True)
    layout["xaxis"]["dtick"] = 1 if len(picked) <= 20 else None
    layout["yaxis"]["rangemode"] = "tozero"
    return spec(_traces(lines), layout, "Jensen-Shannon distance of the picks' groups from the pool's, by round", 300)


def _traces(lines: Mapping[str, list[tuple[Any, Any]]]) -> list[dict[str, Any]]:
    return [
        trace(points, labels.MODELS[name], name, dash=DASHES[name], symbol=SYMBOLS[name], size=9)
        for name, points in lines.items()
        if points
    ]
