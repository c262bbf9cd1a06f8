"""The proving ground as tables of docs/selection.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from proving_ground.summary import ORACLE, WITH, WITHOUT, Ground

SHOWN = (
    "random",
    "source_size",
    WITH,
    "split_uniform, 10% random",
    WITHOUT,
    "kind_uniform, 10% random",
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
    if "kinds" in document:
        parts += [_kinds(document["kinds"])]
    return "\n\n".join([*parts, _figures(summary)])


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
    lines = ["| pool | tasks | kinds found | adjusted mutual information with the tasks |", "|---|---|---|---|"]
    lines += [f"| {pool} | {entry['tasks']} | {entry['kinds']} | {entry['ami']:.2f} |" for pool, entry in kinds.items()]
    mean = np.mean([entry["ami"] for entry in kinds.values()])
    return "\n".join([*lines, f"| mean | | | {mean:.2f} |"])


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
