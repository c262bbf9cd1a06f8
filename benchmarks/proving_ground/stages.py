"""Plans and picks of a work folder, and what of them the record has already."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving_ground import aiming, by_gradient, by_loss, cost, labelling, near, peer_picks
from benchmarks.proving_ground import record as recorded
from benchmarks.proving_ground.ground import WITH, Ground
from benchmarks.proving_ground.picking import SPREAD, Picker, kinds_file, left_file
from benchmarks.proving_ground.planning import LIST, STAGES, alike, compared_with, plan
from benchmarks.proving_ground.player import Run, identity, name_of
from benchmarks.proving_ground.prepare import in_processes
from benchmarks.proving_ground.work import Work, whole

DEFAULT = [name for name in STAGES if name not in ("rates", "four")]


def write_plans(work: Work, models: Sequence[str], stages: Sequence[str], record: Path) -> dict[str, list[Run]]:
    """Write plans/MODEL.json: every run of the stages on what the work folder holds, with "recorded": whether the record has it; a run that
    writes answers only if these were judged, one whose tasks are compared with random's only if they were. Second rounds are those of
    first rounds in the record that leave open whether selecting pays."""
    document = recorded.read(record)
    have = {identity(row): row for row in document["rows"]}
    goes_on = _asking_again(document)
    splits = np.load(work.inputs() / "splits.npz")
    places = [name for name in (*LIST["pools"], *LIST["targets"]) if f"{name}|pool" in splits]
    found = {}
    for model in models:
        runs = [
            {**run, "recorded": _recorded(run, have.get(identity(run)))}
            for run in _cut(work, plan(model, stages, places))
            if run["stage"] != "second" or (model, run["pool"], run["seed"]) in goes_on
        ]
        runs = [_to_play(run, have.get(identity(run))) for run in _with_randoms(runs)]
        with whole(work / "plans" / f"{model}.json") as file:
            file.write_text(json.dumps(runs))
        found[model] = runs
    return found


def _recorded(run: Run, row: Run | None) -> bool:
    random = compared_with(run["strategy"]) == run["strategy"]
    asked = {"write": "generated_tasks"} | ({} if random else {"paired": "paired"})
    return row is not None and all(key in row for name, key in asked.items() if run.get(name))


def _with_randoms(runs: list[Run]) -> list[Run]:
    """The runs; random once more where a run is open that is compared with it, because the record keeps no values of single tasks."""
    needed = {
        (*alike(run), compared_with(run["strategy"])) for run in runs if run.get("paired") and not run["recorded"]
    }
    return [{**run, "recorded": run["recorded"] and (*alike(run), run["strategy"]) not in needed} for run in runs]


def _to_play(run: Run, row: Run | None) -> Run:
    """The run; without writing where it is played again and its answers were judged, which the record keeps."""
    judged = row is not None and "generated_tasks" in row and not run["recorded"]
    return {key: value for key, value in run.items() if key != "write" or not judged}


def _asking_again(document: dict[str, Any]) -> set[tuple[str, str, int]]:
    """(model, pool, seed) of the first rounds in a record after which a run trains another control."""
    said = cost.answers(Ground(document["rows"]), WITH, document.get("base_nll", {}))
    return {(*cell, seed) for cell, of in said.items() for seed, answer in of.items() if cost.asks_again(answer)}


def _cut(work: Work, runs: list[Run]) -> list[Run]:
    """The runs; of a cut study with a hundredth of their budgets, and the names of their picks changed to match."""
    if work.about["cut"] is None:
        return runs
    found = {}
    for run in runs:
        small = {**run, "budget": max(4, run["budget"] // 100)}
        if "picks" in run:
            small["picks"] = f"{run['model']}|{name_of({**small, 'picks': None})}"
        found.setdefault(identity(small), small)
    return list(found.values())


def write_picks(work: Work, runs: list[Run], file: Path, processes: int, log: Callable[[str], None] = print) -> None:
    """Write the picks of those runs that no file has yet and that can be made, one file a pool as soon as it is done, so that players
    need not wait for the slowest rule; says which cannot be made, and what they need."""
    with work.locked("picking"):
        _write_picks(work, runs, file, processes, log)


def _write_picks(work: Work, runs: list[Run], file: Path, processes: int, log: Callable[[str], None]) -> None:
    have = work.picks()
    missing = {name_of(run): run for run in runs if not run["recorded"] and name_of(run) not in have}
    by_pool: dict[str, list[Run]] = defaultdict(list)
    for name, run in missing.items():
        lacks = lacking(work, run)
        if lacks:
            by_pool[f"needs {lacks}"].append(run)
        else:
            by_pool[run["pool"]].append({**run, "name": name})
    for reason in [key for key in by_pool if key.startswith("needs ")]:
        log(f"{len(by_pool.pop(reason))} picks not made: {reason}")
    files = {pool: file.with_name(f"{file.stem}-{pool}-{len(have)}.npz") for pool in by_pool}
    in_processes([partial(_pick, work.root, some, files[pool]) for pool, some in by_pool.items()], processes)
    log(f"{len(work.picks()) - len(have)} picks made, {len(have)} were there")


def lacking(work: Work, run: Run) -> str | None:
    """What the picks of a run need that is not there yet."""
    pool, strategy, seed = run["pool"], run.get("picked_as", run["strategy"]), run["seed"]
    embedded = (work / "embeddings.npy").exists()
    if pool in LIST["targets"]:
        if strategy == aiming.FORMER:
            return None if embedded else "embeddings"
        if strategy in aiming.HIDDEN and not (work / "pooled" / run["model"]).exists():
            return f"hidden states of {run['model']}"
        grouped = LIST["targets"][pool]["pool"] if "kinds" in strategy else None
        return None if grouped is None or kinds_file(work / "kinds", grouped, seed).exists() else "kinds"
    rows = near.rows_in(run["noise"]) if run["noise"] in (near.NOISE, near.SEARCHED, "none") else run["noise"]
    if f"{pool}|{rows}" not in np.load(work.inputs() / "splits.npz"):
        again = f"remove {work / 'inputs'} and run `prepare` again, which keeps the numbers of all rows of clean pools"
        return f"{'near copies' if rows == near.NOISE else 'wrong answers'}; {again}"
    if run["noise"] in (near.NOISE, near.SEARCHED):
        return lacking_for_search(work, pool, run["noise"], strategy, seed)
    if strategy in peer_picks.STRATEGIES:
        return lacking_for_peer(work, run["model"], pool, strategy)
    if strategy in by_loss.STRATEGIES and not (work / "pooled" / run["model"]).exists():
        return f"losses of {run['model']}"
    kept = (work / "kinds" / f"clusters_{pool}_{seed}.npz").exists()
    if strategy in labelling.STRATEGIES:
        if not kept:
            return "clusters"
        return None if (work / "unsure" / f"{run['model']}_{pool}.npz").exists() else f"answers of {run['model']}"
    strategy = by_loss.OVER.get(strategy, (strategy,))[0]
    by = SPREAD[strategy][0]
    if by in ("kind", "split"):
        return None if kinds_file(work / "kinds", pool, seed).exists() else "kinds"
    return "clusters" if by == "cluster" and not kept else None


def needs_measuring(work: Work, run: Run) -> bool:
    """Whether the picks of a run wait for hidden states or losses of the base model."""
    return (lacking(work, run) or "").startswith(("hidden states", "losses"))


def lacking_for_search(work: Work, pool: str, noise: str, strategy: str, seed: int) -> str | None:
    """What picks of a searched pool need that is not there yet."""
    if strategy == near.ALL:
        return None
    if not left_file(work / "kinds", pool, noise).exists():
        return "the search for near-duplicates"
    grouped = SPREAD[strategy][0] in ("kind", "split")
    return "kinds" if grouped and not kinds_file(work / "kinds", f"{pool}|{noise}", seed).exists() else None


def lacking_for_peer(work: Work, model: str, pool: str, strategy: str) -> str | None:
    """What a peer's rule needs that is not there yet."""
    if strategy not in by_gradient.STRATEGIES and not (work / "pooled" / model).exists():
        return f"hidden states of {model}"
    gradients = by_gradient.file_of(work / "gradients" / model, strategy, pool)
    if strategy == by_gradient.DATTRI and not gradients.exists() and not (work.peers / "dattri").is_dir():
        return f"the packages of dattri-llm in {work.peers / 'dattri'}"
    if strategy in peer_picks.LATER and not gradients.exists():
        return f"gradients of {model}" + (" by dattri-llm" if strategy == by_gradient.DATTRI else "")
    package = peer_picks.OUTSIDE.get(strategy, ("", ""))[0]
    if package and not (work.peers / package).is_dir():
        return f"the packages of {package} in {work.peers}"
    aims = strategy in ("near, DataFlex", "tsds, DataFlex")
    return "embeddings" if aims and not (work / "embeddings.npy").exists() else None


def _pick(root: Path, runs: list[Run], file: Path) -> None:
    picker, made = Picker.of(Work(root)), {}
    for run in runs:
        try:
            made[run["name"]] = picker.pick(run).astype(np.int32)
        except SystemExit as reason:  # another project's rule may fail on a pool; the other picks go on
            print(f"{run['name']}: not made, {reason}", file=sys.stderr)
    if made:
        with whole(file) as unfinished, unfinished.open("wb") as stream:
            np.savez_compressed(stream, **made)
