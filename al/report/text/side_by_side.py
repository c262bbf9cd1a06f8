"""Runs beside each other in words: for the terminal, and as Markdown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from al import labels
from al.report.reading.values import MISSING, displayable, lookup, write
from al.report.reading.verdict import OUTCOME_WORDS, Comparison
from al.report.text import markdown

METRICS = ("macro_nll", "macro_nll_no_end", "macro_em", "micro_nll", "micro_em")
CAVEAT = (
    "Intervals: paired bootstrap over the test examples. They do not cover what another seed would have trained; "
    "`compare --seeds` does."
)


def describe_runs(document: Mapping[str, Any], width: int = 100) -> str:
    """The comparison for the terminal, at most `width` columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False, legacy_windows=False)
    for head, rows in _tables(displayable(document)):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for i, title in enumerate(head):
            table.add_column(Text(title), justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        console.print()
    console.print(Text(_conclusion(document)))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().split("\n"))


def runs_as_markdown(document: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    parts = [
        markdown.table(
            [markdown.escape(cell) for cell in head], [[markdown.escape(cell) for cell in row] for row in rows]
        )
        for head, rows in _tables(displayable(document))
    ]
    return "\n\n".join([*parts, markdown.escape(_conclusion(document), 1000)]) + "\n"


def _tables(document: Mapping[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """(head, rows) of each table, as plain text."""
    runs = document["runs"]
    names = [run["name"] for run in runs]
    tables = [(["", *names], _facts(runs))]
    config = [[key, *(_value(value) for value in values)] for key, values in document["config"].items()]
    if config:
        tables.append((["Config keys that differ", *names], config))
    for entry in document["differences"]:
        head = [f"{entry['run']} minus {entry['against']}", "Difference", "95% interval", ""]
        tables.append((head, [_difference_row(metric, entry["metrics"]) for metric in METRICS]))
    return tables


def _facts(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["round", *(str(run["round"]) for run in runs)]]
    for key in ("examples", "tokens"):
        rows.append([f"picked {key}", *(write(lookup(run, "budget", key), "count") for run in runs)])
    rows.append(["time of its stages", *(write(run["seconds"], "seconds") for run in runs)])
    rows.append(["test examples", *(write(run["test_examples"], "count") for run in runs)])
    for model, name in labels.MODELS.items():
        if not any(run["models"].get(model) for run in runs):
            continue
        for key in METRICS[:3]:
            metric = labels.metric(key)
            rows.append(
                [f"{name}: {metric.name}", *(write(lookup(run, "models", model, key), metric.style) for run in runs)]
            )
    return rows


def _difference_row(metric: str, metrics: Mapping[str, Any]) -> list[str]:
    numbers = [metrics[metric][key] for key in ("value", "low", "high", "p")]
    style, unit = labels.difference_style(metric)
    value, low, high = (write(number, style, signed=True) for number in numbers[:3])
    return [
        labels.metric(metric).name,
        f"{value} {unit}",
        f"{low} to {high}",
        OUTCOME_WORDS[Comparison("", metric, *numbers).outcome],
    ]


def _value(value: Any) -> str:
    return MISSING if value is None else str(value) if len(str(value)) <= 80 else f"{str(value)[:79]}…"


def _conclusion(document: Mapping[str, Any]) -> str:
    if not document["comparable"]:
        return f"No difference is claimed: {document['why_not']}."
    base = "" if document["config"] else "The configs are equal. "
    return base + CAVEAT
