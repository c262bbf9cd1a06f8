"""Targets: what a user wants a model to be good at, and pools that hold it, hold only its kin, or nothing like it.

    python benchmarks/proving_ground/targets.py SPLITS.npz     # writes the rows of new targets into pools.json

pools.json lists them, fixed before any was played. A target behaves like a pool of its own in splits.npz: "TARGET|pool" are the rows of its
host pool that may be picked, "TARGET|dev" the examples that the selection sees, "TARGET|test" what the trained model is measured on.

    held     the host pool has the task; its examples and test rows are taken out of the pool, the others stay
    kin      every row of the task is taken out; tasks like it stay
    absent   the task comes from a pool of another domain

Examples and test rows are pool rows, because the pools' dev files have 1 to 50 rows of a task, too few to aim at. Rows of the host that
share more than half of their telling 13-word runs with an example or a test row are left out (selection/overlap.py).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground.rows import read_rows
from benchmarks.study_pools import shuffled

FILE = Path(__file__).with_name("pools.json")
LIST = json.loads(FILE.read_text())
Row = dict[str, Any]


def divided(rows: list[Row], entry: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Places of the target's examples and of its test rows among `rows`, in the order of a hash, tasks alike.

    Raises:
        ValueError: a task has fewer rows than both need.
    """
    tasks, of_task = entry["tasks"], defaultdict(list)
    for row in shuffled(({**row, "place": i} for i, row in enumerate(rows) if row["task"] in tasks), "target"):
        of_task[row["task"]].append(row["place"])
    examples, test = entry["dev"] // len(tasks), entry["test"] // len(tasks)
    short = [task for task in tasks if len(of_task[task]) < examples + test]
    if short:
        raise ValueError(f"{', '.join(short)}: expected {examples + test} rows or more of each task of a target")
    places = [of_task[task] for task in tasks]
    return [p for of in places for p in of[:examples]], [p for of in places for p in of[examples : examples + test]]


def allowed(host: list[Row], taken: list[Row], without: set[str]) -> np.ndarray:
    """(n,) bool: host rows that may be picked: neither taken, nor of the tasks `without`, nor overlapping what is taken."""
    from selection.overlap import shares_passages

    texts = ["\n".join(m["content"] for m in row["messages"]) for row in (*host, *taken)]
    tasks = np.array([row["task"] for row in (*host, *taken)])
    near = shares_passages(texts, tasks, np.arange(len(host), len(texts)), 0.5)[: len(host)]
    same = {text.casefold() for text in texts[len(host) :]}
    left_out = [row["task"] in without or text.casefold() in same for row, text in zip(host, texts, strict=False)]
    return ~(near | np.array(left_out))


def gather(pools: Path, splits: dict[str, np.ndarray], entry: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    """The arrays of splits.npz of one target; `splits` has those of the pools, `entry` is what pools.json lists."""
    host, origin = read_rows(pools, entry["pool"], "pool"), read_rows(pools, entry["from"], "pool")
    examples, test = divided(origin, entry)
    without = set() if entry["pool_has"] == "held" else set(entry["tasks"])
    kept = allowed(host, [origin[i] for i in (*examples, *test)], without)
    found = {f"{name}|pool{of}": splits[f"{entry['pool']}|pool{of}"][kept] for of in ("", "|key", "|source", "|task")}
    for part, places in (("dev", examples), ("test", test)):
        found[f"{name}|{part}"] = splits[f"{entry['from']}|pool"][places]
        found[f"{name}|{part}|task"] = np.array([entry["tasks"].index(origin[i]["task"]) for i in places])
        found[f"{name}|{part}|short"] = np.zeros(len(places), dtype=bool)  # no answers are written
        found[f"{name}|{part}|key"] = splits[f"{entry['from']}|pool|key"][places]
    return {**found, f"{name}|kept": np.flatnonzero(kept)}


def described(arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """What pools.json says of a target's rows: how many may be picked, and the sha256 of each part's keys."""
    keys = {part: np.sort(arrays[f"{name}|{part}|key"]).astype("<u8") for part in ("pool", "dev", "test")}
    digests = {part: hashlib.sha256(of_part.tobytes()).hexdigest() for part, of_part in keys.items()}
    return {"examples": len(keys["pool"]), "sha256": digests}


def check(arrays: dict[str, np.ndarray]) -> None:
    """Raises SystemExit unless every target in splits.npz has the rows that pools.json lists."""
    names = [name for name in LIST["targets"] if f"{name}|pool" in arrays]
    different = [name for name in names if not described(arrays, name).items() <= LIST["targets"][name].items()]
    if different:
        raise SystemExit(f"{', '.join(different)}: expected the rows that pools.json lists, found others")


def main() -> None:
    """Complete the list of targets in pools.json from splits.npz: done once, before any target is played."""
    arrays = np.load(sys.argv[1])
    document = json.loads(FILE.read_text())
    for name, entry in document["targets"].items():
        entry.update(described(arrays, name))
    FILE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
