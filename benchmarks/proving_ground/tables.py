"""The proving ground as tables of docs/selection.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from benchmarks.proving_ground.ground import CLUSTERS, KIND, ORACLE, WITH, Ground
from benchmarks.proving_ground.stage_tables import stage_tables

SHOWN = (
    "random",
    "source_size",
    WITH,
    "split_uniform, 10% random",
    KIND,
    "kind_uniform, 10% random",
    CLUSTERS,
    ORACLE,
    "oracle_uniform",
)


def tables(document: dict[str, Any], summary: dict[str, Any], pools: dict[str, Any]) -> str:
    """Provenance, one table a model, the kinds, and the named figures."""
    ground = Ground(document["rows"])
    head = (
        f"{document['device']}; {document['versions']}; {document['date']}; `{document['command']}`. "
        f"{len(document['rows'])} runs. "
        "Macro NLL at 1,000 examples: mean over seeds ± its standard error (seeds); below it the difference of macro exact match from "
        "random, in points, and the share of random's examples that reach the same NLL."
    )
    parts = [head]
    for model in sorted({model for model, _ in ground.cells}):
        parts += [f"**{model}**", _table(ground, model, pools)]
    parts += [_noisy(document["rows"])]
    if "kinds" in document:
        parts += [_kinds(document["kinds"])]
    if "wrong_answers" in document:
        parts += [_wrong_answers(document["wrong_answers"])]
    parts += [_written(ground)]
    return "\n\n".join([*parts, *stage_tables(document["rows"]), _figures(summary)])


def _table(ground: Ground, model: str, pools: dict[str, Any]) -> str:
    lines = ["| pool: examples, tasks, sources | " + " | ".join(SHOWN) + " |", "|" + "---|" * (len(SHOWN) + 1)]
    for _, pool in (cell for cell in ground.cells if cell[0] == model):
        about = pools[pool]
        name = f"{pool}: {about['examples']:,}, {about['tasks']}, {about['sources']}"
        lines.append(f"| {name} | " + " | ".join(_entry(ground, (model, pool), s) for s in SHOWN) + " |")
    return "\n".join(lines)


def _entry(ground: Ground, cell: tuple[str, str], strategy: str) -> str:
    values = ground.values(cell, strategy)
    if not len(values):
        return "–"
    error = f" ± {stats.sem(values):.3f}" if len(values) > 1 else ""
    text = f"{values.mean():.3f}{error} ({len(values)})"
    if strategy == "random":
        return f"{text}<br>{100 * ground.values(cell, strategy, 'macro_em').mean():.1f}%"
    points, share = 100 * ground.gain(cell, strategy, "macro_em").mean(), ground.share(cell, float(values.mean()))
    return f"{text}<br>{points:+.1f}" + ("" if share is None else f", {share:.2f}")


def _kinds(kinds: dict[str, Any]) -> str:
    lines = [
        "| pool | tasks | kinds found | adjusted mutual information with the tasks | unevenness of the kinds, nats |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {pool} | {entry['tasks']} | {entry['kinds']} | {entry['ami']:.2f} | {entry['unevenness']:.2f} |"
        for pool, entry in kinds.items()
    ]
    mean = np.mean([entry["ami"] for entry in kinds.values()])
    return "\n".join([*lines, f"| mean | | | {mean:.2f} | |"])


def _noisy(rows: list[dict[str, Any]]) -> str:
    lines = [
        "A tenth of the answers exchanged, inside their task or with other tasks: difference from random in macro NLL ± standard error "
        "(seeds), and in macro exact match, points.",
        "",
        f"| model, pool, answers exchanged | {WITH} | {KIND} |",
        "|---|---|---|",
    ]
    for noise, where in (("inside", "inside the task"), ("exchanged", "across tasks")):
        ground = Ground(rows, noise)
        for cell in ground.cells:
            entries = [_difference(ground, cell, strategy) for strategy in (WITH, KIND)]
            lines.append(f"| {', '.join(cell)}, {where} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _difference(ground: Ground, cell: tuple[str, str], strategy: str) -> str:
    gain = ground.gain(cell, strategy)
    if len(gain) < 2:
        return "–"
    points = 100 * ground.gain(cell, strategy, "macro_em").mean()
    return f"{-gain.mean():+.3f} ± {stats.sem(gain):.3f} ({len(gain)}), {points:+.1f}"


def _wrong_answers(found: dict[str, Any]) -> str:
    lines = [
        "| wrong answers inside their task: model, pool | rows | wrong | suspected | of these wrong |",
        "|---|---|---|---|---|",
    ]
    for model, pools in found.items():
        for pool, entry in pools.items():
            numbers = " | ".join(str(entry[key]) for key in ("rows", "wrong", "suspected", "found"))
            lines.append(f"| {model}, {pool} | {numbers} |")
    return "\n".join(lines)


def _written(ground: Ground) -> str:
    """Written answers: random at every budget, and the strategies at that of the study."""
    columns = [("random", budget) for budget in (300, 1000, 2000, 4000)] + [(WITH, 1000), (KIND, 1000)]
    lines = [
        "Written answers that are right, %, tasks alike (seeds); tasks with short answers of which random at 4,000 gets a fifth of the dev "
        "rows right.",
        "",
        "| model, pool | " + " | ".join(f"{name}, {budget:,}" for name, budget in columns) + " |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for cell in ground.cells:
        found = [ground.written(cell, *column) for column in columns]
        if any(map(len, found)):
            texts = [f"{100 * values.mean():.1f} ({len(values)})" if len(values) else "–" for values in found]
            lines.append(f"| {', '.join(cell)} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _figures(summary: dict[str, Any]) -> str:
    lines = ["| figure | value | 95% interval | seeds | |", "|---|---|---|---|---|"]
    for name, entry in _flat("", summary):
        if entry["value"] is None:
            lines.append(f"| {name} | {entry.get('note', 'not measured yet')} | | | |")
            continue
        interval = "" if entry["low"] is None else f"{entry['low']:.2f} to {entry['high']:.2f}"
        lines.append(
            f"| {name} | {entry['value']:.3g} | {interval} | {entry['seeds'] or ''} | {entry.get('note', '')} |"
        )
    return "\n".join(lines)


def _flat(before: str, entries: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, figure) of all figures; those inside another entry after its name."""
    found = []
    for name, entry in entries.items():
        if isinstance(entry, dict):
            inside = f"{before}{name}: "
            found += [(before + name, entry)] if "value" in entry else _flat(inside, entry)
    return found
