"""A comparison of strategies as one HTML page.

The page shows the document's numbers as they are; only Holm's correction and the sentences are computed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from al import labels
from al.comparison import words
from al.comparison.headline import comparison_headline
from al.comparison.next_step import command_of
from al.evaluation.deciding import SHORT
from al.report.page.base import packed_plotlyjs, render_document
from al.report.page.dots import DotRow, dots
from al.report.page.drawing import Chart, plain, plot_layout, spec, trace
from al.report.reading.values import lookup
from al.terminal import displayable

SCRIPTS = ("data.js", "report.js")
UNSCRIPTED = "Scripts are off, so the learning curves are not drawn and tables cannot be sorted. Every table is complete without them."
METRICS = ("macro_nll", "micro_nll", "macro_nll_no_end", "macro_em", "micro_em", "macro_em_no_end")
STAGES = {"score": "Scoring", "select": "Selecting", "train": "Training", "evaluate": "Evaluating"}
# Roles of the stylesheet, --strategy-0 to --strategy-7; 0 is the baseline's grey. From the ninth strategy on hues come
# again, with other dashes.
COLORS = 8
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "x", "star")
_DASHES = ("dot", "solid", "dash", "dashdot", "longdash", "longdashdot", "6px,2px", "12px,4px,4px,4px", "2px,5px")
LONGEST_LABEL = 22


def render_comparison(document: Mapping[str, Any]) -> str:
    """The whole page (about 2 MB, nearly all of it plotly.js, packed) for a comparison of strategies of schema 1."""
    document = displayable(document)
    headline = comparison_headline(document)
    metrics = [labels.metric(key) for key in METRICS]
    return render_document(
        "comparison",
        document,
        f"Strategies compared: {headline}",
        SCRIPTS,
        {"chart-data": comparison_charts(document)},
        {"plotly-data": packed_plotlyjs()[1]},
        unscripted=UNSCRIPTED,
        dots=final_charts(document),
        words=words,
        as_json=lambda value: json.dumps(value, ensure_ascii=False),
        differences={metric.key: words.differences(document, metric.key) for metric in metrics},
        color_of=lambda i: color_role(document, i),
        metrics=metrics,
        stages=STAGES,
        order=words.ranked(document),
        baseline=words.baseline_of(document),
        headline=headline,
        deciding=words.leading_metric(document),
        short_responses=SHORT,
        verdict=[*words.comparison_verdict(document), *filter(None, [words.next_sentence(document)])],
        command=command_of(document),
    )


def color_role(document: Mapping[str, Any], i: int) -> str:
    """The role of colour of a strategy by position: the baseline is grey, the others keep the order of the document."""
    style = _style_of(document, i)
    return f"strategy-{style and (style - 1) % (COLORS - 1) + 1}"


def comparison_charts(document: Mapping[str, Any]) -> dict[str, Chart]:
    """Every learning curve that this comparison has the numbers for, by the id that the template uses. A single round makes none: all its
    points would stand above one another, and `final_charts` shows them side by side."""
    if all(len(strategy.get("curve") or []) < 2 for strategy in document.get("strategies") or []):
        return {}
    drawn: dict[str, Chart | None] = {
        "curve-examples": _curves(document, "examples", "Examples trained on"),
        "curve-tokens": _curves(document, "tokens", "Tokens trained on"),
    }
    return {name: made for name, made in drawn.items() if made is not None}


def final_seeds(document: Mapping[str, Any], i: int, metric: str) -> list[tuple[Any, float]]:
    """(seed, value after the last round) of the finished runs of a strategy."""
    strategy = document["strategies"][i]
    done = strategy.get("seeds_done")
    runs = [run for run in document.get("runs") or [] if run.get("strategy") == strategy.get("name")]
    values = [
        (run.get("seed"), lookup(run["rounds"][-1], metric))
        for run in runs
        if run.get("rounds") and (done is None or run.get("seed") in done)
    ]
    return [(seed, value) for seed, value in values if value is not None]


def final_charts(document: Mapping[str, Any]) -> dict[str, Markup]:
    """The final results of the measured strategies, by the id that the template uses; the line is the baseline."""
    found, mean = {}, words.leading_metric(document).partition("_")[0]
    for name, metric, title, factor in (
        ("final-nll", f"{mean}_nll", "NLL, nats per token", 1),
        ("final-em", f"{mean}_em", "Exact match, %", 100),
    ):
        rows = final_rows(document, metric, factor)
        start = words.baseline_of(document)
        line = None if start is None else _final(document, start, metric)
        if rows:
            about = f"{title} of each strategy after the last round, with each seed"
            found[name] = dots(rows, title, about, line=None if line is None else factor * line, row_height=46)
    return found


def final_rows(document: Mapping[str, Any], metric: str, factor: int) -> list[DotRow]:
    """A row for each strategy, best NLL on top: a metric's mean times `factor` with its interval, and each seed."""
    rows = []
    for i in words.ranked(document):
        mean, low, high = (_final(document, i, metric, part) for part in ("mean", "low", "high"))
        if mean is None:
            continue
        ends = None if low is None or high is None else (factor * low, factor * high)
        each = [(f"seed {seed}", factor * value) for seed, value in final_seeds(document, i, metric)]
        shape = _SYMBOLS[_style_of(document, i) % len(_SYMBOLS)]
        rows.append(DotRow(words.marked_name(document, i), factor * mean, color_role(document, i), shape, ends, each))
    return rows


def _curves(document: Mapping[str, Any], key: str, title: str) -> Chart | None:
    """Macro NLL against examples or tokens: a line for each strategy over a band for its interval."""
    data: list[dict[str, Any]] = []
    for i, strategy in enumerate(document.get("strategies") or []):
        points = [
            (point[key], point["macro_nll"])
            for point in strategy.get("curve") or []
            if point.get(key) is not None and lookup(point, "macro_nll", "mean") is not None
        ]
        if not points:
            continue
        role, style, name = (
            color_role(document, i),
            _style_of(document, i),
            plain(words.name_of(document, i, LONGEST_LABEL)),
        )
        band = [(x, nll) for x, nll in points if nll.get("low") is not None and nll.get("high") is not None]
        if len(band) > 1:
            around = [(x, nll["low"]) for x, nll in band] + [(x, nll["high"]) for x, nll in reversed(band)]
            area = {"fill": "toself", "fillcolor": f"@{role}-fill", "showlegend": False, "hoverinfo": "skip"}
            data.append(trace(around, name, role, "lines", width=0, legendgroup=str(i), **area))
        means, shape = [(x, nll["mean"]) for x, nll in points], _SYMBOLS[style % len(_SYMBOLS)]
        hover = f"%{{y:.3f}} after %{{x:,.0f}} {key}<extra>%{{fullData.name}}</extra>"
        data.append(
            trace(
                means,
                name,
                role,
                symbol=shape,
                dash=_DASHES[style % len(_DASHES)],
                legendgroup=str(i),
                hovertemplate=hover,
            )
        )
    if not data:
        return None
    layout = plot_layout(title, "NLL, nats per token", legend=True)
    layout["xaxis"].update(tickformat="~s" if key == "tokens" else ",", nticks=6, rangemode="tozero")
    return spec(data, layout, f"NLL of each strategy against {title.lower()}", 340)


def _final(document: Mapping[str, Any], i: int, metric: str, part: str = "mean") -> Any:
    return lookup(document, "strategies", i, "final", metric, part)


def _style_of(document: Mapping[str, Any], i: int) -> int:
    """0 for the baseline, 1, 2, … for the others in the document's order."""
    start = words.baseline_of(document)
    return 0 if i == start else i + 1 - (start is not None and start < i)
