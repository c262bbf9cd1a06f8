"""A comparison of strategies as one HTML page that works from disk, with the report's walls around hostile text.

The page shows the document's numbers as they are; only Holm's correction and the sentences are computed here.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from al.report import compare_text, labels
from al.report.drawing import Chart, plain, plot_layout, spec
from al.report.html import TEMPLATES, _environment, content_security_policy
from al.report.values import clean, lookup

SECTIONS = {
    "verdict": "Verdict",
    "curves": "Learning curves",
    "numbers": "All numbers",
    "cost": "Cost",
    "strategies": "Strategies",
    "runs": "Every run",
    "reproduce": "Reproduce",
}
METRICS = ("macro_nll", "micro_nll", "macro_nll_no_end", "macro_em", "micro_em", "macro_em_no_end")
STAGES = {"score": "Scoring", "select": "Selecting", "train": "Training", "evaluate": "Evaluating"}
# Roles of the stylesheet, --strategy-0 to --strategy-7; 0 is the baseline's grey. From the ninth strategy on hues come
# again, with other dashes.
COLORS = 8
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "x", "star")
_DASHES = ("dot", "solid", "dash", "dashdot", "longdash", "longdashdot", "6px,2px", "12px,4px,4px,4px", "2px,5px")
LONGEST_LABEL = 22


def render_comparison(document: Mapping[str, Any]) -> str:
    """The whole page (about 5 MB, nearly all of it plotly.js) for a comparison of schema 1.

    As in the report, a number stands in a `<data value="…" data-path="…">` with its JSON pointer, a computed one carries
    `data-derived`, and what is missing is said. Texts of pool, config and strategies are shown as they are written.
    """
    from plotly.offline import get_plotlyjs

    document = clean(document)
    scripts = {"plotly": get_plotlyjs(), "page": (TEMPLATES / "report.js").read_text(encoding="utf-8")}
    metrics = [labels.metric(key) for key in METRICS]
    environment = _environment(document)
    environment.globals.update(
        words=compare_text,
        as_json=lambda value: json.dumps(value, ensure_ascii=False),
        differences={metric.key: compare_text.differences(document, metric.key) for metric in metrics},
        color_of=lambda i: color_role(document, i),
        metrics=metrics,
        stages=STAGES,
    )
    return environment.get_template("compare.html.j2").render(
        policy=content_security_policy(list(scripts.values())),
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        scripts={name: Markup(text) for name, text in scripts.items()},
        charts=comparison_charts(document),
        sections=SECTIONS,
        order=compare_text.ranked(document),
        baseline=compare_text.baseline_of(document),
        headline=compare_text.comparison_headline(document),
        verdict=compare_text.comparison_verdict(document),
        command=command_of(document),
    )


def command_of(document: Mapping[str, Any]) -> str:
    """The command line as recorded under "command", or one made from what was compared."""
    if document.get("command"):
        return str(document["command"])
    names = ",".join(str(strategy.get("name")) for strategy in document.get("strategies") or [])
    options = {"strategies": names, "budget": document.get("budget"), "rounds": document.get("rounds")}
    options["seeds"] = len(document.get("seeds") or []) or None
    told = [f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value not in (None, "")]
    return " ".join(["python cli.py compare", *told])


def color_role(document: Mapping[str, Any], i: int) -> str:
    """The role of colour of a strategy by position: the baseline is grey, the others keep the order of the document."""
    style = _style_of(document, i)
    return f"strategy-{style and (style - 1) % (COLORS - 1) + 1}"


def comparison_charts(document: Mapping[str, Any]) -> dict[str, Chart]:
    """Every chart that this comparison has the numbers for, by the id that the template uses."""
    drawn: dict[str, Chart | None] = {
        "final-nll": _finals(document, "macro_nll", "NLL, nats per token", 1),
        "final-em": _finals(document, "macro_em", "Exact match, %", 100),
        "curve-examples": _curves(document, "examples", "Examples trained on"),
        "curve-tokens": _curves(document, "tokens", "Tokens trained on"),
    }
    return {name: spec for name, spec in drawn.items() if spec is not None}


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


def _finals(document: Mapping[str, Any], metric: str, title: str, factor: int) -> Chart | None:
    """A row for each strategy, best NLL on top: mean with its interval, and under it a small dot for each seed."""
    rows = [i for i in compare_text.ranked(document) if _final(document, i, metric) is not None]
    if not rows:
        return None
    data: list[dict[str, Any]] = []
    for y, i in enumerate(rows):
        role, mean = f"@{color_role(document, i)}", factor * _final(document, i, metric)
        low, high = (_final(document, i, metric, bound) for bound in ("low", "high"))
        seeds = final_seeds(document, i, metric)
        dots = {"size": 6, "opacity": 0.7, "symbol": "circle", "color": role}
        hover = "seed %{text}: %{x:.3f}<extra></extra>"
        data.append({**_markers([factor * v for _, v in seeds], [y + 0.25] * len(seeds), dots), "hovertemplate": hover})
        data[-1]["text"] = [plain(str(seed)) for seed, _ in seeds]
        marker = {"size": 12, "symbol": _SYMBOLS[_style_of(document, i) % len(_SYMBOLS)], "color": role}
        trace = {**_markers([mean], [y - 0.05], marker), "text": [_label(document, i)]}
        trace["hovertemplate"] = "%{text}: %{x:.3f}<extra></extra>"
        if low is not None and high is not None:
            bars = {"array": [factor * high - mean], "arrayminus": [mean - factor * low]}
            trace["error_x"] = {"type": "data", "symmetric": False, **bars, "color": role, "thickness": 2.5, "width": 7}
            trace["customdata"] = [[factor * low, factor * high]]
            trace["hovertemplate"] = "%{text}: %{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>"
        data.append(trace)
    layout = plot_layout(title, None)
    ticks = {"tickmode": "array", "tickvals": list(range(len(rows))), "ticktext": [_label(document, i) for i in rows]}
    layout["yaxis"].update(ticks, range=[len(rows) - 0.4, -0.6], showgrid=False, zeroline=False)
    start = compare_text.baseline_of(document)
    if start in rows:
        layout["shapes"] = [_vertical(factor * _final(document, start, metric))]
    return spec(data, layout, f"{title} of each strategy after the last round, with each seed", 80 + 46 * len(rows))


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
        role, style = color_role(document, i), _style_of(document, i)
        shared = {"type": "scatter", "legendgroup": str(i), "name": _label(document, i)}
        band = [(x, nll) for x, nll in points if nll.get("low") is not None and nll.get("high") is not None]
        if len(band) > 1:
            around = [(x, nll["low"]) for x, nll in band] + [(x, nll["high"]) for x, nll in reversed(band)]
            area = {"mode": "lines", "fill": "toself", "fillcolor": f"@{role}-fill", "line": {"width": 0}}
            area |= {"showlegend": False, "hoverinfo": "skip"}
            data.append({**shared, **area, "x": [x for x, _ in around], "y": [y for _, y in around]})
        line = {"color": f"@{role}", "width": 2, "dash": _DASHES[style % len(_DASHES)]}
        marker = {"symbol": _SYMBOLS[style % len(_SYMBOLS)], "size": 8, "color": f"@{role}"}
        trace = {**shared, "mode": "lines+markers", "line": line, "marker": marker}
        trace |= {"x": [x for x, _ in points], "y": [nll["mean"] for _, nll in points]}
        data.append({**trace, "hovertemplate": f"%{{y:.3f}} after %{{x:,.0f}} {key}<extra>%{{fullData.name}}</extra>"})
    if not data:
        return None
    layout = plot_layout(title, "NLL, nats per token", legend=True)
    layout["xaxis"].update(tickformat="~s" if key == "tokens" else ",", nticks=6, rangemode="tozero")
    return spec(data, layout, f"NLL of each strategy against {title.lower()}", 340)


def _markers(x: list[float], y: list[float], marker: dict[str, Any]) -> dict[str, Any]:
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": marker}


def _vertical(x: float) -> dict[str, Any]:
    line = {"color": "@axis", "width": 1, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "layer": "below", "line": line}


def _final(document: Mapping[str, Any], i: int, metric: str, part: str = "mean") -> Any:
    return lookup(document, "strategies", i, "final", metric, part)


def _style_of(document: Mapping[str, Any], i: int) -> int:
    """0 for the baseline, 1, 2, … for the others in the document's order."""
    start = compare_text.baseline_of(document)
    return 0 if i == start else i + 1 - (start is not None and start < i)


def _label(document: Mapping[str, Any], i: int) -> str:
    return plain(compare_text.name_of(document, i, LONGEST_LABEL))
