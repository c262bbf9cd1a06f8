"""The tables of docs/scale.md and of imports from `benchmarks/results/scale_cpu.json` and `import_speed.json`."""

from __future__ import annotations

import math
from typing import Any

from common import table

TASKS = {
    "import": "import of JSON Lines",
    "tokenize": "tokenize",
    "near-duplicates": "near-duplicates",
    "shared-passages": "passages shared with up to 1,500 held-out examples",
    "cluster": "cells, assignment, clusters",
    "k-center": "`k_center`, 5,000 picks",
    "facility-location": "`facility_location`, 5,000 picks",
    "nearest": "`nearest`, 5,000 picks for 64 targets",
    "embed-static": "embed with a static embedder",
    "round": "a whole round",
}


def scale(record: dict[str, Any]) -> str:
    """Seconds, CPU seconds and memory of each stage by the number of examples, and how its CPU time grows."""
    sizes = sorted({row["n"] for row in record["rows"]})
    found = {(row["name"], row["n"]): row for row in record["rows"]}
    notes = list(dict.fromkeys(row["note"] for row in record["rows"] if row.get("note")))
    rows = []
    for name, task in TASKS.items():
        of_stage = [(n, found[name, n]) for n in sizes if (name, n) in found]
        if of_stage:
            cells = [_cell(found.get((name, n)), notes) for n in sizes]
            rows.append([task, *cells, _growth(of_stage)])
    header = ["stage", *(f"{n:,}" for n in sizes), "growth"]
    lines = [
        f"{record['device']}; {record['date'][:10]}; `{record['command']}`",
        *([record["note"]] if record["note"] else []),
        "",
        "Each cell: seconds / CPU seconds of all threads / peak GiB of anonymous memory.",
        *(f"{_mark(note, notes)} {note}" for note in notes),
        "",
        table(header, rows),
    ]
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None, notes: list[str]) -> str:
    if row is None:
        return "-"
    figures = f"{row['seconds']:,.1f} / {row['cpu_seconds']:,.1f} / {row['peak_gib']:.2f}"
    return f"{figures} {_mark(row['note'], notes)}" if row.get("note") else figures


def _mark(note: str, notes: list[str]) -> str:
    return f"({notes.index(note) + 1})"


def _growth(of_stage: list[tuple[int, dict[str, Any]]]) -> str:
    """The exponent e of CPU time ~ nᵉ between the smallest and the largest size."""
    (few, first), (many, last) = of_stage[0], of_stage[-1]
    if few == many:
        return "-"
    exponent = math.log(max(last["cpu_seconds"], 1e-3) / max(first["cpu_seconds"], 1e-3)) / math.log(many / few)
    return f"n^{exponent:.2f}"


def import_speed(record: dict[str, Any], source: str) -> str:
    """Rows per second and memory of an import, by file."""
    header = ["file", "rows", "MB", "rows/s", "rows per second of CPU time", "peak memory, MiB"]
    rows = [
        [
            name,
            f"{found['rows']:,}",
            f"{found['megabytes']:,.0f}",
            f"{found['rows_per_s']:,}",
            f"{found['cpu_rows_per_s']:,}",
            f"{found['peak_mib']:,}",
        ]
        for name, found in record["files"].items()
    ]
    intro = (
        "Imports of generated files: `short` and `messages` have rows of about 90 and 190 bytes, `chat` of a thousand; `large` is "
        f"chat with one broken line in a thousand. Best of {record['repeats']}, `large` once. Memory: largest resident set."
    )
    return f"## Import\n{source}\n\n{intro}\n\n{table(header, rows)}\n"
