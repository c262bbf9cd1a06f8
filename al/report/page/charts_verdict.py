"""The charts of the verdict: each model's NLL, and the selected one minus each other with its interval, as dots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from al import labels
from al.report.page.dots import DotRow, dots
from al.report.page.drawing import SYMBOLS
from al.report.reading.values import lookup
from al.report.reading.verdict import comparisons, headline_metrics


def verdict_charts(summary: Mapping[str, Any]) -> dict[str, Markup]:
    """Those that this summary has the numbers for, by the id that the template uses."""
    models = model_dots(summary)
    found = (
        {"models-nll": dots(models, "NLL, nats per token", "NLL of each model, mean over sources")} if models else {}
    )
    shown = headline_metrics(summary)
    mean = shown[0].partition("_")[0]
    for name, measure, title, factor in (
        ("differences-nll", "nll", "NLL difference, nats per token", 1),
        ("differences-accuracy", "accuracy", "Accuracy difference, points", 100),
        ("differences-em", "em", "Exact match difference, points", 100),
    ):
        metric = f"{mean}_{measure}"
        rows = difference_dots(summary, metric, factor)
        if rows and metric in shown:
            about = f"Selected minus the others with 95% intervals: {title}"
            found[name] = dots(rows, title, about, line=0.0)
    return found


def model_dots(summary: Mapping[str, Any]) -> list[DotRow]:
    """Macro NLL of each model, nats per token."""
    values = {
        name: lookup(summary, "evaluation", "models", name, "macro_nll")
        for name in labels.models_of(lookup(summary, "evaluation"))
        if name in labels.MODELS
    }
    return [
        DotRow(labels.MODELS[name], value, name, SYMBOLS[name]) for name, value in values.items() if value is not None
    ]


def difference_dots(summary: Mapping[str, Any], metric: str, factor: int) -> list[DotRow]:
    """Selected minus each other model in a metric times `factor`, with 95% intervals; what was not measured is left out."""
    return [
        DotRow(
            f"minus {labels.MODELS[c.against].lower()}",
            c.value * factor,
            c.against,
            SYMBOLS[c.against],
            (c.low * factor, c.high * factor),
        )
        for c in comparisons(summary, metric)
        if c.outcome != "unmeasured"
    ]
