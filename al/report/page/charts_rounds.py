"""The charts of the rounds section: what each round brought, and how far its picks are from the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al import labels
from al.report.page.drawing import DASHES, SYMBOLS, Chart, chart, plot_layout, spec
from al.report.reading import view
from al.report.reading.values import lookup


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
            data.append(_line(name, [p["round"] for p in known], [p["models"][name] for p in known]))
    layout = plot_layout("Round", "NLL, nats per token", legend=True)
    layout["xaxis"]["dtick"] = 1 if len(points) <= 20 else None
    return spec(data, layout, "NLL on the test examples by round", 300)


@chart("rounds-tokens")
def rounds_tokens(summary: Mapping[str, Any]) -> Chart | None:
    """Macro NLL against the tokens picked so far, from base at none on; None in the first round."""
    points = {p["round"]: p["models"] for p in view.round_rows(summary)}
    picked = lookup(summary, "drift", "rounds") or []
    base = lookup(summary, "evaluation", "models", "base", "macro_nll")
    if len(picked) < 2 or base is None:
        return None
    data = []
    for name in ("selected", "control"):
        known = [
            (tokens, nll)
            for entry in picked
            if (tokens := lookup(entry, name, "all_tokens")) is not None
            and (nll := lookup(points, entry["round"], name)) is not None
        ]
        if known:
            data.append(_line(name, [0, *(x for x, _ in known)], [base, *(y for _, y in known)]))
    if not data:
        return None
    layout = plot_layout("Tokens picked so far", "NLL, nats per token", legend=True)
    layout["xaxis"].update(rangemode="tozero", exponentformat="SI")
    return spec(data, layout, "NLL on the test examples against the tokens picked so far", 300)


@chart("drift")
def drift_chart(summary: Mapping[str, Any]) -> Chart | None:
    """Distance of each round's picks from the pool, by clusters, with the control's; None in the first round."""
    picked = lookup(summary, "drift", "rounds") or []
    if len(picked) < 2:
        return None
    data = []
    for name in ("selected", "control"):
        known = [e for e in picked if lookup(e, name, "clusters_from_pool") is not None]
        if known:
            data.append(_line(name, [e["round"] for e in known], [e[name]["clusters_from_pool"] for e in known]))
    if not data:
        return None
    layout = plot_layout("Round", "Distance from the pool, 0 to 1", legend=True)
    layout["xaxis"]["dtick"] = 1 if len(picked) <= 20 else None
    layout["yaxis"]["rangemode"] = "tozero"
    return spec(data, layout, "Jensen-Shannon distance of the picks' clusters from the pool's, by round", 300)


def _line(name: str, x: list, y: list) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": labels.MODELS[name],
        "x": x,
        "y": y,
        "line": {"color": f"@{name}", "width": 2, "dash": DASHES[name]},
        "marker": {"symbol": SYMBOLS[name], "size": 9, "color": f"@{name}"},
    }
