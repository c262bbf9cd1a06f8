"""What the runs of the proving ground say, by name: `proving_ground_summary.json` out of `proving_ground.json`.

    python benchmarks/proving_ground/summary.py

A pool has headroom for a model where the oracle (hidden tasks by the square root of their size) gains at least two standard errors over
random. Share: the budget over the examples that random needs for the same macro NLL, read off random's own curve (log-linear,
continued beyond its ends), kept within 0.1 to 2. Intervals are over pools, because two models on one pool are not independent; those of
shares also over seeds. Figures that no run measured are null.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground import cost, near, target_figures
from benchmarks.proving_ground.ground import (
    BOUNDS,
    BUDGET,
    BUDGETS,
    CLUSTERS,
    CORE,
    KIND,
    ORACLE,
    ROWS,
    SUMMARY,
    WITH,
    WITHOUT,
    Cell,
    Ground,
    Row,
    drawn,
    examples_for,
    figure,
    mean_of,
    over_pools,
    pool_means,
)
from benchmarks.proving_ground.planning import EARLY, GOAL
from selection.config import KindsConfig


def geometric_share(ground: Ground, cells: list[Cell], strategy: str) -> dict[str, Any]:
    """Geometric mean of the shares over cells, with a 95% interval by drawing pools and, inside them, seeds again."""
    cells = [cell for cell in cells if len(ground.values(cell, strategy)) and ground.share(cell, 1.0) is not None]
    if not cells:
        return figure(None, note="not measured")
    logs = [
        np.mean([np.log(ground.share(cell, mean_of(ground.values(cell, strategy), rng))) for cell in of_draw])
        for of_draw, rng in drawn(cells, 0)
    ]
    low, high = np.percentile(logs[1:], [2.5, 97.5])
    seeds = min(len(ground.values(cell, strategy)) for cell in cells)
    return figure(
        np.exp(logs[0]),
        np.exp(low),
        np.exp(high),
        seeds,
        f"{len(cells)} cells of {', '.join(sorted({m for m, _ in cells}))}",
    )


def oracle_part(ground: Ground, strategy: str, model: str | None = None) -> dict[str, Any]:
    """Sum of the strategy's gains over the sum of the oracle's, all cells (of a model); each gain over the seeds shared with random."""
    pairs = {}
    for cell in ground.cells:
        ours, most = ground.gain(cell, strategy), ground.gain(cell, ORACLE)
        if len(ours) and len(most) and model in (None, cell[0]):
            pairs[cell] = (ours, most)
    if not pairs:
        return figure(None, note="not measured")
    found = []
    for of_draw, _ in drawn(list(pairs), 1):
        ours, most = (sum(pairs[cell][i].mean() for cell in of_draw) for i in (0, 1))
        found.append(ours / most)
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return figure(found[0], low, high, min(len(ours) for ours, _ in pairs.values()))


def longer_share(ground: Ground, model: str, strategy: str, budget: int = 4000) -> dict[str, Any]:
    """The share on evals at `budget`; the interval is that of the mean over seeds, random's curve taken as it is."""
    cell = (model, "evals")
    values = ground.values(cell, strategy, budget=budget)
    if not len(values) or ground.share(cell, 1.0) is None:
        return figure(None, note="not measured")
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else 0.0
    mean = float(values.mean())
    shares = [ground.share(cell, nll, budget) for nll in (mean, mean - half, mean + half)]
    most = max(b for b, _ in ground.curve(cell))
    beyond = "" if ground.curve(cell)[-1][1] <= mean else f"; random's curve is continued beyond {most:,} examples"
    return figure(*shares, len(values), f"{model}, {strategy}{beyond}")


def worse_cells(ground: Ground, strategy: str) -> dict[str, Any]:
    """Cells and measures in which the strategy is worse than random by Holm-corrected paired t-tests, one-sided."""
    tests = []
    for cell in ground.cells:
        for key in ("macro_nll", "macro_em"):
            gain = ground.gain(cell, strategy, key)
            if len(gain) > 2:
                p = float(stats.ttest_1samp(gain, 0, alternative="less").pvalue)
                tests.append((1.0 if np.isnan(p) else p, cell, strategy, key))  # NaN: every difference is the same
    tests.sort()
    worse = []
    for i, test in enumerate(tests):
        if test[0] * (len(tests) - i) >= 0.05:
            break
        worse.append(test)
    entry = figure(
        len(worse),
        seeds=min((len(ground.gain(c, s)) for _, c, s, _ in tests), default=None),
        note=f"of {len(tests)} tests",
    )
    return entry | {
        "which": [f"{c[0]}, {c[1]}, {k}" for _, c, _, k in worse],
        "uncorrected": sum(p < 0.05 for p, *_ in tests),
    }


def written_share(
    ground: Ground, strategy: str, budget: int = BUDGET, of: Collection[Cell] | None = None
) -> dict[str, Any]:
    """Geometric mean over cells, or those `of` them, of the budget over the examples that random needs for as many right written
    answers."""
    shares, drawn_at = {}, []
    for cell in ground.cells if of is None else of:
        known = [(b, ground.written(cell, "random", b)) for b in BUDGETS]
        curve = [(b, -float(v.mean())) for b, v in known if len(v)]
        drawn_at += [len(v) for b, v in known if len(v) and b != budget]
        ours = ground.written(cell, strategy, budget)
        if len(curve) > 1 and len(ours):
            shares[cell] = (budget, curve, ours)
    cells = list(shares)
    if not cells:
        return figure(None, note="not measured")
    logs = []
    for of_draw, rng in drawn(cells, 2):
        found = []
        for cell in of_draw:
            budget, curve, ours = shares[cell]
            found.append(np.log(np.clip(budget / examples_for(curve, -mean_of(ours, rng)), *BOUNDS)))
        logs.append(np.mean(found))
    low, high = np.percentile(logs[1:], [2.5, 97.5])
    seeds = min(len(ours) for _, _, ours in shares.values())
    models = ", ".join(sorted({model for model, _ in cells}))
    note = f"{len(cells)} cells of {models}; seeds of random at other budgets: {min(drawn_at)}"
    return figure(np.exp(logs[0]), np.exp(low), np.exp(high), seeds, note)


def noisy_difference(rows: list[Row], strategy: str, uneven: Collection[str]) -> dict[str, Any]:
    """Strategy less random on pools with wrong answers or near copies: macro NLL, mean over pools, each that of its kinds of noise and
    models; with a 95% interval and p of a t-test over the pools."""
    found, played = {}, False
    for noise in ("inside", "exchanged", near.NOISE):
        ground = Ground(rows, noise, CORE, uneven)
        gains = {cell: gain for cell in ground.cells if len(gain := ground.gain(cell, strategy))}
        found |= {(f"{model}, {noise}", pool): -gain for (model, pool), gain in gains.items()}
        played |= noise == near.NOISE and bool(gains)
    entry = over_pools(found)
    if entry["value"] is None:
        return entry
    means = pool_means(found)
    p = float(stats.ttest_1samp(means, 0, alternative="less").pvalue)
    note = f"{strategy}, {len(means)} pools, {len(found)} cells, p = {p:.2g}"
    return entry | {"note": note + ("" if played else "; near-duplicates not played")}


def wrong_answers(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Recall and precision over all models and pools, Wilson's 95% intervals."""
    pools = [entry for of_model in found.values() for entry in of_model.values()]
    if not pools:
        return {
            name: figure(None, note="not measured yet") for name in ("wrong_answers_recall", "wrong_answers_precision")
        }
    wrong, suspected, right = (sum(entry[key] for entry in pools) for key in ("wrong", "suspected", "found"))
    result = {}
    for name, of in (("recall", wrong), ("precision", suspected)):
        interval = stats.binomtest(right, of).proportion_ci(method="wilson")
        result[f"wrong_answers_{name}"] = figure(right / of, interval.low, interval.high, 3, f"{right} of {of} rows")
    return result


def summarize(document: dict[str, Any]) -> dict[str, Any]:
    """The whole summary."""
    kinds = document.get("kinds", {})
    uneven = {pool for pool, entry in kinds.items() if entry.get("unevenness", 0) >= KindsConfig().uneven}
    ground = Ground(document["rows"], models=CORE, uneven=uneven)
    other = Ground(document["rows"], models=sorted({row["model"] for row in document["rows"]} - {*CORE}), uneven=uneven)
    with_headroom = [cell for cell in ground.cells if ground.headroom(cell)]
    missing = figure(None, note="not measured yet")
    values = [entry["ami"] for entry in kinds.values()]
    without_headroom = [cell for cell in ground.cells if cell not in with_headroom]
    return {
        "evals_4000_share": longer_share(ground, "smollm2-135m", WITH),
        **_figures(ground, with_headroom, WITH, "oracle_gain_with_sources"),
        "oracle_gain_without_sources": oracle_part(ground, WITHOUT),
        "without_sources": {
            name: {
                **_figures(ground, with_headroom, strategy, "oracle_gain"),
                **_worse(ground, without_headroom, strategy),
            }
            for name, strategy in (
                ("default", WITHOUT),
                ("kinds everywhere", KIND),
                ("clusters, the former default", CLUSTERS),
            )
        },
        "by_model": {
            model: {
                name: _figures(ground, [c for c in with_headroom if c[0] == model], strategy, "oracle_gain", model)
                for name, strategy in (("with_sources", WITH), ("without_sources", WITHOUT))
            }
            for model in CORE
        },
        "other_models": {
            f"{model}, {name}": mean_difference(other, [c for c in other.cells if c[0] == model], strategy)
            for model in sorted({model for model, _ in other.cells})
            for name, strategy in (("with sources", WITH), ("kinds", KIND))
        },
        "cells": len(ground.cells),
        "cells_with_headroom": [f"{model}, {pool}" for model, pool in with_headroom],
        **_worse(ground, without_headroom, WITH),
        "kinds_ami": figure(
            np.mean(values),
            min(values),
            max(values),
            min(e.get("seeds", 3) for e in kinds.values()),
            "mean, lowest and highest of the pools",
        )
        if values
        else missing,
        "noisy_mean_difference": noisy_difference(document["rows"], WITH, uneven),
        "noisy_mean_difference_without_sources": noisy_difference(document["rows"], KIND, uneven),
        **wrong_answers(document.get("wrong_answers", {})),
        "generated_em_share_1000": written_share(ground, WITH),
        "generated_em_share_1000_with_headroom": written_share(ground, WITH, of=with_headroom),
        "generated_em_share_1000_without_sources": written_share(ground, KIND),
        **target_figures.figures(document["rows"]),
        **cost.figures(ground, with_headroom, WITH, document.get("base_nll", {})),
        "first_rounds_by_goal": by_goal(ground, WITH, EARLY),
        **_at_budget(ground),
    }


def by_goal(ground: Ground, strategy: str, budget: int) -> dict[str, Any]:
    """`goal_difference` with tasks alike and in the pool's mix, in NLL and in exact match."""
    return {
        f"{name}, {key}": goal_difference(ground, key, part, strategy, budget)
        for name, part in (("tasks alike", None), ("the pool's mix", "of_pool"))
        for key in ("nll", "em")
    }


def _at_budget(ground: Ground) -> dict[str, Any]:
    """`by_goal` of the strategies that were compared at BUDGET."""
    played = [s for s in GOAL if any("paired" in row for c in ground.cells for row in ground.of(c, s).values())]
    return {f"by_goal_{BUDGET}": {strategy: by_goal(ground, strategy, BUDGET) for strategy in played}} if played else {}


def _worse(ground: Ground, without_headroom: list[Cell], strategy: str) -> dict[str, Any]:
    return {
        "cells_worse_than_random": worse_cells(ground, strategy),
        "without_headroom_mean_difference": mean_difference(ground, without_headroom, strategy),
    }


def _figures(
    ground: Ground, with_headroom: list[Cell], strategy: str, gain: str, model: str | None = None
) -> dict[str, Any]:
    """Shares and the part of the oracle's gain, all cells or those of a model."""
    cells = [cell for cell in ground.cells if model in (None, cell[0])]
    return {
        "share_geometric_mean_1000": geometric_share(ground, with_headroom, strategy),
        "share_geometric_mean_all_pools": geometric_share(ground, cells, strategy),
        gain: oracle_part(ground, strategy, model),
        "macro_em_points": mean_difference(ground, cells, strategy, "macro_em"),
    }


def mean_difference(ground: Ground, cells: list[Cell], strategy: str, key: str = "macro_nll") -> dict[str, Any]:
    """Strategy less random, mean over the pools of these cells, with a 95% interval by t over pools; nats of NLL, points of exact match."""
    found = {cell: gain for cell in cells if len(gain := ground.gain(cell, strategy, key))}
    return over_pools(found, -1 if key.endswith("nll") else 100)


def goal_difference(
    ground: Ground, key: str, part: str | None, strategy: str = WITH, budget: int = EARLY
) -> dict[str, Any]:
    """Strategy less random with so many examples, mean over pools, with a 95% interval by t over the pools; nats, or points.

    Args:
        part: "of_pool" counts a task as the pool does, None every task alike.
    """
    found = {}
    for cell in ground.cells:
        runs = [run["paired"] for run in ground.of(cell, strategy, budget).values() if "paired" in run]
        values = [run[part][key] if part else run[key][0] for run in runs if part is None or part in run]
        if values:
            found[cell] = np.array(values)
    return over_pools(found, 100 if key == "em" else 1)


def main() -> None:
    """Write the summary."""
    summary = summarize(json.loads(ROWS.read_text()))
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
