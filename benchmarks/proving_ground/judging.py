"""Written answers of the proving ground's models, judged: the share of right ones, tasks alike, of each run.

    python benchmarks/proving_ground/judging.py --pools DIR --out FILE WRITTEN.jsonl...

A pool's tasks count for a model if what it learned from 4,000 random examples answers at least a fifth of their dev rows: below that, a
difference says little. Answers are judged as `eval` judges them (al/evaluation/answers.py); tasks with long answers are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from al.evaluation.answers import judge
from benchmarks.proving_ground.inputs import short
from benchmarks.proving_ground.player import KEY, Run
from benchmarks.proving_ground.rows import read_rows

LEAST_RIGHT, FROM = 0.2, 4000
"""A task counts where random at so many examples answers this share of its dev rows."""


def right_by_task(run: Run, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Share of right answers of each task; `rows` are those that the run answered."""
    found: dict[str, list[float]] = defaultdict(list)
    for row, text in zip(rows, run["answers"], strict=True):
        found[row["task"]].append(float(judge(text, row["accepted"]).right))
    return {task: float(np.mean(scores)) for task, scores in found.items()}


def judged(written: Iterable[Run], pools: Path) -> list[Run]:
    """The runs with "generated_em", macro over the tasks that count, and how many these are; None and 0 for a pool without such tasks."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    counted: dict[tuple[str, str], set[str]] = defaultdict(set)
    tests = []
    for run in written:
        place = (run["pool"], run["part"])
        if place not in rows:
            rows[place] = [row for row in read_rows(pools, *place) if short(row["accepted"])]
        by_task = right_by_task(run, rows[place])
        if run["part"] == "test":
            tests.append((run, by_task))
        elif run["strategy"] == "random" and run["budget"] == FROM:
            counted[run["model"], run["pool"]] |= {task for task, share in by_task.items() if share >= LEAST_RIGHT}
    found = []
    for run, by_task in tests:
        tasks = sorted(counted[run["model"], run["pool"]] & by_task.keys())
        mean = round(float(np.mean([by_task[task] for task in tasks])), 5) if tasks else None
        found.append({**{key: run[key] for key in KEY}, "generated_em": mean, "generated_tasks": len(tasks)})
    return found


def main() -> None:
    """Judge and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pools", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    written = [json.loads(line) for file in arguments.files for line in file.read_text().splitlines()]
    found = judged(written, arguments.pools)
    arguments.out.write_text("".join(json.dumps(run) + "\n" for run in found))
    print(f"{len(found)} runs judged")


if __name__ == "__main__":
    main()
