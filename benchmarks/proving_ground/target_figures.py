"""What the runs with a target say: each strategy less another, over targets that the pool holds, holds kin of, or knows nothing like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.proving_ground import aiming
from benchmarks.proving_ground.ground import over_pools
from benchmarks.proving_ground.targets import LIST

HAS = ("held", "kin", "absent")
Row = dict[str, Any]
Cell = tuple[str, str]
Runs = dict[tuple[Cell, str], dict[int, Row]]


def runs_of(rows: Iterable[Row]) -> Runs:
    """The runs on targets by (model, target), strategy and seed."""
    found: Runs = defaultdict(dict)
    for row in rows:
        if row["pool"] in LIST["targets"] and row["split"] == "test":
            found[(row["model"], row["pool"]), row["strategy"]][row["seed"]] = row
    return found


def differences(
    runs: Runs, ours: str, theirs: str, has: str | None = None, key: str = "macro_nll"
) -> dict[Cell, np.ndarray]:
    """By (model, target): (seeds,) of what `ours` measures less `theirs`, over the seeds that both have; targets of kind `has`."""
    found = {}
    for cell in sorted({cell for cell, _ in runs}):
        if has is None or LIST["targets"][cell[1]]["pool_has"] == has:
            a, b = runs.get((cell, ours), {}), runs.get((cell, theirs), {})
            seeds = sorted(a.keys() & b.keys())
            if seeds:
                found[cell] = np.array([a[seed][key] - b[seed][key] for seed in seeds])
    return found


def mean_over(found: dict[Cell, np.ndarray], scale: float = 1.0) -> dict[str, Any]:
    """Mean over targets, each the mean of its models, with a 95% interval by t: models on one target are not independent."""
    return over_pools(found, scale, "targets")


def figures(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """`target_minus_rds`, the default less RDS+ over the whole pool; the same for the strategy chosen on the other targets; and by kind of
    target every strategy less random and less RDS+."""
    runs = runs_of(rows)
    parts: dict[str, Any] = {}
    for has in HAS:
        for strategy in aiming.STRATEGIES[1:]:
            values = {"minus random": mean_over(differences(runs, strategy, "random", has))}
            values["exact match minus random, points"] = mean_over(
                differences(runs, strategy, "random", has, "macro_em"), 100
            )
            if strategy != "rds":
                values["minus rds"] = mean_over(differences(runs, strategy, "rds", has))
            if any(entry["value"] is not None for entry in values.values()):
                parts[f"{has}, {strategy}"] = values
    parts["chosen on the other targets, minus rds"] = mean_over(chosen_elsewhere(runs))
    return {"target_minus_rds": mean_over(differences(runs, aiming.DEFAULT, "rds"))} | (
        {"targets": parts} if runs else {}
    )


def chosen_elsewhere(runs: Runs) -> dict[Cell, np.ndarray]:
    """Leave one target out: by (model, target), what the strategy that is best on the other targets gains there over RDS+.

    Only strategies that were played wherever RDS+ was take part. Best is the lowest mean over targets of NLL less random's.
    """
    every = differences(runs, "rds", "random")
    full = {name: differences(runs, name, "random") for name in aiming.STRATEGIES[1:]}
    full = {name: found for name, found in full.items() if found.keys() >= every.keys()}
    chosen = {}
    for cell in every:
        others = [other for other in every if other[1] != cell[1]]
        if others:
            best = min(full, key=lambda name: np.mean([full[name][other].mean() for other in others]))
            chosen[cell] = differences(runs, best, "rds")[cell]
    return chosen
