"""Which runs the study wants, and the rows that each trains on.

    python benchmarks/proving_ground/planning.py --pools DIR --inputs DIR --plan FILE --picks FILE --stage NAME ...

Picks are made by Winnow's own strategies (`selection.strategy`) on the pool's rows; nothing here trains. Strategies that measure nothing
need one training on their final picks and not a round after round of retraining: the same picks, the same adapter.
Stages: "rates" tunes the learning rate on dev, "baselines" and "defaults" are the matrix of the study, "curve" is random at other
budgets, "former" the default without sources before kinds of prompt, "noise" pools with wrong answers, "written" models that also
write answers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground.inputs import prompt_of, read_rows
from benchmarks.proving_ground.player import Run, name_of

if TYPE_CHECKING:
    from selection.kinds import Kinds

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
    "kind_uniform, 10% random": ("kind", 0.0, 0.1),
    "kind_uniform, 25% random": ("kind", 0.0, 0.25),
    "split_uniform, 10% random": ("split", 0.0, 0.1),
    "source_kinds": ("split", 0.0, 0.25),
    "clusters, by distinctness": ("cluster", 0.0, 0.02),
}
"""What each strategy spreads the budget over, in proportion to size to which power, and the share picked at random besides. The oracle
sees the hidden tasks; "split" are sources split by kinds where they hold several; clusters of embeddings have the power that follows
from how distinct they are, the default's first round where rows carry no sources."""
KIND = "kind_uniform, 25% random"


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


def longer(model: str, seeds: int = 3) -> Iterator[Run]:
    """evals at 4,000 examples, and random's curve there far enough to read a small share off it."""
    for seed in LIST["seeds"][:seeds]:
        for strategy in ("source_kinds", "kind_uniform, 25% random", "oracle_size"):
            yield run(model, "evals", strategy, seed, 4000, order=3)
    for budget in (8000, 16000):
        yield run(model, "evals", "random", 1, budget, order=4)


def former(model: str, seeds: int = 3) -> Iterator[Run]:
    """The former default without sources on every pool."""
    return core(model, ("clusters, by distinctness",), seeds)


def noise(model: str, seeds: int = 3) -> Iterator[Run]:
    """Pools with wrong answers, their rows compared with other answers where these were planted inside the task."""
    for seed in LIST["seeds"][:seeds]:
        for pool in LIST["noisy_pools"]:
            for kind, order in (("inside", 5), ("exchanged", 6)):
                for strategy in ("random", "source_kinds", KIND):
                    more = {"compare": True} if kind == "inside" and strategy != KIND else {}
                    yield run(model, pool, strategy, seed, noise=kind, order=order + 0.5 * (not more), **more)


def written(model: str) -> Iterator[Run]:
    """Runs whose models write answers to the test rows, random at 4,000 to the dev rows too."""
    for seed in (1, 4, 5):
        for pool in POOLS:
            for strategy in ("random", "source_kinds", KIND):
                yield run(model, pool, strategy, seed, order=7, write=["test"])
    for pool in POOLS:
        for budget in (300, 2000, 4000):
            parts = ["test", "dev"] if budget == 4000 else ["test"]
            yield run(model, pool, "random", 1, budget, order=8, write=parts)


STAGES = {
    "rates": rates,
    "baselines": lambda model: core(model, ("random", "source_size", "oracle_size")),
    "alike": lambda model: (
        {**r, "order": r["order"] + 0.5} for r in core(model, ("source_uniform", "oracle_uniform"), 3)
    ),
    "defaults": lambda model: core(model, ("kind_uniform, 25% random", "source_kinds")),
    "design": lambda model: core(model, ("kind_uniform, 10% random", "split_uniform, 10% random"), 3),
    "curve": curve,
    "longer": longer,
    "former": former,
    "noise": noise,
    "written": written,
}


class Picker:
    """Picks of runs on the files of the pools; groups are found once each."""

    def __init__(self, pools: Path, splits: Any, kinds: Path, embeddings: Path | None = None):
        self.pools, self.splits, self.kinds, self.embeddings = pools, splits, kinds, embeddings
        self.prompts = cache(self._prompts)
        self.groups = cache(self._groups)
        self.found = cache(self._found)

    def _prompts(self, pool: str) -> list[str]:
        return [prompt_of(row) for row in read_rows(self.pools, pool, "pool")]

    def _groups(self, pool: str, by: str, seed: int) -> np.ndarray:
        from selection.kinds import split_sources

        if by == "split":
            return split_sources(self.splits[f"{pool}|pool|source"], self.found(pool, seed))[0]
        return self.found(pool, seed).of if by == "kind" else self.splits[f"{pool}|pool|{by}"]

    def _found(self, pool: str, seed: int) -> Kinds:
        from selection.config import KindsConfig
        from selection.kinds import Kinds, find_kinds

        kept = self.kinds / f"{pool}_{seed}.npz"
        if kept.exists():
            return Kinds(**np.load(kept))
        found = find_kinds(self.prompts(pool), KindsConfig(), seed)
        self.kinds.mkdir(exist_ok=True)
        np.savez(kept, of=found.of, shared=found.shared)
        return found

    def clusters(self, pool: str, seed: int) -> tuple[np.ndarray, float]:
        """(n,) cluster of embeddings of each row, and how distinct clusters are; kept next to the kinds."""
        from selection.cluster import cluster, distinctness
        from selection.config import ClusterConfig

        kept = self.kinds / f"clusters_{pool}_{seed}.npz"
        if not kept.exists():
            if self.embeddings is None:
                raise SystemExit(f"{kept}: not there, and --embeddings is not given (see embeddings.py)")
            vectors = np.load(self.embeddings, mmap_mode="r")[self.splits[f"{pool}|pool"]]
            found = cluster(vectors, ClusterConfig(), seed)
            np.savez(kept, of=found.assignment, distinct=distinctness(found.quality["silhouette"]))
        arrays = np.load(kept)
        return arrays["of"].astype(np.int64), float(arrays["distinct"])

    def pick(self, wanted: Run) -> np.ndarray:
        """Rows (of the token table) that the run trains on."""
        from selection.config import SelectConfig
        from selection.strategy import Budget, Candidates, allocate, select

        pool, (by, power, explore) = wanted["pool"], SPREAD[wanted["strategy"]]
        noisy = wanted.get("noise", "none") != "none"
        rows = self.splits[f"{pool}|{wanted['noise']}" if noisy else f"{pool}|pool"]
        distinct = 1.0
        if by is None:
            cluster = np.zeros(len(rows), dtype=np.int64)
        elif by == "cluster":
            cluster, distinct = self.clusters(pool, wanted["seed"])
        else:
            cluster = self.groups(pool, by, wanted["seed"]).astype(np.int64)
        nothing = np.full(len(rows), np.nan)
        pool_of = Candidates(
            self.splits[f"{pool}|pool|key"], cluster, np.ones(len(rows), dtype=np.int64), nothing, nothing
        )
        budget = Budget("examples", min(wanted["budget"], len(rows)))
        config = SelectConfig(strategy="random" if by is None else "size", temperature=power, explore=explore)
        if by == "cluster":
            config = SelectConfig(strategy="default", explore=explore)
        quotas = allocate(pool_of, budget, config, (wanted["seed"], 1), distinct=distinct)
        return rows[select(pool_of, quotas, budget, config, (wanted["seed"], 1)).picked]


def main() -> None:
    """Write a plan and the picks of its runs; picks that the file has are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pools", "inputs", "kinds", "plan", "picks"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument(
        "--embeddings", type=Path, default=None, help="what embeddings.py wrote; for clusters of embeddings"
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--stage", nargs="+", choices=sorted(STAGES), required=True)
    parser.add_argument("--only", nargs="+", choices=POOLS, default=POOLS, help="pools to plan for")
    arguments = parser.parse_args()
    plan = [entry for stage in arguments.stage for entry in STAGES[stage](arguments.model)]
    plan = [entry for entry in plan if entry["pool"] in arguments.only]
    picks = dict(np.load(arguments.picks)) if arguments.picks.exists() else {}
    picker = Picker(arguments.pools, np.load(arguments.inputs / "splits.npz"), arguments.kinds, arguments.embeddings)
    for wanted in sorted(plan, key=lambda entry: (entry["pool"], entry["seed"])):
        if name_of(wanted) not in picks:
            picks[name_of(wanted)] = picker.pick(wanted).astype(np.int32)
    arguments.plan.write_text(json.dumps(plan))
    np.savez_compressed(arguments.picks, **picks)
    print(f"{len(plan)} runs, {len(picks)} picks")


if __name__ == "__main__":
    main()
