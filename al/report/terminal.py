"""The summary of a round for the terminal: the same numbers as the page, few enough for one screen or two."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from al.report import labels, view
from al.report.values import MISSING, clean, lookup, write
from al.report.verdict import comparisons, headline, verdict

TOP_CLUSTERS = 8
LONGEST_TEXT = 80
TERMINAL_METRICS = ("macro_nll", "micro_nll", "macro_em", "micro_em")
_DIFFERENCES = {"macro_nll": "NLL", "macro_em": "Exact match"}
_BUDGET_COUNTS = ("examples", "tokens", "target_tokens")
_COLORS = {"better": "green", "worse": "red", "unclear": "yellow", "unmeasured": ""}


def render_terminal(summary: Mapping[str, Any], width: int = 100, color: bool = False) -> str:
    """Lines of at most `width` columns, without any escape sequence unless `color`.

    `summary["report_path"]` is where the user can open the page; without it, the place inside the run directory is
    named.
    Text of the pool reaches the terminal without its control characters and is never read as markup.
    """
    report_path = summary.get("report_path")
    summary = _one_line(clean(summary))
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(Text(f"{summary.get('run')}, round {summary.get('round')}: {headline(summary)}", style="bold"))
    console.print(Text(verdict(summary)))
    for part in (_models, _differences, _funnel, _clusters, _outcomes, _timings):
        console.print()
        console.print(part(summary))
    console.print()
    place = report_path or f"rounds/{int(summary.get('round') or 0):03d}/report.html in the run directory"
    console.print(Text(f"Report: {place}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")) + "\n"


def _models(summary: Mapping[str, Any]) -> Table | Text:
    names = labels.models_of(lookup(summary, "evaluation"))
    if not names:
        return Text("Evaluation: no held-out examples were evaluated.")
    split, examples = lookup(summary, "evaluation", "split"), _count(summary, "evaluation", "examples")
    table = _table(f"Evaluation on {examples} {split or 'held-out'} examples")
    for name in names:
        table.add_column(labels.MODELS.get(name, name), justify="right")
    for metric in (m for m in labels.METRICS if m.key in TERMINAL_METRICS):
        values = [write(lookup(summary, "evaluation", "models", name, metric.key), metric.style) for name in names]
        table.add_row(Text(metric.name), *values)
    return table


def _differences(summary: Mapping[str, Any]) -> Table | Text:
    found = [(name, c) for metric, name in _DIFFERENCES.items() for c in comparisons(summary, metric)]
    if not found:
        return Text("Differences: none were measured.")
    table = _table("Selected against the others, macro")
    for column in ("Difference", "95% interval", "p", "Shown"):
        table.add_column(column, justify="left" if column == "Shown" else "right")
    for name, c in found:
        style, unit = labels.difference_style(c.metric)
        interval = f"{write(c.low, style, signed=True)} to {write(c.high, style, signed=True)}"
        value, shown = f"{write(c.value, style, signed=True)} {unit}", Text(c.outcome_words, style=_COLORS[c.outcome])
        table.add_row(Text(f"{name} minus {labels.MODELS[c.against].lower()}"), value, interval, write(c.p, "p"), shown)
    return table


def _funnel(summary: Mapping[str, Any]) -> Text:
    kept = [f"{_count(summary, *step.path)} {step.text}" for step in view.FUNNEL if not step.removes]
    removed = [f"{_count(summary, *step.path)} {step.text}" for step in view.FUNNEL if step.removes]
    reasons = view.quarantine_rows(summary)
    quarantined = [f"{write(count, 'count')} {_one_line(labels.outcome(code))}" for code, count in reasons]
    selected = [f"{_count(summary, 'budget', key)} {key.replace('_', ' ')}" for key in _BUDGET_COUNTS]
    budget = f"asked {lookup(summary, 'budget', 'asked') or MISSING}; selected {', '.join(selected)}"
    return Text("\n").join(
        [
            _labelled("Pool", " → ".join(kept)),
            _labelled("Set aside", ", ".join(removed)),
            _labelled("Quarantined rows", ", ".join(quarantined) or "none"),
            _labelled("Budget", budget),
        ]
    )


def _clusters(summary: Mapping[str, Any]) -> Table | Text:
    clusters = summary.get("clusters") or []
    if not clusters:
        return Text("Clusters: this strategy used none.")
    top = sorted(range(len(clusters)), key=lambda i: (-(clusters[i].get("quota") or 0), i))[:TOP_CLUSTERS]
    table = _table(f"Clusters with the largest quotas ({len(top)} of {len(clusters)})")
    for column in ("Size", "Loss ± stderr", "Quota", "Picked"):
        table.add_column(column, justify="right", no_wrap=True)
    for i in top:
        cluster = clusters[i]
        loss = write(cluster.get("loss"), "nll")
        if cluster.get("loss") is not None:
            loss += f" ± {write(cluster.get('loss_stderr'), 'nll')}"
        counts = [write(cluster.get(key), "count") for key in ("size", "quota", "picked")]
        name = Text(f"{cluster.get('cluster')} {cluster.get('name') or MISSING}", overflow="ellipsis")
        table.add_row(name, counts[0], loss, *counts[1:])
    return table


def _outcomes(summary: Mapping[str, Any]) -> Table | Text:
    rows = [(code, count) for code, count in view.outcome_rows(summary) if count]
    if not rows:
        return Text("Outcomes: none were recorded.")
    table = _table("Outcomes")
    table.add_column("Examples", justify="right")
    for code, count in rows:
        table.add_row(Text(_one_line(labels.outcome(code))), write(count, "count"))
    missing = view.unaccounted(summary)
    if missing:
        table.add_row(Text("unaccounted for", style="red"), write(missing, "count", signed=True))
    return table


def _timings(summary: Mapping[str, Any]) -> Text:
    timings = summary.get("timings") or {}
    stages = {stage: seconds for stage, seconds in timings.items() if stage != "total"}
    parts = [f"{_one_line(stage)} {write(seconds, 'seconds')}" for stage, seconds in stages.items()]
    parts.append(f"total {write(timings.get('total'), 'seconds')}")
    return _labelled("Time", ", ".join(parts))


def _one_line(node: Any) -> Any:
    """Every text on one line and short: a name with newlines would tear the table it stands in."""
    if isinstance(node, dict):
        return {key: _one_line(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_one_line(value) for value in node]
    if isinstance(node, str):
        text = " ".join(node.split())
        return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    return node


def _table(title: str) -> Table:
    """A table whose first column carries the title."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column(Text(title, style="bold"))
    return table


def _labelled(label: str, text: str) -> Text:
    return Text.assemble((f"{label}: ", "bold"), text)


def _count(summary: Mapping[str, Any], *path: str) -> str:
    return write(lookup(summary, *path), "count")
