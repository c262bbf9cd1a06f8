"""The rows that each run trains on.

Picks are made by Winnow's own strategies (`selection.strategy`) on the pool's rows, or by what a stage compares them with. Nothing here
trains.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.proving_ground import aiming, by_gradient, by_loss, labelling, near, peer_picks
from benchmarks.proving_ground.ground import CLUSTERS, KIND, POWER, PROPORTIONAL
from benchmarks.proving_ground.planning import LIST
from benchmarks.proving_ground.player import Run
from benchmarks.proving_ground.rows import prompt_of, read_rows
from benchmarks.proving_ground.work import Work, whole

if TYPE_CHECKING:
    from selection.kinds import Kinds

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
    CLUSTERS: ("cluster", 0.0, 0.02),
    PROPORTIONAL: ("cluster", 1.0, 0.0),
    POWER: ("cluster", 0.75, 0.0),
}
"""What each strategy spreads the budget over, in proportion to size to which power, and the share picked at random besides. The oracle
sees the hidden tasks; "split" are sources split by kinds where they hold several. The power of CLUSTERS follows from how distinct they
are, in the first round of the default where rows carry no sources."""


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
        unsure: Path = Path("unsure"),
        gradients: Path = Path("gradients"),
    ):
        self.pools, self.splits, self.kinds, self.embeddings, self.pooled = pools, splits, kinds, embeddings, pooled
        self.peers, self.unsure, self.gradients = peers, unsure, gradients
        self.rows, self.measured = cache(self._rows), cache(self._measured)
        self.groups = cache(self._groups)
        self.found = cache(self._found)

    @classmethod
    def of(cls, work: Work) -> Picker:
        """A picker on a work folder's files."""
        vectors, splits = work / "embeddings.npy", np.load(work.inputs() / "splits.npz")
        embeddings = vectors if vectors.exists() else None
        more = (work.peers, work / "unsure", work / "gradients")
        return cls(work / "pools", splits, work / "kinds", embeddings, work / "pooled", *more)

    def _rows(self, pool: str) -> list[dict[str, Any]]:
        """Rows of a pool; of "POOL|near" and "POOL|searched" those that the search for near-duplicates leaves, with its copies and
        without."""
        name, _, noise = pool.partition("|")
        rows = self._before_search(name, noise)
        return [rows[place] for place in self.left(name, noise)] if noise else rows

    def _before_search(self, pool: str, noise: str) -> list[dict[str, Any]]:
        rows = read_rows(self.pools, pool, "pool")
        return near.with_copies(rows)[0] if noise == near.NOISE else rows

    def left(self, pool: str, noise: str) -> np.ndarray:
        """Places of the pool, with its copies or without, that the search for near-duplicates leaves; kept next to the kinds, with how
        many it would leave by the embeddings alone."""
        from selection.answers import answer_codes

        kept = left_file(self.kinds, pool, noise)
        if not kept.exists():
            if self.embeddings is None:
                raise SystemExit(f"{kept}: not there, and there are no embeddings (see embeddings.py)")
            part = f"{pool}|{near.rows_in(noise)}"
            vectors, keys = np.load(self.embeddings, mmap_mode="r")[self.splits[part]], self.splits[f"{part}|key"]
            answers = answer_codes(row["messages"][-1]["content"] for row in self._before_search(pool, noise))
            found, alone = (near.left_by_search(vectors, keys, of) for of in (answers, None))
            with whole(kept) as file:
                np.savez(file, left=found, by_embeddings=len(alone))
        return np.load(kept)["left"]

    def _groups(self, pool: str, by: str, seed: int) -> np.ndarray:
        from selection.kinds import split_sources

        if by == "kind":
            return self.found(pool, seed).groups
        name, _, noise = pool.partition("|")
        of = self.splits[f"{name}|{near.rows_in(noise)}|{'source' if by == 'split' else by}"]
        of = of[self.left(name, noise)] if noise else of
        return split_sources(of, self.found(pool, seed))[0] if by == "split" else of

    def _found(self, pool: str, seed: int) -> Kinds:
        from selection.config import KindsConfig
        from selection.kinds import Kinds, find_kinds, open_kinds

        kept, config = kinds_file(self.kinds, pool, seed), KindsConfig()
        found = dict(np.load(kept)) if kept.exists() else {}
        if "open" not in found:  # of prompts alone, as kinds once were
            if not found:
                prompts = find_kinds([prompt_of(row) for row in self.rows(pool)], config, seed)
                found = {"of": prompts.of, "shared": prompts.shared}
            responses = [row["messages"][-1]["content"] for row in self.rows(pool)]
            found["open"] = open_kinds(responses, found["of"], config, seed)
            with whole(kept) as file:
                np.savez(file, **found)
        return Kinds(**found)

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
        if wanted.get("noise") in (near.NOISE, near.SEARCHED):
            return self._searched(wanted)
        noisy = wanted.get("noise", "none") != "none"
        rows = self.splits[f"{pool}|{wanted['noise']}" if noisy else f"{pool}|pool"]
        if pool in LIST["targets"] and strategy != "random":
            return rows[self._aimed(wanted)]
        if strategy in peer_picks.STRATEGIES:
            return rows[self._peer(wanted)]
        if strategy in by_loss.STRATEGIES:
            return rows[self._by_loss(wanted)]
        if strategy in labelling.STRATEGIES:
            return rows[self._unsure(wanted, rows)]
        by = SPREAD[strategy][0]
        cluster, distinct = np.zeros(len(rows), dtype=np.int64), 1.0
        if by == "cluster":
            cluster, distinct = self.clusters(pool, wanted["seed"])
        elif by is not None:
            cluster = self.groups(pool, by, wanted["seed"]).astype(np.int64)
        keys = self.splits[f"{pool}|pool|key"]
        if wanted.get("nested"):
            return rows[in_two_rounds(keys, cluster, wanted, strategy)]
        return rows[spread(keys, cluster, wanted, strategy, distinct)]

    def _searched(self, wanted: Run) -> np.ndarray:
        """Rows of the pool, with its copies or without: of those that the search leaves, but for near.ALL."""
        pool, strategy, noise = wanted["pool"], wanted["strategy"], wanted["noise"]
        part = f"{pool}|{near.rows_in(noise)}"
        rows, keys = self.splits[part], self.splits[f"{part}|key"]
        if strategy == near.ALL:
            return rows[spread(keys, np.zeros(len(keys), dtype=np.int64), wanted, "random")]
        by, left = SPREAD[strategy][0], self.left(pool, noise)
        cluster = np.zeros(len(left), dtype=np.int64)
        if by is not None:
            cluster = self.groups(f"{pool}|{noise}", by, wanted["seed"]).astype(np.int64)
        return rows[left][spread(keys[left], cluster, wanted, strategy)]

    def _peer(self, wanted: Run) -> np.ndarray:
        """Places of the pool, by another project's rule."""
        strategy, pool, keys = wanted["strategy"], wanted["pool"], self.splits[f"{wanted['pool']}|pool|key"]
        if strategy in by_gradient.STRATEGIES:
            file = by_gradient.file_of(self.gradients / wanted["model"], strategy, pool)
            return by_gradient.pick(by_gradient.measured(file)["cosines"], keys, wanted["budget"], wanted["seed"])
        if self.pooled is None:
            raise SystemExit(f"{wanted['strategy']}: needs what the model measures (see pooled.py)")
        of = self.measured(wanted["model"], pool)
        return peer_picks.pick(strategy, of, wanted["budget"], wanted["seed"], self.peers)

    def _by_loss(self, wanted: Run) -> np.ndarray:
        """Places of the pool, by what the model measured of it."""
        pool, strategy, seed = (wanted[key] for key in ("pool", "strategy", "seed"))
        by, _, explore = SPREAD[by_loss.OVER[strategy][0]]
        groups = self.groups(pool, str(by), seed).astype(np.int64)
        loss, keys = self.measured(wanted["model"], pool).nll, self.splits[f"{pool}|pool|key"]
        return by_loss.pick(strategy, keys, groups, loss, wanted["budget"], seed, explore)

    def _unsure(self, wanted: Run, rows: np.ndarray) -> np.ndarray:
        """Places of the pool, by what the model answers to its prompts."""
        pool, seed = wanted["pool"], wanted["seed"]
        measured = self.unsure / f"{wanted['model']}_{pool}.npz"
        cluster, keys = self.clusters(pool, seed)[0], self.splits[f"{pool}|pool|key"]
        return labelling.pick(wanted["strategy"], keys, rows, cluster, seed, wanted["budget"], measured)

    def _measured(self, model: str, pool: str) -> peer_picks.Measured:
        assert self.pooled is not None
        gradients = self.gradients / model / f"{pool}.npz"
        return peer_picks.measured(self.pooled / model, self.splits, pool, self.embeddings, gradients)

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


def left_file(folder: Path, pool: str, noise: str) -> Path:
    """Where the places that the search leaves are kept."""
    return folder / f"left_{pool}_{noise}.npz"


def kinds_file(folder: Path, pool: str, seed: int) -> Path:
    """Where the kinds of a pool, or of "POOL|near" and "POOL|searched", are kept."""
    return folder / f"{pool.replace('|', '-')}_{seed}.npz"


def spread(
    keys: np.ndarray,
    cluster: np.ndarray,
    wanted: Run,
    strategy: str,
    distinct: float = 1.0,
    before: np.ndarray | None = None,
) -> np.ndarray:
    """Places of the rows that a strategy which measures nothing picks, its budget spread over the groups `cluster` (n,).

    Args:
        before: (groups,) examples of each that the first round picked, if this is the second.
    """
    from selection.config import SelectConfig
    from selection.strategy import Budget, Candidates, PastRound, allocate, select

    by, power, explore = SPREAD[strategy]
    nothing = np.full(len(keys), np.nan)
    candidates = Candidates(keys, cluster, np.ones(len(keys), dtype=np.int64), nothing, nothing)
    budget = Budget("examples", min(wanted["budget"], len(keys)))
    config = SelectConfig(strategy="random" if by is None else "size", temperature=power, explore=explore)
    if strategy in (CLUSTERS, PROPORTIONAL):
        config = SelectConfig(strategy="default" if strategy == CLUSTERS else "proportional", explore=explore)
    seeds, past = (wanted["seed"], 1), ()
    if before is not None:
        unknown = np.full(len(before), np.nan)
        seeds, past = (wanted["seed"], 2), (PastRound(unknown, unknown, before),)
        if by is not None:  # shares of both rounds together, as the defaults over groups divide them
            config = config.model_copy(update={"allocation": "even"})
    quotas = allocate(candidates, budget, config, seeds, past, distinct=distinct)
    return select(candidates, quotas, budget, config, seeds).picked


def in_two_rounds(keys: np.ndarray, cluster: np.ndarray, wanted: Run, strategy: str) -> np.ndarray:
    """Places that the strategy picks in two rounds of half the budget each: those of the first round, then those that the second picks
    among the others."""
    half = {**wanted, "budget": wanted["budget"] // 2}
    first = spread(keys, cluster, half, strategy)
    rest = np.setdiff1d(np.arange(len(keys)), first)
    before = np.bincount(cluster[first], minlength=int(cluster.max()) + 1)
    return np.concatenate([first, rest[spread(keys[rest], cluster[rest], half, strategy, before=before)]])
