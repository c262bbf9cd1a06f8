"""Plays runs on one device: trains their adapters side by side, measures them on their pools' test rows, appends a row for each.

    python benchmarks/proving_ground/player.py --model DIR --input DIR --plan FILE --out FILE [--minutes 9]

`--input` is what `inputs` and `picking` wrote: tokens/ (a token table of all rows), splits.npz (test and dev rows of each pool with
their tasks) and picks.npz (the rows that each run trains on). `--plan` lists the runs to play. Rows that `--out` has are not played again.
What models of runs with "write" answer goes to OUT.written.jsonl; how likely models of runs with "compare" find other answers to
OUT.compared/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

Run = dict[str, Any]
KEY = ("model", "pool", "noise", "sources", "budget", "strategy", "seed", "learning_rate", "split")


def identity(run: Run) -> tuple:
    """What makes two runs the same."""
    return tuple(run[key] for key in KEY)


def name_of(run: Run) -> str:
    """A run's picks in picks.npz; runs of any model and learning rate share them, unless the model itself decides the picks."""
    return run.get("picks") or "|".join(
        str(run[key]) for key in ("pool", "noise", "sources", "budget", "strategy", "seed")
    )


def groups(runs: Sequence[Run], picks: Any, lengths: np.ndarray, tokens_at_once: int) -> Iterator[list[Run]]:
    """Runs of the plan in groups that train side by side: of one `order`, number of picks and of rounds, alike in tokens, so many that a
    step has about `tokens_at_once`."""
    from benchmarks.proving_ground.side_by_side import EXAMPLES_A_STEP

    by_size: dict[tuple[float, int, int], list[tuple[float, Run]]] = {}
    for run in runs:
        rows = picks[name_of(run)]
        by_size.setdefault((run.get("order", 0), len(rows), run.get("rounds", 1)), []).append(
            (float(lengths[rows].mean()), run)
        )
    for key in sorted(by_size):
        members = sorted(by_size[key], key=lambda entry: entry[0])
        start = 0
        while start < len(members):
            stop = start + 1
            while stop < len(members) and (stop + 1 - start) * members[stop][0] * EXAMPLES_A_STEP <= tokens_at_once:
                stop += 1
            yield [run for _, run in members[start:stop]]
            start = stop


class Player:
    """Plays runs on a base model, the rows and the picks."""

    def __init__(self, loaded: Any, inputs: Path, out: Path, picks: Path | None = None):
        from benchmarks.proving_ground.many_adapters import freeze
        from benchmarks.proving_ground.work import load_picks
        from trainer.tokenizer import load_tokenizer
        from trainer.tokens import TokenTable

        self.causal, self.base, self.out = loaded.model, freeze(loaded.model), out
        self.table = TokenTable.open(inputs / "tokens")
        self.tokenizer = cache(lambda: load_tokenizer(loaded.config))
        self.find_picks, self.splits = partial(load_picks, picks or inputs), np.load(inputs / "splits.npz")
        self.picks = self.find_picks()
        others = inputs / "alternatives"
        self.others = TokenTable.open(others) if others.exists() else None
        self.of_pool = np.load(inputs / "alternatives.npz") if others.exists() else {}

    def play(self, group: list[Run], log: Any = print) -> Iterator[Run]:
        """Finished rows of a group, trained and measured together."""
        from benchmarks.proving_ground.side_by_side import in_rounds, measure_side_by_side, train_side_by_side

        started = time.perf_counter()
        rows = [self.picks[name_of(run)] for run in group]
        seeds, rates = [run["seed"] for run in group], [run["learning_rate"] for run in group]
        dealt = [
            in_rounds(r, run["seed"], run["rounds"], run.get("nested", False)) if "rounds" in run else [r]
            for r, run in zip(rows, group, strict=True)
        ]
        adapters = None
        for of_round in zip(*dealt, strict=True):
            adapters = train_side_by_side(self.base, self.table, of_round, seeds, rates, log, adapters)
        _wait()
        trained = time.perf_counter() - started
        tests = [self.splits[f"{run['pool']}|{run['split']}"] for run in group]
        found = measure_side_by_side(self.base, adapters, self.table, tests)
        _wait()
        measured = time.perf_counter() - started - trained
        self._write(adapters, group)
        self._compare(adapters, group)
        _wait()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # other processes share the card
        more = time.perf_counter() - started - trained - measured
        log(
            f"{len(group)} runs of {len(rows[0])}: training {trained:.1f} s, measuring {measured:.1f} s, answers {more:.1f} s"
        )
        for run, picked, entry in zip(group, rows, found, strict=True):
            tasks = self.splits[f"{run['pool']}|{run['split']}|task"]
            seconds = {"train": round(trained / len(group), 3), "evaluate": round(measured / len(group), 3)}
            yield {
                **{key: run[key] for key in KEY},
                **{name: round(value, 5) for name, value in summary(entry, tasks).items()},
                "generated_em": None,
                "tokens": int(self.table.lengths[picked].sum()),
                "seconds": seconds,
                "task_nll": [round(float(v), 4) for v in per_task(entry, tasks, "nll")],
                "task_em": [round(float(v), 4) for v in per_task(entry, tasks, "correct")],
            }

    def _write(self, adapters: Any, group: list[Run]) -> None:
        """Answers of the runs that want them, to the rows whose answers can be judged right or wrong."""
        if not any(run.get("write") for run in group):
            return
        from benchmarks.proving_ground.writing import write_answers

        with self.out.with_suffix(".written.jsonl").open("a") as out:
            for part in ("test", "dev"):
                rows = [self._short(run, part) if part in run.get("write", ()) else np.zeros(0, int) for run in group]
                if not any(map(len, rows)):
                    continue
                for run, texts in zip(
                    group, write_answers(self.causal, adapters, self.table, rows, self.tokenizer()), strict=True
                ):
                    if texts:
                        out.write(json.dumps({**{key: run[key] for key in KEY}, "part": part, "answers": texts}) + "\n")

    def _short(self, run: Run, part: str) -> np.ndarray:
        return self.splits[f"{run['pool']}|{part}"][self.splits[f"{run['pool']}|{part}|short"]]

    def _compare(self, adapters: Any, group: list[Run]) -> None:
        """How likely the runs that want it find every answer that a row's task often gives."""
        if not all(run.get("compare") for run in group):
            return
        from benchmarks.proving_ground.writing import likelihoods

        folder = self.out.with_suffix(".compared")
        folder.mkdir(exist_ok=True)
        rows = [self.of_pool[f"{run['pool']}|rows"] for run in group]
        if not all(map(len, rows)):  # no task of the pool has answers to compare
            return
        for run, (nll, targets) in zip(group, likelihoods(self.base, adapters, self.others, rows), strict=True):
            np.savez_compressed(folder / f"{run['model']}|{name_of(run)}.npz", nll=nll, targets=targets)


def per_task(entry: dict[str, np.ndarray], tasks: np.ndarray, name: str) -> np.ndarray:
    """(tasks,) NLL per response token, or share of correct examples, of each task."""
    over = entry["targets" + name.removeprefix("nll")] if name.startswith("nll") else np.ones(len(tasks))
    return np.bincount(tasks, entry[name]) / np.maximum(np.bincount(tasks, over), 1e-12)


def summary(entry: dict[str, np.ndarray], tasks: np.ndarray) -> dict[str, float]:
    """Macro means count tasks alike, micro means tokens (NLL) or examples (exact match)."""
    return {
        "macro_nll": float(per_task(entry, tasks, "nll").mean()),
        "micro_nll": float(entry["nll"].sum() / entry["targets"].sum()),
        "macro_em": float(per_task(entry, tasks, "correct").mean()),
        "micro_em": float(entry["correct"].mean()),
        "macro_nll_no_end": float(per_task(entry, tasks, "nll_no_end").mean()),
        "macro_em_no_end": float(per_task(entry, tasks, "correct_no_end").mean()),
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def waiting(plan: Path, have: set[tuple], rate: float | None) -> list[Run]:
    """Runs of a plan's file that are not in `have`, those without a learning rate with `rate`."""
    runs = [{**run, "learning_rate": run["learning_rate"] or rate} for run in json.loads(plan.read_text())]
    return [run for run in runs if identity(run) not in have]


def play_plan(
    player: Player, plan: Path, until: float, at_once: int, rate: float | None = None, most: int | None = None
) -> int:
    """Play the runs of a plan's file that the player's file of rows lacks; returns how many failed.

    The plan and the picks are read again before each group, because runs are added while players play. A group that fails is left
    out and the others go on; one that memory does not suffice for is played again in smaller groups.

    Args:
        until: start no group after this `time.perf_counter`. most: nor more than so many groups.
    """
    out, began, number = player.out, time.perf_counter(), 0
    have = {identity(json.loads(line)) for line in out.read_text().splitlines()} if out.exists() else set()
    failed: set[tuple] = set()
    while time.perf_counter() < until and number != most:
        player.picks, runs = player.find_picks(), waiting(plan, have | failed, rate)
        group = next(groups(runs, player.picks, player.table.lengths, at_once), None)
        if group is None:
            break
        number += 1
        try:
            rows = list(player.play(group, lambda text: print(text, flush=True)))
        except Exception as error:  # whatever it is, the minutes are for the other groups
            traceback.print_exc()
            if isinstance(error, torch.OutOfMemoryError) and len(group) > 1:
                at_once //= 2
                torch.cuda.empty_cache()
            else:
                failed |= {identity(run) for run in group}
            continue
        with out.open("a") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
        have |= {identity(row) for row in rows}
        named = " ".join(str(group[0][key]) for key in ("pool", "strategy", "budget"))
        print(f"[{time.perf_counter() - began:.0f} s] {len(group)} runs, first {named}", flush=True)
    return len(failed)


def main() -> None:
    """Play what is missing until the minutes are over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "input", "plan", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--picks", type=Path, default=None, help="folder of picks*.npz, if not --input")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no further group after so many minutes")
    parser.add_argument("--tokens-at-once", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=None, help="learning rate of runs that the plan gives none")
    parser.add_argument(
        "--compile", action="store_true", help="fuse elementwise parts; takes half a minute to begin with"
    )
    parser.add_argument("--most", type=int, default=None, help="play at most so many groups")
    arguments = parser.parse_args()
    started = time.perf_counter()
    from benchmarks.proving_ground.many_adapters import compile_elementwise
    from trainer.config import ModelConfig
    from trainer.model import Base

    loaded = Base.load(ModelConfig(name=str(arguments.model), device=arguments.device))
    player = Player(loaded, arguments.input, arguments.out, arguments.picks)
    if arguments.compile:
        compile_elementwise()
    print(f"loaded in {time.perf_counter() - started:.1f} s", flush=True)
    until = started + 60 * arguments.minutes
    failed = play_plan(player, arguments.plan, until, arguments.tokens_at_once, arguments.rate, arguments.most)
    if failed:
        raise SystemExit(f"{failed} runs failed")


if __name__ == "__main__":
    main()
