"""The selection study: strategies on several pools through Winnow's own rounds, many runs on one card at once.

    python benchmarks/study_pools.py --data DIR --evals WHEEL --out POOLS
    python benchmarks/selection_study.py --pools POOLS --model DIR --embedder DIR --work DIR --matrix FILE --out FILE

A matrix is a JSON list of {"pool", "budget", "strategy", "seeds"} with, where wanted, "rounds", "label", "split" ("test"
unless said) and "set" (config keys). Rows that `--out` already has are not run again. `--matrix` may name one of those below.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Task = dict[str, Any]
POOLS = ("evals", "p3", "target", "missing", "chat", "evals-noisy", "p3-noisy", "target-noisy")
AIMED = ("target", "missing", "target-noisy")
NUMBERS_OF_SEEDS = 3
"""Seeds whose adapters write out their answers to gsm8k."""
LEARNING_RATE = {"evals": 1e-3, "p3": 2e-3, "target": 2e-3, "missing": 2e-3, "chat": 1e-3}
"""Tuned on random, on dev."""


def config_values(arguments: argparse.Namespace, pool: str) -> dict[str, Any]:
    """The config that every run of a pool has in common."""
    files = arguments.pools / pool
    return {
        "pool": {"files": [str(files / "pool.jsonl")]},
        "target": {"files": [str(files / "target.jsonl")] if pool in AIMED else []},
        "tokens": {"max_length": 768},
        "model": {"name": str(arguments.model), "device": arguments.device},
        "lora": {"r": 32, "alpha": 64},
        "embed": {"model": str(arguments.embedder), "device": arguments.device, "batch_tokens": 65536},
        # Rows of one task embed near each other: only p3 is held out by text, the others are split by row, repetitions and all.
        "dedup": {"threshold": 1.0},
        "holdout": {
            "overlap": 0.5 if pool.startswith("p3") else 1.0,
            "dev_files": [str(files / "dev.jsonl")],
            "test_files": [str(files / "test.jsonl")],
        },
        "cluster": {"iterations": 10},
        "train": {
            "learning_rate": LEARNING_RATE[pool.removesuffix("-noisy")],
            "epochs": 1,
            "mode": "retrain",
            "pack_length": 768,
            "packs_per_step": 5,
            "packs_per_batch": 5,
            "neftune_alpha": 5,
            "checkpoint_every": 10_000,
        },
        "measure": {"batch_tokens": 32768},
    }


def open_pool(arguments: argparse.Namespace, pool: str, directory: Path, models: Any = None) -> Any:
    """A session on a run of this pool; `models` of another session are used again."""
    from al.config import parse
    from al.run.session import Session
    from al.run.store import Run

    session = Session(Run.create_or_open(directory), parse(config_values(arguments, pool), pool), quiet=True)
    if models is not None:
        session._models = models
    return session


def prepare_pool(arguments: argparse.Namespace, pool: str) -> None:
    """Everything that the runs of a pool share: the pool's stages, and what the base model makes of the holdout."""
    from al.evaluation.stage import evaluate
    from al.preparation.stages import prepare

    started = time.time()
    session = open_pool(arguments, pool, arguments.work / pool)
    prepared = prepare(session, 1)
    evaluate(session, prepared, None, "evaluate base")
    sides = prepared.split.json("split.json")
    aim = prepared.target.artifact.json("target.json") if prepared.target else None
    quality = prepared.clusters.json("clusters.json")["quality"]
    print(f"prepared {pool} in {time.time() - started:.0f} s: {sides}, {quality}, target {aim}", flush=True)
    session.run.close()


def work(arguments: argparse.Namespace, number: int, tasks: Any, results: Any) -> None:
    """A worker: plays tasks on a copy of each pool's run of its own."""
    import torch

    from al.comparison.play import Member, play_member
    from al.preparation.stages import prepare
    from selection.holdout import DEV, TEST
    from selection.strategy import Budget

    torch.set_num_threads(1)
    opened: dict[str, Any] = {}
    models = None
    while (task := tasks.get()) is not None:
        try:
            pool = task["pool"]
            if pool not in opened:
                directory = arguments.work / f"{pool}-{number}"
                if not directory.exists():
                    shutil.copytree(arguments.work / pool, directory, symlinks=True)
                session = open_pool(arguments, pool, directory, models)
                models = session._models
                opened[pool] = session, prepare(session, 1)
            session, prepared = opened[pool]
            member = Member(task["strategy"], task["seed"], tuple(sorted(task.get("set", {}).items())))
            split = {"dev": DEV, "test": TEST}[task.get("split", "test")]
            budget = Budget("examples", task["budget"])
            started = time.time()
            found = play_member(session, prepared, member, budget, task.get("rounds", 4), split)
            noise = found_noise(session, prepared, found["rounds"]) if pool.endswith("-noisy") else None
            task = task | {"noise": noise}
            if pool in AIMED and split == TEST and task["seed"] < NUMBERS_OF_SEEDS:
                task["right_numbers"] = right_numbers(session, prepared, found["rounds"][-1]["artifacts"]["train"])
            results.put((number, task | {"seconds": round(time.time() - started, 1), "rounds_done": found["rounds"]}))
        except Exception:
            results.put((number, task | {"error": traceback.format_exc()}))


def found_noise(session: Any, prepared: Any, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of what was looked at in any round: how much is planted, how much was suspected in the end, and how much of that rightly;
    and how much of what was picked is planted, in the first round and in the others."""
    import numpy as np
    import pyarrow.parquet as pq

    from al.lineage.outcomes import find_rows

    pool = prepared.open_pool()
    marks = np.array([bool(entry.get("planted")) for entry in pool.metadata(np.arange(len(pool)))], dtype=bool)
    looked_at = [np.empty(0, dtype=np.int64)]
    for entry in rounds:
        for role in {"score", "shortlist"} & entry["artifacts"].keys():
            table = pq.read_table(_artifact(session, entry, role) / "statistics.parquet")
            if "nll_unprompted_mean" in table.column_names:
                looked_at.append(table["row"].to_numpy())
    rows = np.unique(np.concatenate(looked_at))
    keys = pq.read_table(_artifact(session, rounds[-1], "suspects") / "suspects.parquet")["key"].to_numpy()
    suspected = np.isin(pool.keys[rows], keys)
    right = int((marks[rows] & suspected).sum())
    picks = [find_rows(pool.keys, np.load(_artifact(session, entry, "selection") / "picked.npy")) for entry in rounds]
    return {
        "looked_at": len(rows),
        "planted": int(marks[rows].sum()),
        "suspected": int(suspected.sum()),
        "precision": round(right / max(int(suspected.sum()), 1), 4),
        "recall": round(right / max(int(marks[rows].sum()), 1), 4),
        "picked_planted": [round(float(marks[p].mean()), 4) for p in (picks[0], np.concatenate(picks[1:] or picks))],
    }


def _artifact(session: Any, entry: dict[str, Any], role: str) -> Path:
    return session.run.find(*entry["artifacts"][role].split("/")).path


def right_numbers(session: Any, prepared: Any, adapter: str) -> float:
    """Share of gsm8k's test questions whose greedily written answer has the right number after `####`."""
    import numpy as np

    from selection.holdout import TEST
    from trainer.config import GenerateConfig
    from trainer.generate import generate

    pool = prepared.open_pool()
    rows = np.flatnonzero(np.load(prepared.split.path / "split.npy") == TEST)
    conversations, template = pool.messages(rows), session.template
    prompts = template.prompt_ids_batch([messages[:-1] for messages in conversations])
    config = GenerateConfig(max_new_tokens=200, samples=0, batch_tokens=131_072)
    path = session.run.find(*adapter.split("/")).path / "adapter"
    with session.base.adapter(path) as model:
        written = generate(model, prompts, config, end_ids=template.end_ids, seed=0)
    texts = session.tokenizer.batch_decode([answers[0] for answers in written], skip_special_tokens=True)
    wanted = [number_after_mark(messages[-1]["content"]) for messages in conversations]
    right = [w is not None and number_after_mark(text) == w for w, text in zip(wanted, texts, strict=True)]
    return round(float(np.mean(right)), 4)


def number_after_mark(text: str) -> str | None:
    """The number after the first `####`, without thousands separators, as gsm8k's authors compare it; None without one."""
    found = re.search(r"#### (\-?[0-9\.\,]+)", text)
    return found.group(1).strip().replace(",", "") if found else None


def rows_of(done: Task) -> Task:
    """A finished task as a row of the study."""
    last = done["rounds_done"][-1]
    keys = (
        "macro_nll",
        "micro_nll",
        "macro_em",
        "micro_em",
        "macro_nll_no_end",
        "macro_em_no_end",
        "tokens",
        "examples",
    )
    row = {key: done[key] for key in ("pool", "budget", "seed")} | {"strategy": done.get("label", done["strategy"])}
    row |= {key: round(last[key], 5) for key in keys} | {"em": round(last["macro_em"], 5)}
    row["seconds"] = {
        name: round(sum(entry["seconds"][name] for entry in done["rounds_done"]), 2) for name in last["seconds"]
    }
    row["curve"] = [[entry["examples"], entry["tokens"], round(entry["macro_nll"], 5)] for entry in done["rounds_done"]]
    if done.get("noise"):
        row["noise"] = done["noise"]
    if "right_numbers" in done:
        row["right_numbers"] = done["right_numbers"]
    return row | {"split": done.get("split", "test"), "set": done.get("set", {}), "wall": done["seconds"]}


def identity(task: Task) -> tuple:
    """What makes two tasks the same."""
    settings = json.dumps(task.get("set", {}), sort_keys=True)
    label = task.get("label", task["strategy"])
    return task["pool"], task["budget"], label, task["seed"], task.get("split", "test"), settings


def expand(matrix: list[Task]) -> list[Task]:
    """One task for each seed; the seeds' first ones first."""
    tasks = [
        {**{k: v for k, v in entry.items() if k != "seeds"}, "seed": s} for entry in matrix for s in entry["seeds"]
    ]
    return sorted(tasks, key=lambda task: (task.get("order", 0), task["seed"]))


def next_task(ready: list[Task], known: list[set[tuple[str, int]]], worker: int) -> Task:
    """The next task for a worker: of the earliest order, one whose clustering it has, or else one that the fewest have."""
    first = [task for task in ready if task.get("order", 0) == ready[0].get("order", 0)]
    place = {
        (task["pool"], task["seed"]): sum((task["pool"], task["seed"]) in seen for seen in known) for task in first
    }
    return min(first, key=lambda t: ((t["pool"], t["seed"]) not in known[worker], place[t["pool"], t["seed"]]))


def main() -> None:
    """Prepare the pools, play what is missing, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pools", "model", "embedder", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--matrix", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=9.0, help="start nothing new after so many minutes")
    arguments = parser.parse_args()
    started = time.time()
    document = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"rows": []}
    have = {identity(row) for row in document["rows"]}
    tasks = [task for task in expand(json.loads(Path(arguments.matrix).read_text())) if identity(task) not in have]
    pools = list(dict.fromkeys(task["pool"] for task in tasks))
    context = multiprocessing.get_context("spawn")
    preparing = {pool: context.Process(target=prepare_pool, args=(arguments, pool)) for pool in pools}
    for process in preparing.values():
        process.start()
    results = context.Queue()
    queues = [context.Queue() for _ in range(arguments.workers)]
    workers = [context.Process(target=work, args=(arguments, n, queues[n], results)) for n in range(arguments.workers)]
    os.environ["OMP_NUM_THREADS"] = "1"
    for process in workers:
        process.start()
    waiting, failed = list(tasks), 0
    busy: set[int] = set()
    known: list[set[tuple[str, int]]] = [set() for _ in workers]  # clusterings that a worker has made
    while waiting or busy:
        late = time.time() - started > 60 * arguments.minutes
        for n in [] if late else sorted(set(range(arguments.workers)) - busy):
            ready = [task for task in waiting if not preparing[task["pool"]].is_alive()]
            if ready:
                task = next_task(ready, known, n)
                waiting.remove(task)
                queues[n].put(task)
                busy.add(n)
                known[n].add((task["pool"], task["seed"]))
        if late and not busy:
            break
        try:
            number, done = results.get(timeout=0.5)
        except Exception:  # queue.Empty
            continue
        busy.discard(number)
        if "error" in done:
            failed += 1
            print(f"FAILED {identity(done)}\n{done['error'] if failed == 1 else done['error'][-300:]}", flush=True)
            continue
        row = rows_of(done)
        document["rows"].append(row)
        write(arguments, document)
        print(
            f"[{time.time() - started:.0f} s] {row['pool']} {row['budget']} {row['strategy']} {row['seed']} {row['set'] or ''} "
            f"macro {row['macro_nll']:.4f} micro {row['micro_nll']:.4f} em {row['em']:.3f} tokens {row['tokens']} {row['seconds']} "
            f"{row.get('noise', '')} {row.get('right_numbers', '')}",
            flush=True,
        )
    for queue in queues:
        queue.put(None)
    print(f"{len(document['rows'])} rows, {failed} failed, {len(waiting)} not run", flush=True)
    for process in workers:
        process.join(10)
        process.kill()


def write(arguments: argparse.Namespace, document: dict[str, Any]) -> None:
    """The rows with how they came about; replaced as a whole."""
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    document |= {
        "command": "python benchmarks/selection_study.py",
        "date": datetime.date.today().isoformat(),
        "device": device,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "model": "SmolLM2-135M-Instruct in NF4, LoRA r=32 alpha=64",
    }
    temporary = arguments.out.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=1))
    temporary.replace(arguments.out)


if __name__ == "__main__":
    main()
