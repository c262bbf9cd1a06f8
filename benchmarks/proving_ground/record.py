"""Adds rows that players wrote to benchmarks/results/proving_ground.json; a run that is there already is replaced."""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.proving_ground.picking import kinds_file
from benchmarks.proving_ground.planning import LIST, POOLS, alike, compared_with
from benchmarks.proving_ground.player import Run, identity
from benchmarks.proving_ground.work import whole

LEFT_OUT = ("task_nll", "task_em")
"""Values of single tasks stay in the player's files: a megabyte that no table shows."""
JUDGED = ("generated_em", "generated_tasks")
"""What judging written answers adds to a row; a run that is played again without writing keeps it."""


def kinds(folder: Path, splits: Any) -> dict[str, dict[str, Any]]:
    """Of each pool whose kinds were found with its answers, mean over the seeds: kinds, open ones being one, their adjusted mutual
    information with the tasks, their unevenness in nats."""
    from sklearn.metrics import adjusted_mutual_info_score

    from selection.kinds import Kinds, unevenness

    result = {}
    for pool in (name for name in POOLS if f"{name}|pool" in splits):
        task = splits[f"{pool}|pool|task"]
        kept = [np.load(file) for seed in LIST["seeds"] if (file := kinds_file(folder, pool, seed)).exists()]
        found = [Kinds(**arrays).groups for arrays in kept if "open" in arrays]
        if not found:
            continue
        result[pool] = {
            "tasks": len(np.unique(task)),
            "kinds": round(float(np.mean([of.max() + 1 for of in found]))),
            "ami": round(float(np.mean([adjusted_mutual_info_score(task, of) for of in found])), 4),
            "unevenness": round(float(np.mean([unevenness(of) for of in found])), 4),
            "seeds": len(found),
        }
    return result


def base_losses(work: Path, splits: Any) -> dict[str, dict[str, float]]:
    """{model: {pool: macro NLL of the base model over the pool's tasks, nats}}, of what `pooled` measured in the work folder."""
    result: dict[str, dict[str, float]] = {}
    for folder in sorted(work.glob("*/nll.npy")):
        rows, nll = np.load(folder.with_name("rows.npy")), np.load(folder)
        for pool in (name for name in POOLS if f"{name}|pool" in splits):
            wanted, task = splits[f"{pool}|pool"], splits[f"{pool}|pool|task"]
            at = np.searchsorted(rows, wanted)
            if (at < len(rows)).all() and np.array_equal(rows[at], wanted):
                _, number = np.unique(task, return_inverse=True)
                means = np.bincount(number, nll[at]) / np.bincount(number)
                result.setdefault(folder.parent.name, {})[pool] = round(float(means.mean()), 4)
    return result


def merge(
    document: dict[str, Any],
    rows: Iterable[Run],
    judged: Iterable[Run],
    now: dict[str, str],
    deciding: Mapping[str, str] = MappingProxyType({}),
    mixes: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, Any]:
    """The record with these rows and what judging them gave; rows of runs that it has replace its own. `now`: device, versions; `deciding`:
    of each pool the measure that a report's verdict goes by, "em" or "nll"; `mixes`: of each pool its tasks' shares."""
    found, rows = {identity(row): row for row in document["rows"]}, list(rows)
    paired = compared_with_random(rows, deciding, mixes)
    for row in rows:
        before = found.get(identity(row), {})
        kept = {key: before[key] for key in JUDGED if key in before and "generated_tasks" in before}
        more = {"paired": paired[identity(row)]} if identity(row) in paired else {}
        found[identity(row)] = {key: value for key, value in row.items() if key not in LEFT_OUT} | kept | more
    for run in judged:
        if identity(run) in found:  # a player that is killed may have written answers and not yet the row
            found[identity(run)] |= {key: run[key] for key in JUDGED}
    command = {"command": "python -m benchmarks.proving_ground play", "date": datetime.date.today().isoformat()}
    return document | command | now | {"rows": [found[key] for key in sorted(found, key=str)]}


def decides(table: Any, splits: Any) -> dict[str, str]:
    """Of each pool the measure that decides (`al.evaluation.deciding`), "em" or "nll"."""
    from al.evaluation.deciding import deciding_metric

    found = {}
    for pool in (name for name in POOLS if f"{name}|test" in splits):
        lengths = [int((np.asarray(table.targets(int(row))) != 0).sum()) for row in splits[f"{pool}|test"]]
        found[pool] = deciding_metric(False, np.array(lengths))["metric"].removeprefix("macro_")
    return found


def pool_mixes(splits: Any) -> dict[str, np.ndarray]:
    """{pool: (tasks,) share of the pool that each task has}."""
    counts = {pool: np.bincount(splits[f"{pool}|pool|task"]) for pool in POOLS if f"{pool}|pool|task" in splits}
    return {pool: found / found.sum() for pool, found in counts.items()}


def compared_with_random(
    rows: Iterable[Run], deciding: Mapping[str, str], mixes: Mapping[str, np.ndarray]
) -> dict[tuple, dict[str, Any]]:
    """Of each run whose strategy is compared (`planning.compared_with`) and of random: task by task the run less random with the same
    budget and seed, as [mean, its standard error], of NLL in nats and of exact match, which of them "decides", and "of_pool" the means in
    which a task counts as it does in the pool. Random is among them where another run is compared with it."""
    of_seed: dict[tuple, dict[str, Run]] = defaultdict(dict)
    for row in rows:
        random = compared_with(row["strategy"])
        if random is not None and "task_nll" in row:
            of_seed[*alike(row), random][row["strategy"]] = row
    found = {}
    for (*_, name), runs in of_seed.items():
        if len(runs) > 1 and name in runs and runs[name]["pool"] in deciding:
            found |= {identity(row): _less(row, runs[name], deciding, mixes) for row in runs.values()}
    return found


def _less(row: Run, random: Run, deciding: Mapping[str, str], mixes: Mapping[str, np.ndarray]) -> dict[str, Any]:
    less = {key: np.subtract(row[f"task_{key}"], random[f"task_{key}"]) for key in ("nll", "em")}
    found: dict[str, Any] = {
        key: [round(float(v.mean()), 5), round(float(v.std(ddof=1) / len(v) ** 0.5), 5)] for key, v in less.items()
    }
    found["decides"] = deciding[row["pool"]]
    if (mix := mixes.get(row["pool"])) is not None and len(mix) == len(less["nll"]):
        found["of_pool"] = {key: round(float(v @ mix), 5) for key, v in less.items()}
    return found


def read(file: Path) -> dict[str, Any]:
    """A record; one without rows if the file is not there."""
    return json.loads(file.read_text()) if file.exists() else {"rows": []}


def write(document: dict[str, Any], file: Path) -> None:
    """Write a record, one row a line."""
    text = ",\n".join(json.dumps(row) for row in document["rows"])
    head = json.dumps({key: value for key, value in document.items() if key != "rows"}, indent=1)
    with whole(file) as unfinished:
        unfinished.write_text(f'{head[:-2]},\n "rows": [\n{text}\n]}}\n')


def lines(file: Path) -> list[Run]:
    """Rows of a file that has one a line."""
    return [json.loads(line) for line in file.read_text().splitlines()]
