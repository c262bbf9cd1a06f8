"""The summary of a round for the terminal: the same numbers as the page, few enough for one screen or two."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from al import labels
from al.report.reading import view
from al.report.reading.priced import priced
from al.report.reading.values import MISSING, displayable, lookup, write
from al.report.reading.verdict import Comparison, comparisons, headline, verdict

_BUDGET_COUNTS = ("examples", "tokens", "target_tokens")
TOP_CLUSTERS = 6
LONGEST_NAME = 80
LONGEST_TEXT = 240
TERMINAL_METRICS = ("macro_nll", "micro_nll", "macro_em", "micro_em")
_COLORS = {"better": "green", "worse": "red", "unclear": "yellow", "unmeasured": ""}
# Short, for a column of 14; the line below the table says them in full.
_WORDS = {"better": "better", "worse": "worse", "unclear": "n.s.", "unmeasured": "no interval"}
_KEY = (
    "NLL in nats per response token, exact match teacher-forced. Selected minus the others with 95% intervals, "
    "differences of exact match in points; n.s.: no significant difference, the interval holds zero."
)


def render_terminal(summary: Mapping[str, Any], width: int = 100, color: bool = False) -> str:
    """Lines of at most `width` columns, without any escape sequence unless `color`.

    `summary["report_path"]` is where the user can open the page; without it, the place inside the run directory is
    named.
    Text of the pool reaches the terminal without its control characters and is never read as markup.
    """
    report_path = summary.get("report_path")
    summary = _one_line(displayable(summary))
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
    console.print(Text(priced(summary)))
    if lookup(summary, "scoring", "target", "held") is False:
        console.print(Text(f"Note: {labels.TARGET_NOT_HELD}.", style="yellow"))
    parts = [_budget(summary), _evaluation(summary, "evaluation", "Test"), _evaluation(summary, "dev", "Dev")]
    parts += [Text(_KEY, style="dim"), _funnel(summary), _clusters(summary), _outcomes(summary), _timings(summary)]
    for part in parts:
        console.print()
        console.print(part)
    console.print()
    place = report_path or f"rounds/{int(summary.get('round') or 0):03d}/report.html in the run directory"
    console.print(Text(f"Report: {place}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")) + "\n"


def _budget(summary: Mapping[str, Any]) -> Text:
    unit = lookup(summary, "budget", "unit") or ""
    spent = ", ".join(f"{_count(summary, 'budget', key)} {key.replace('_', ' ')}" for key in _BUDGET_COUNTS)
    training = write(lookup(summary, "training", "selected", "seconds"), "seconds")
    asked = f"asked {lookup(summary, 'budget', 'asked') or MISSING} ({_count(summary, 'budget', 'amount')} {unit})"
    return _labelled("Budget", f"{asked}; selected {spent}; trained {training}")


def _evaluation(summary: Mapping[str, Any], part: str, title: str) -> Table | Text:
    """Models and differences of one split below each other, a column for each metric."""
    models, metrics = labels.models_of(lookup(summary, part)), [labels.metric(key) for key in TERMINAL_METRICS]
    if not models:
        return Text(f"{title}: no held-out examples were evaluated.")
    table = _table(f"{title}\n{_count(summary, part, 'examples')} examples")
    for metric in metrics:
        name, _, kind = metric.name.partition(", ")
        table.add_column(f"{name}\n{kind} {'↓' if metric.lower_is_better else '↑'}", justify="right", no_wrap=True)
    for model in models:
        values = [write(lookup(summary, part, "models", model, m.key), m.style) for m in metrics]
        table.add_row(Text(labels.MODELS.get(model, model)), *values)
    found = {(c.against, c.metric): c for m in metrics for c in comparisons(summary, m.key, part)}
    for against in dict.fromkeys(name for name, _ in found):
        row = [found.get((against, metric.key)) for metric in metrics]
        table.add_row(Text(f"minus {labels.MODELS[against].lower()}"), *map(_difference, row))
        table.add_row(Text("  95% interval", style="dim"), *map(_interval, row))
    return table


def _difference(comparison: Comparison | None) -> Text:
    if comparison is None:
        return Text(MISSING)
    style, _ = labels.difference_style(comparison.metric)
    value = write(comparison.value, style, signed=True)
    return Text(f"{value} {_WORDS[comparison.outcome]}", style=_COLORS[comparison.outcome])


def _interval(comparison: Comparison | None) -> Text:
    if comparison is None or comparison.outcome == "unmeasured":
        return Text(MISSING)
    style, _ = labels.difference_style(comparison.metric)
    low, high = (write(bound, style, signed=True) for bound in (comparison.low, comparison.high))
    return Text(f"{low}…{high}", style="dim")


def _funnel(summary: Mapping[str, Any]) -> Text:
    kept = [f"{_count(summary, *step.path)} {step.text}" for step in view.FUNNEL if not step.removes]
    reasons = view.quarantine_rows(summary)
    quarantined = [f"{write(count, 'count')} {_short(labels.outcome(code))}" for code, count in reasons]
    lines = [_labelled("Pool", " → ".join(kept)), _labelled("Quarantined rows", ", ".join(quarantined) or "none")]
    duplicates = _count(summary, "pool", "exact_duplicates")
    return Text("\n").join([*lines, _labelled("Exact duplicates merged on import", duplicates)])


def _clusters(summary: Mapping[str, Any]) -> Table | Text:
    clusters = summary.get("clusters") or []
    if not clusters:
        return Text("Clusters: this strategy used none.")
    top = view.top_clusters(summary, TOP_CLUSTERS)
    if not top:
        return Text("Clusters: none got a quota.")
    unit = _short(lookup(summary, "budget", "unit") or "examples", 12)
    table = _table("Quota", justify="right")
    for column in ("Picked", "Tokens", "Size"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(f"Largest quotas, in {unit} ({len(top)} of {len(clusters)}), and why")
    for cluster in (clusters[i] for i in top):
        counts = [write(cluster.get(key), "count") for key in ("quota", "picked", "tokens", "size")]
        name = Text(f"{cluster.get('cluster')} {_short(cluster.get('name') or MISSING)}")
        table.add_row(*counts, name + Text(f"\n{cluster.get('reason') or MISSING}", style="dim"))
    return table


def _outcomes(summary: Mapping[str, Any]) -> Table | Text:
    rows = [(code, count) for code, count in view.outcome_rows(summary) if count]
    if not rows:
        return Text("Outcomes: none were recorded.")
    table = _table("Examples", justify="right")
    table.add_column("Outcome")
    for code, count in rows:
        table.add_row(write(count, "count"), Text(_short(labels.outcome(code))))
    missing = view.unaccounted(summary)
    if missing:
        table.add_row(write(missing, "count", signed=True), Text("unaccounted for", style="red"))
    return table


def _timings(summary: Mapping[str, Any]) -> Text:
    timings, money = summary.get("timings") or {}, lookup(summary, "cost", "money", "total")
    stages = {stage: seconds for stage, seconds in timings.items() if stage != "total"}
    parts = [f"{_short(stage)} {write(seconds, 'seconds')}" for stage, seconds in stages.items()]
    parts.append(f"total {write(timings.get('total'), 'seconds')}")
    if money is not None:
        parts.append(f"{write(money, 'money')} {lookup(summary, 'cost', 'currency') or ''}".strip())
    return _labelled("Time of this round's stages", ", ".join(parts))


def _one_line(node: Any) -> Any:
    """Every text on one line and of bounded length: a name with newlines would tear the table it stands in."""
    if isinstance(node, dict):
        return {key: _one_line(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_one_line(value) for value in node]
    return _short(node, LONGEST_TEXT) if isinstance(node, str) else node


def _short(text: str, limit: int = LONGEST_NAME) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _table(title: str, justify: Literal["left", "right"] = "left") -> Table:
    """A table with its first column."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, header_style="bold")
    table.add_column(title, justify=justify, no_wrap=justify == "right")
    return table


def _labelled(label: str, text: str) -> Text:
    return Text.assemble((f"{label}: ", "bold"), text)


def _count(summary: Mapping[str, Any], *path: str) -> str:
    return write(lookup(summary, *path), "count")
