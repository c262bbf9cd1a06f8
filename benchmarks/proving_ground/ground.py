"""Runs of the record by cell, budget and strategy, and what is read off random's curve."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROWS, SUMMARY = RESULTS / "proving_ground.json", RESULTS / "proving_ground_summary.json"
BUDGET, BUDGETS = 1000, (300, 1000, 2000, 4000, 8000, 16000)
CORE = ("qwen-0.5b", "smollm2-135m")
"""The models that played all pools; rows of others are shown by themselves."""
WITH, WITHOUT = "source_kinds", "default without sources"
"""The default where rows carry sources, and where they do not: KIND on pools whose kinds are uneven, CLUSTERS on the others."""
KIND, CLUSTERS = "kind_uniform, 25% random", "clusters, by distinctness"
PROPORTIONAL, POWER = "proportional", "clusters, size ^ 0.75"
"""Clusters of embeddings in proportion to their size, the default of `goal: pool`, and to a power of it."""
ORACLE = "oracle_size"
BOUNDS = (0.1, 2.0)
TARGETS = json.loads(Path(__file__).with_name("pools.json").read_text())["targets"]
"""Runs on these are no cells: target_figures.py has them."""
Row = dict[str, Any]
Cell = tuple[str, str]


class Ground:
    """Rows of one kind of noise at the tuned learning rate on test, by (model, pool), budget and strategy, each {seed: row}.

    `uneven`: pools whose kinds of prompt are uneven, on which the default without sources is KIND.
    """

    def __init__(
        self, rows: list[Row], noise: str = "none", models: Sequence[str] | None = None, uneven: Collection[str] = ()
    ):
        self.runs: dict[tuple[Cell, int, str], dict[int, Row]] = defaultdict(dict)
        for row in rows:
            if row["split"] != "test" or row.get("noise", "none") != noise or row["pool"] in TARGETS:
                continue
            if models is not None and row["model"] not in models:
                continue
            cell, budget = (row["model"], row["pool"]), row["budget"]
            self.runs[cell, budget, row["strategy"]][row["seed"]] = row
            if row["strategy"] == (KIND if row["pool"] in uneven else CLUSTERS):
                self.runs[cell, budget, WITHOUT][row["seed"]] = row
        self.cells = sorted({cell for cell, _, _ in self.runs})
        self.strategies = sorted({strategy for _, _, strategy in self.runs})

    def of(self, cell: Cell, strategy: str, budget: int = BUDGET) -> dict[int, Row]:
        """{seed: row}."""
        return self.runs.get((cell, budget, strategy), {})

    def values(self, cell: Cell, strategy: str, key: str = "macro_nll", budget: int = BUDGET) -> np.ndarray:
        """(seeds,) of one measure."""
        return np.array([row[key] for _, row in sorted(self.of(cell, strategy, budget).items())])

    def gain(self, cell: Cell, strategy: str, key: str = "macro_nll") -> np.ndarray:
        """(seeds,) random less the strategy, of the seeds that both have; of exact match the strategy less random."""
        ours, theirs = (self.of(cell, name) for name in (strategy, "random"))
        sign = 1 if key.endswith("nll") else -1
        return np.array([sign * (theirs[s][key] - ours[s][key]) for s in sorted(ours.keys() & theirs.keys())])

    def written(self, cell: Cell, strategy: str, budget: int) -> np.ndarray:
        """(seeds,) share of right written answers, of runs that wrote some."""
        found = [row.get("generated_em") for row in self.of(cell, strategy, budget).values()]
        return np.array([value for value in found if value is not None])

    def curve(self, cell: Cell) -> list[tuple[int, float]]:
        """(examples, mean macro NLL) of random."""
        found = [(b, self.values(cell, "random", budget=b)) for b in BUDGETS]
        return [(b, float(v.mean())) for b, v in found if len(v)]

    def share(self, cell: Cell, nll: float, budget: int = BUDGET) -> float | None:
        """Of random's examples, the part that a budget with this macro NLL is; None without a curve."""
        curve = self.curve(cell)
        return None if len(curve) < 2 else float(np.clip(budget / examples_for(curve, nll), *BOUNDS))

    def headroom(self, cell: Cell) -> bool:
        """Whether the oracle gains at least two standard errors."""
        gain = self.gain(cell, ORACLE)
        return len(gain) > 1 and bool(gain.mean() >= 2 * stats.sem(gain))


def examples_for(curve: list[tuple[int, float]], nll: float) -> float:
    """How many random examples reach `nll`: log-linear between the points of the curve, its end pieces continued."""
    size, value = np.log([b for b, _ in curve]), np.minimum.accumulate([v for _, v in curve])
    piece = int(np.clip(np.searchsorted(-value, -nll) - 1, 0, len(curve) - 2))
    slope = min((value[piece + 1] - value[piece]) / (size[piece + 1] - size[piece]), -1e-6)
    return float(np.exp(np.clip(size[piece] + (nll - value[piece]) / slope, 0, 16)))


def figure(
    value: float | None, low: float | None = None, high: float | None = None, seeds: int | None = None, note: str = ""
) -> dict[str, Any]:
    """One entry of the summary."""
    rounded = [None if x is None else round(float(x), 4) for x in (value, low, high)]
    entry = dict(zip(("value", "low", "high"), rounded, strict=True)) | {"seeds": seeds}
    return entry | ({"note": note} if note else {})


def drawn(
    cells: Sequence[Cell], seed: int, times: int = 1000
) -> Iterator[tuple[list[Cell], np.random.Generator | None]]:
    """The cells and None; then, `times` times, the cells of as many pools drawn again with what draws seeds inside them.

    Pools are drawn, not cells: models on one pool are not independent.
    """
    of_pool: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        of_pool[cell[1]].append(cell)
    pools, rng = sorted(of_pool), np.random.default_rng(seed)
    yield list(cells), None
    for _ in range(times):
        yield [cell for i in rng.integers(len(pools), size=len(pools)) for cell in of_pool[pools[i]]], rng


def mean_of(values: np.ndarray, rng: np.random.Generator | None) -> float:
    """Mean of (seeds,) values, or of as many drawn again."""
    return float((values if rng is None else rng.choice(values, len(values))).mean())


def pool_means(found: Mapping[Cell, np.ndarray]) -> np.ndarray:
    """(pools,) means, each of its models' means over seeds."""
    of_pool: dict[str, list[float]] = defaultdict(list)
    for (_, pool), values in found.items():
        of_pool[pool].append(float(np.mean(values)))
    return np.array([np.mean(of_models) for of_models in of_pool.values()])


def over_pools(found: Mapping[Cell, np.ndarray], scale: float = 1.0, named: str = "pools") -> dict[str, Any]:
    """Mean over pools (or targets), each the mean of its models, with a 95% interval by t over them."""
    means = scale * pool_means(found)
    if len(means) < 2:
        return figure(None, note="not measured")
    half = stats.t.ppf(0.975, len(means) - 1) * stats.sem(means)
    note = f"{len(means)} {named}, {', '.join(sorted({model for model, _ in found}))}"
    return figure(means.mean(), means.mean() - half, means.mean() + half, min(map(len, found.values())), note)
