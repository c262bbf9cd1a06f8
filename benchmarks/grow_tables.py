"""The table of docs/scale.md of a pool that grows, from `benchmarks/results/scale_grow_cpu.json`."""

from __future__ import annotations

from typing import Any

from common import table

SPREAD = {"uniform": "clusters", "kind_uniform": "kinds of prompt"}


def scale_grow(record: dict[str, Any]) -> str:
    """Seconds of each stage for a whole pool, and for what was added to it."""
    rows, found = [], record["rows"]
    for stage in found[0]["first"]:
        cells = [f"{row[part].get(stage, 0):,.1f}" for row in found for part in ("first", "grown")]
        rows.append([stage, *cells])
    header = ["seconds"]
    for row in found:
        over = SPREAD.get(row["strategy"], row["strategy"])
        header += [f"{row['n']:,}, {over}", f"{row['added']:,} more"]
    lines = [f"{record['device']}; {record['date'][:10]}; `{record['command']}`"]
    lines += [record["note"]] if record["note"] else []
    return "\n".join([*lines, "", table(header, rows)])
