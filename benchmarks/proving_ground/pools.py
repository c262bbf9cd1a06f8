"""The ten development pools, as files: what to pick from, what to tune on (dev), what is read once (test).

    python benchmarks/proving_ground/pools.py --data DIR --evals WHEEL --out DIR [--write-list]

`DIR` holds P3, GSM8K, Code Alpaca, GPTeacher, ShareGPT and self-instruct files; `WHEEL` is evals==3.0.1.post1. Every choice is a hash of
the row, so the files are the same on every machine; pools.json has their sha256, and a pool that differs is refused. A row
is {"messages", "source", "task"}, dev and test rows also have {"accepted"}. `task` is what results are averaged over and what the
oracle sees; no other strategy reads it. `source` is what a user's file would say; the variant without sources leaves it out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground import tasks as published
from benchmarks.proving_ground.tasks import Row, Tasks
from benchmarks.study_pools import shuffled

LIST = Path(__file__).with_name("pools.json")
TEST_ROWS, DEV_ROWS = 800, 400
"""Rows held out of a pool, about; every task gives at least two to test and one to dev."""
LEAST, FEWEST = 12, 6
"""Rows of a task that holding out leaves; tasks with fewer than FEWEST once rows of shared text are gone are left out."""
Grouped = Callable[[str], str]


def own(task: str) -> str:
    """The task itself as source."""
    return task


def collection(task: str) -> str:
    """The collection that a task comes from, as in a mixture of a few files: "evals/anagrams" → "evals"."""
    return task.split("/")[0]


def chosen(tasks: Tasks, purpose: str, count: int) -> Tasks:
    """`count` tasks by hash of their name."""
    names = sorted(tasks, key=lambda name: hashlib.blake2b(name.encode(), key=purpose.encode()).digest())
    return {name: tasks[name] for name in sorted(names[:count])}


def capped(tasks: Tasks, most: int) -> Tasks:
    """At most so many rows of each task."""
    return {name: rows[:most] for name, rows in tasks.items()}


def of_size(tasks: Tasks, total: int) -> Tasks:
    """About `total` rows in the tasks' own proportions, at least LEAST and what is held out of each."""
    share = total / sum(map(len, tasks.values()))
    return {name: rows[: max(LEAST + 6, round(share * len(rows)))] for name, rows in tasks.items()}


def by_power_law(tasks: Tasks, exponent: float, largest: int, purpose: str) -> Tasks:
    """The task of rank r, in the order of a hash, has largest · r^-exponent rows."""
    names = sorted(tasks, key=lambda name: hashlib.blake2b(name.encode(), key=purpose.encode()).digest())
    return {
        name: tasks[name][: max(LEAST + 6, round(largest * (rank + 1) ** -exponent))] for rank, name in enumerate(names)
    }


def merged(tasks: Tasks, group: Grouped) -> Tasks:
    """Tasks joined by `group`, in random order."""
    found: Tasks = defaultdict(list)
    for task, rows in tasks.items():
        found[group(task)] += rows
    return {task: shuffled(rows, "proving-ground merged") for task, rows in found.items()}


def recipes(data: Path, wheel: Path) -> dict[str, tuple[Tasks, Grouped]]:
    """Every pool's tasks with their rows, and what its rows carry as source."""
    evals, p3 = published.evals(wheel), published.p3(data)
    p3 = {task: rows for task, rows in p3.items() if len(rows) >= 100}
    gsm8k, others = published.gsm8k(data), published.instructions(data)
    evals = {task: rows for task, rows in evals.items() if len(rows) >= LEAST + 4}
    sums = {task: rows for task, rows in evals.items() if any(word in task for word in SUMS)}
    large = {task: rows for task, rows in evals.items() if len(rows) >= 230}
    datasets = merged(p3, published.p3_data_set)
    small = capped({**chosen(p3, "few-large", 15), **chosen(evals, "few-large", 15)}, 180)
    return {
        "evals": (of_size(evals, 40_000), own),
        "evals-flat": (capped(evals, 45), own),
        "p3": (capped(p3, 110), own),
        "p3-power": (by_power_law(p3, 0.4, 200, "p3-power"), published.p3_data_set),
        "p3-data-sets": (by_power_law(datasets, 0.7, 2200, "p3-data-sets"), own),
        "chat": (others, collection),
        "sums": (
            {**capped(gsm8k, 3000), **capped(sums, 60), **capped(chosen(p3, "sums", 40), 60), **capped(others, 1500)},
            collection,
        ),
        "mixture": (
            {
                **of_size(evals, 14_000), **by_power_law(p3, 0.7, 200, "mixture"), **capped(gsm8k, 5000),
                **capped(others, 3000),
            },
            collection,
        ),
        "few-large": (
            {**capped(gsm8k, 5000), **capped({task: others[task] for task in LARGE}, 4000), **small},
            own,
        ),
        "evals-large": (capped(large, 220), own),
    }  # fmt: skip


LARGE = ("code", "roleplay", "tools/python", "tools/wikipedia")
SUMS = (
    "arith",
    "math",
    "sum",
    "addition",
    "multipl",
    "operations",
    "number",
    "count",
    "determinant",
    "series",
    "percent",
)
"""Words in the names of tasks that are kin of word problems."""


def build(tasks: Tasks, source: Grouped) -> dict[str, list[Row]]:
    """pool, dev and test of one pool: rows are held out per task, and pool rows that share a held-out row's text are left out."""
    count = {part: total / len(tasks) for part, total in (("test", TEST_ROWS), ("dev", DEV_ROWS))}
    take = {"test": int(np.clip(round(count["test"]), 2, 100)), "dev": int(np.clip(round(count["dev"]), 1, 50))}
    parts: dict[str, list[Row]] = {"pool": [], "dev": [], "test": []}
    for task, rows in sorted(tasks.items()):
        most = max(1, (len(rows) - LEAST) // 3)
        start = 0
        for part in ("test", "dev"):
            stop = start + min(take[part], most)
            parts[part] += [{**row, "source": source(task), "task": task} for row in rows[start:stop]]
            start = stop
        parts["pool"] += [{"messages": r["messages"], "source": source(task), "task": task} for r in rows[start:]]
    return _kept_apart(parts)


def _kept_apart(parts: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Without pool rows that repeat a held-out row or share more than half of the telling 13-word runs of one, nor tasks that
    keep fewer than FEWEST."""
    from selection.overlap import shares_passages

    held = parts["dev"] + parts["test"]
    rows = parts["pool"] + held
    texts = ["\n".join(m["content"] for m in row["messages"]) for row in rows]
    near = shares_passages(
        texts, np.array([row["task"] for row in rows]), np.arange(len(parts["pool"]), len(rows)), 0.5
    )
    exact = {text.casefold() for text in texts[len(parts["pool"]) :]}
    kept = [r for r, t, n in zip(parts["pool"], texts, near, strict=False) if not n and t.casefold() not in exact]
    kept = _once_each(kept)
    size = Counter(row["task"] for row in kept)
    whole = {"pool": kept, "dev": parts["dev"], "test": parts["test"]}
    return {part: [row for row in rows if size[row["task"]] >= FEWEST] for part, rows in whole.items()}


def _once_each(rows: list[Row]) -> list[Row]:
    seen: dict[str, Row] = {}
    for row in rows:
        seen.setdefault(json.dumps(row["messages"]), row)
    return list(seen.values())


def write(parts: dict[str, list[Row]], directory: Path) -> dict[str, object]:
    """Write one file a part; returns what pools.json says of the pool."""
    directory.mkdir(parents=True, exist_ok=True)
    digest = {}
    for name, rows in parts.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (directory / f"{name}.jsonl").write_text(text, encoding="utf-8")
        digest[name] = hashlib.sha256(text.encode()).hexdigest()
    pool = parts["pool"]
    sizes = np.unique([row["task"] for row in pool], return_counts=True)[1]
    return {
        "examples": len(pool), "dev": len(parts["dev"]), "test": len(parts["test"]), "tasks": len(sizes),
        "sources": len({row["source"] for row in pool}), "smallest_task": int(sizes.min()), "median_task": int(np.median(sizes)),
        "largest_task": int(sizes.max()), "sha256": digest,
    }  # fmt: skip


def main() -> None:
    """Write every pool; with --write-list the list too, else check the files against it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evals", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write-list", action="store_true")
    arguments = parser.parse_args()
    document = json.loads(LIST.read_text()) if LIST.exists() else {}
    found = {}
    for name, (tasks, source) in recipes(arguments.data, arguments.evals).items():
        found[name] = write(build(tasks, source), arguments.out / name)
        print(name, {key: value for key, value in found[name].items() if key != "sha256"}, flush=True)
    if arguments.write_list:
        LIST.write_text(json.dumps({**document, "pools": found}, indent=1) + "\n")
        return
    different = [name for name, entry in found.items() if entry != document["pools"].get(name)]
    if different:
        raise SystemExit(
            f"{', '.join(different)}: expected the files that {LIST.name} lists, found others; check the data's versions."
        )


if __name__ == "__main__":
    main()
