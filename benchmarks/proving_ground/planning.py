"""Which runs the study wants, and the rows that each trains on.

    python benchmarks/proving_ground/planning.py --pools DIR --inputs DIR --plan FILE --picks FILE --stage NAME ...

Picks are made by Winnow's own strategies (`selection.strategy`) on the pool's rows; nothing here trains. Strategies that measure nothing
need one training on their final picks and not a round after round of retraining: the same picks, the same adapter.
Stages: "rates" tunes the learning rate on dev, "core" is the matrix of the issue, "curve" random at other budgets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground.inputs import prompt_of, read_rows
from benchmarks.proving_ground.player import Run, name_of

LIST = json.loads(Path(__file__).with_name("pools.json").read_text())
POOLS = list(LIST["pools"])
BUDGET = 1000
SPREAD: dict[str, tuple[str | None, float, float]] = {
    "random": (None, 0.0, 0.0),
    "source_uniform": ("source", 0.0, 0.0),
    "source_size": ("source", 0.5, 0.0),
    "oracle_uniform": ("task", 0.0, 0.0),
    "oracle_size": ("task", 0.5, 0.0),
    "kind_uniform": ("kind", 0.0, 0.0),
    "kind_size": ("kind", 0.5, 0.0),
    "split_uniform": ("split", 0.0, 0.0),
    "kind_size, 25% random": ("kind", 0.5, 0.25),
    "kind_uniform, 25% random": ("kind", 0.0, 0.25),
    "source_kinds": ("split", 0.0, 0.25),
}
"""What each strategy spreads the budget over, in proportion to size to which power, and the share picked at random besides. The oracle
sees the hidden tasks; "split" are sources split by kinds where they hold several."""


def run(
    model: str, pool: str, strategy: str, seed: int, budget: int = BUDGET, rate: float | None = None, **more: Any
) -> Run:
    """One run of the plan; the model's tuned learning rate unless another is given."""
    rate = rate or LIST["learning_rates"]["tuned"][model]
    sources = strategy.startswith(("source", "split", "oracle"))
    return {
        "model": model, "pool": pool, "noise": "none", "sources": sources, "budget": budget, "strategy": strategy, "seed": seed,
        "learning_rate": rate, "split": "test", "order": 0, **more,
    }  # fmt: skip


def rates(model: str) -> Iterator[Run]:
    """Random at 1,000 with every rate that is tried, on dev, one seed."""
    for rate in (*LIST["learning_rates"]["tried"], LIST["learning_rates"]["shipped"]):
        for pool in POOLS:
            yield run(model, pool, "random", 1, rate=rate, split="dev")


def core(model: str, strategies: tuple[str, ...], seeds: int = 5) -> Iterator[Run]:
    """Every pool, clean, at the budget of the study; the first seeds first."""
    for seed in LIST["seeds"][:seeds]:
        for pool in POOLS:
            for strategy in strategies:
                yield run(model, pool, strategy, seed, order=1 if seed < 3 else 2)


def curve(model: str, seeds: int = 3) -> Iterator[Run]:
    """Random at other budgets."""
    for seed in LIST["seeds"][:seeds]:
        for pool in POOLS:
            for budget in (300, 2000, 4000):
                yield run(model, pool, "random", seed, budget, order=3 if seed == 1 else 4)


STAGES = {
    "rates": rates,
    "baselines": lambda model: core(model, ("random", "source_size", "oracle_size")),
    "alike": lambda model: (
        {**r, "order": r["order"] + 0.5} for r in core(model, ("source_uniform", "oracle_uniform"), 3)
    ),
    "defaults": lambda model: core(model, ("kind_uniform, 25% random", "source_kinds")),
    "design": lambda model: core(model, ("kind_uniform", "kind_size", "split_uniform", "kind_size, 25% random"), 2),
    "curve": curve,
}


class Picker:
    """Picks of runs on the files of the pools; groups are found once each."""

    def __init__(self, pools: Path, splits: Any, kinds: Path):
        self.pools, self.splits, self.kinds = pools, splits, kinds
        self.prompts = cache(self._prompts)
        self.groups = cache(self._groups)

    def _prompts(self, pool: str) -> list[str]:
        return [prompt_of(row) for row in read_rows(self.pools, pool, "pool")]

    def _groups(self, pool: str, by: str, seed: int) -> np.ndarray:
        from selection.config import KindsConfig
        from selection.kinds import find_kinds, split_sources

        if by == "split":
            return split_sources(self.splits[f"{pool}|pool|source"], self.groups(pool, "kind", seed))[0]
        if by != "kind":
            return self.splits[f"{pool}|pool|{by}"]
        kept = self.kinds / f"{pool}_{seed}.npz"
        if kept.exists():
            return np.load(kept)["kind"]
        found = find_kinds(self.prompts(pool), KindsConfig(), seed)
        self.kinds.mkdir(exist_ok=True)
        np.savez(kept, kind=found)
        return found

    def pick(self, wanted: Run) -> np.ndarray:
        """Rows (of the token table) that the run trains on."""
        from selection.config import SelectConfig
        from selection.strategy import Budget, Candidates, allocate, select

        pool, (by, power, explore) = wanted["pool"], SPREAD[wanted["strategy"]]
        rows = self.splits[f"{pool}|pool"]
        cluster = (
            np.zeros(len(rows), dtype=np.int64)
            if by is None
            else self.groups(pool, by, wanted["seed"]).astype(np.int64)
        )
        nothing = np.full(len(rows), np.nan)
        pool_of = Candidates(
            self.splits[f"{pool}|pool|key"], cluster, np.ones(len(rows), dtype=np.int64), nothing, nothing
        )
        budget, config = (
            Budget("examples", min(wanted["budget"], len(rows))),
            SelectConfig(strategy="random" if by is None else "size", temperature=power, explore=explore),
        )
        quotas = allocate(pool_of, budget, config, (wanted["seed"], 1))
        return rows[select(pool_of, quotas, budget, config, (wanted["seed"], 1)).picked]


def main() -> None:
    """Write a plan and the picks of its runs; picks that the file has are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pools", "inputs", "kinds", "plan", "picks"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--stage", nargs="+", choices=sorted(STAGES), required=True)
    arguments = parser.parse_args()
    plan = [entry for stage in arguments.stage for entry in STAGES[stage](arguments.model)]
    picks = dict(np.load(arguments.picks)) if arguments.picks.exists() else {}
    picker = Picker(arguments.pools, np.load(arguments.inputs / "splits.npz"), arguments.kinds)
    for wanted in sorted(plan, key=lambda entry: (entry["pool"], entry["seed"])):
        if name_of(wanted) not in picks:
            picks[name_of(wanted)] = picker.pick(wanted).astype(np.int32)
    arguments.plan.write_text(json.dumps(plan))
    np.savez_compressed(arguments.picks, **picks)
    print(f"{len(plan)} runs, {len(picks)} picks")


if __name__ == "__main__":
    main()
