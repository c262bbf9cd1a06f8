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
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground import aiming, peer_picks
from benchmarks.proving_ground.inputs import prompt_of, read_rows
from benchmarks.proving_ground.player import Run, identity, name_of
from benchmarks.proving_ground.work import Work, whole

if TYPE_CHECKING:
    from selection.kinds import Kinds

LIST = json.loads(Path(__file__).with_name("pools.json").read_text())
POOLS = list(LIST["pools"])
BUDGET, ROUNDS = 1000, 4
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
KIND, CLUSTERS = "kind_uniform, 25% random", "clusters, by distinctness"


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
    return core(model, (CLUSTERS,), seeds)


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


def targets(model: str, seeds: int = 3) -> Iterator[Run]:
    """Every strategy that aims at a target, on every target; the first seed first."""
    for seed in LIST["seeds"][:seeds]:
        for name in LIST["targets"]:
            for strategy in aiming.STRATEGIES:
                yield aimed(model, name, strategy, seed, order=0 if seed == 1 else 2)


def aimed(model: str, name: str, strategy: str, seed: int, **more: Any) -> Run:
    """A run on a target; picks that hidden states decide are the model's own."""
    found = run(model, name, strategy, seed, **more)
    return {**found, "picks": f"{model}|{name_of(found)}"} if strategy in aiming.HIDDEN else found


def budgets(model: str, seeds: int = 3) -> Iterator[Run]:
    """The defaults and the oracle at a smaller and a larger budget on the pools that peers play on."""
    for seed in LIST["seeds"][:seeds]:
        for pool in LIST["noisy_pools"]:
            for budget in (300, 4000):
                for strategy in ("random", "source_kinds", KIND, CLUSTERS, "oracle_size"):
                    yield run(model, pool, strategy, seed, budget, order=3 if seed == 1 else 4)


def four(model: str) -> Iterator[Run]:
    """Random and the defaults on the four pools that a larger model plays."""
    for seed in (1, 4, 5):
        for pool in LIST["noisy_pools"]:
            for strategy in ("random", "source_kinds", KIND):
                yield run(model, pool, strategy, seed, order=1)


def peers(model: str, seeds: int = 3) -> Iterator[Run]:
    """Other projects' rules on four pools; their picks are the model's own."""
    for seed in LIST["seeds"][:seeds]:
        for pool in LIST["noisy_pools"]:
            for strategy in peer_picks.STRATEGIES:
                found = run(model, pool, strategy, seed, order=1 if seed == 1 else 3)
                yield {**found, "picks": f"{model}|{name_of(found)}"}


def rounds(model: str, seeds: int = 3) -> Iterator[Run]:
    """The picks of random and of the defaults in four rounds of 250, each continuing the adapter of the round before."""
    for seed in LIST["seeds"][:seeds]:
        for pool in LIST["noisy_pools"]:
            for strategy in ("random", "source_kinds", KIND):
                once = run(model, pool, strategy, seed, order=3)
                more = {"picks": name_of(once), "picked_as": strategy, "rounds": ROUNDS}
                yield {**once, "strategy": f"{strategy}, {ROUNDS} rounds", **more}


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
    "four": four,
    "targets": targets,
    "budgets": budgets,
    "peers": peers,
    "rounds": rounds,
}


class Picker:
    """Picks of runs on the files of the pools; groups are found once each."""

    def __init__(
        self,
        pools: Path,
        splits: Any,
        kinds: Path,
        embeddings: Path | None = None,
        pooled: Path | None = None,
        peers: Path = Path("peers"),
    ):
        self.pools, self.splits, self.kinds, self.embeddings, self.pooled = pools, splits, kinds, embeddings, pooled
        self.peers = peers
        self.prompts, self.measured = cache(self._prompts), cache(self._measured)
        self.groups = cache(self._groups)
        self.found = cache(self._found)

    @classmethod
    def of(cls, work: Work) -> Picker:
        """A picker on a work folder's files."""
        vectors, splits = work / "embeddings.npy", np.load(work.inputs() / "splits.npz")
        embeddings = vectors if vectors.exists() else None
        return cls(work / "pools", splits, work / "kinds", embeddings, work / "pooled", work.peers)

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
        with whole(kept) as file:
            np.savez(file, of=found.of, shared=found.shared)
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
            with whole(kept) as file:
                np.savez(file, of=found.assignment, distinct=distinctness(found.quality["silhouette"]))
        arrays = np.load(kept)
        return arrays["of"].astype(np.int64), float(arrays["distinct"])

    def pick(self, wanted: Run) -> np.ndarray:
        """Rows (of the token table) that the run trains on."""
        pool, strategy = wanted["pool"], wanted.get("picked_as", wanted["strategy"])
        noisy = wanted.get("noise", "none") != "none"
        rows = self.splits[f"{pool}|{wanted['noise']}" if noisy else f"{pool}|pool"]
        if pool in LIST["targets"] and strategy != "random":
            return rows[self._aimed(wanted)]
        if strategy in peer_picks.STRATEGIES:
            return rows[self._peer(wanted)]
        by = SPREAD[strategy][0]
        cluster, distinct = np.zeros(len(rows), dtype=np.int64), 1.0
        if by == "cluster":
            cluster, distinct = self.clusters(pool, wanted["seed"])
        elif by is not None:
            cluster = self.groups(pool, by, wanted["seed"]).astype(np.int64)
        return rows[spread(self.splits[f"{pool}|pool|key"], cluster, wanted, strategy, distinct)]

    def _peer(self, wanted: Run) -> np.ndarray:
        """Places of the pool, by another project's rule."""
        if self.pooled is None:
            raise SystemExit(f"{wanted['strategy']}: needs what the model measures (see pooled.py)")
        of = self.measured(wanted["model"], wanted["pool"])
        return peer_picks.pick(wanted["strategy"], of, wanted["budget"], wanted["seed"], self.peers)

    def _measured(self, model: str, pool: str) -> peer_picks.Measured:
        assert self.pooled is not None
        return peer_picks.measured(self.pooled / model, self.splits, pool, self.embeddings)

    def _aimed(self, wanted: Run) -> np.ndarray:
        """Places of the target's pool."""
        name, strategy, budget, seed = (wanted[key] for key in ("pool", "strategy", "budget", "seed"))
        keys, rows, target = (self.splits[f"{name}|{part}"] for part in ("pool|key", "pool", "dev"))
        if strategy == aiming.FORMER:
            if self.embeddings is None:
                raise SystemExit(f"{name}, {strategy}: needs embeddings (see embeddings.py)")
            vectors = np.load(self.embeddings, mmap_mode="r")
            aim = aiming.Aim(vectors[rows].astype(np.float32), vectors[target].astype(np.float32), keys)
            nothing = np.zeros(len(rows), dtype=np.int64)
            return aim.nearest(budget, seed) if aim.held() else spread(keys, nothing, wanted, "random")
        if self.pooled is None:
            raise SystemExit(f"{name}, {strategy}: needs hidden states (see pooled.py)")
        aim = aiming.pooled_of(self.pooled / wanted["model"], rows, target, keys)
        if strategy == "rds":
            return aim.nearest(budget, seed)
        aim = aim.centred()
        if strategy == "rds, by nearness":
            return aim.nearest(budget, seed, explore=1 - aim.nearness(budget))
        if strategy == "rds, centred":
            return aim.nearest(budget, seed)
        first = aim.nearest(budget // 2, seed)
        rest = np.setdiff1d(np.arange(len(rows)), first)
        kinds = self.groups(LIST["targets"][name]["pool"], "kind", seed)[self.splits[f"{name}|kept"]].astype(np.int64)
        left = {**wanted, "budget": budget - len(first)}
        return np.concatenate([first, rest[spread(keys[rest], kinds[rest], left, KIND)]])


def spread(keys: np.ndarray, cluster: np.ndarray, wanted: Run, strategy: str, distinct: float = 1.0) -> np.ndarray:
    """Places of the rows that a strategy which measures nothing picks, its budget spread over the groups `cluster` (n,)."""
    from selection.config import SelectConfig
    from selection.strategy import Budget, Candidates, allocate, select

    by, power, explore = SPREAD[strategy]
    nothing = np.full(len(keys), np.nan)
    candidates = Candidates(keys, cluster, np.ones(len(keys), dtype=np.int64), nothing, nothing)
    budget = Budget("examples", min(wanted["budget"], len(keys)))
    config = SelectConfig(strategy="random" if by is None else "size", temperature=power, explore=explore)
    if by == "cluster":
        config = SelectConfig(strategy="default", explore=explore)
    quotas = allocate(candidates, budget, config, (wanted["seed"], 1), distinct=distinct)
    return select(candidates, quotas, budget, config, (wanted["seed"], 1)).picked


def plan(model: str, stages: Sequence[str], pools: Collection[str]) -> list[Run]:
    """The runs of these stages on these pools and targets, each once, with the first of its stages as "stage" and what any asks of it."""
    found: dict[tuple, Run] = {}
    for stage in stages:
        for entry in STAGES[stage](model):
            if entry["pool"] in pools:
                kept = found.setdefault(identity(entry), {**entry, "stage": stage})
                kept.update({key: entry[key] for key in ("write", "compare") if key in entry})
    return list(found.values())


def main() -> None:
    """Write a plan and the picks of its runs; picks that the file has are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pools", "inputs", "kinds", "plan", "picks"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument(
        "--embeddings", type=Path, default=None, help="what embeddings.py wrote; for clusters of embeddings"
    )
    parser.add_argument("--pooled", type=Path, default=None, help="folder of what pooled.py wrote, by model")
    parser.add_argument("--model", required=True)
    parser.add_argument("--stage", nargs="+", choices=sorted(STAGES), required=True)
    places = [*POOLS, *LIST["targets"]]
    parser.add_argument("--only", nargs="+", choices=places, default=places, help="pools and targets to plan for")
    arguments = parser.parse_args()
    wanted = plan(arguments.model, arguments.stage, arguments.only)
    picks = dict(np.load(arguments.picks)) if arguments.picks.exists() else {}
    splits = np.load(arguments.inputs / "splits.npz")
    picker = Picker(arguments.pools, splits, arguments.kinds, arguments.embeddings, arguments.pooled)
    for entry in sorted(wanted, key=lambda entry: (entry["pool"], entry["seed"])):
        if name_of(entry) not in picks:
            picks[name_of(entry)] = picker.pick(entry).astype(np.int32)
    arguments.plan.write_text(json.dumps(wanted))
    np.savez_compressed(arguments.picks, **picks)
    print(f"{len(wanted)} runs, {len(picks)} picks")


if __name__ == "__main__":
    main()
