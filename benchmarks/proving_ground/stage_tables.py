"""Tables of docs/selection.md for single stages: other projects' rules, rounds, other budgets, targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.proving_ground import aiming, by_loss, labelling, peer_picks, target_figures
from benchmarks.proving_ground.ground import BUDGET, CLUSTERS, KIND, ORACLE, WITH, Cell, Ground
from benchmarks.proving_ground.planning import EARLY, GOAL, ROUNDS, in_rounds
from benchmarks.proving_ground.targets import LIST

Column = tuple[str, int, str, int]
"""A strategy at a budget, and what it is compared with."""
SEVERAL = (WITH, KIND, CLUSTERS, ORACLE)
"""What was played at several budgets."""


def stage_tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Markdown by stage: targets, peers, rounds, losses, labels, budgets, goal. A stage without rows has an empty text."""
    ground = Ground(rows)
    played = [name for name in peer_picks.STRATEGIES if any(len(ground.values(cell, name)) for cell in ground.cells)]
    peers = [(name, BUDGET, "random", BUDGET) for name in (*played, WITH, KIND)]
    rounds = [(in_rounds(name, ROUNDS), BUDGET, name, BUDGET) for name in ("random", WITH, KIND)]
    second = [(in_rounds(WITH, 2), 2 * EARLY, in_rounds("random", 2), 2 * EARLY)]
    losses = [(name, BUDGET, base, BUDGET) for name, (base, _) in by_loss.OVER.items()]
    asked = [(name, labelling.BUDGET, "random", labelling.BUDGET) for name in (*labelling.STRATEGIES, KIND)]
    smaller = [
        _table(ground, f"At {budget:,} examples, less random", [(name, budget, "random", budget) for name in SEVERAL])
        for budget in (300, 4000)
    ]
    return {
        "targets": _targets(rows),
        "peers": _table(
            ground, "Other projects' rules at 1,000 examples, less random", peers, LIST["noisy_pools"], len(played)
        ),
        "rounds": _joined(
            _table(ground, "Four rounds that continue one adapter, less the same picks in one round", rounds),
            _table(
                ground,
                f"Two rounds of {EARLY} where the first left it open whether selecting pays, less random",
                second,
            ),
        ),
        "losses": _table(ground, "The base model's losses on top of kinds, less the same kinds without them", losses),
        "labels": _table(
            ground,
            f"{labelling.BUDGET} answers asked for by each rule, less {labelling.BUDGET} to random prompts",
            asked,
            labelling.POOLS,
            len(labelling.STRATEGIES),
        ),
        "budgets": _joined(*smaller),
        "goal": _goal(ground),
    }


def _joined(*texts: str) -> str:
    return "\n\n".join(filter(None, texts))


def difference(ground: Ground, cell: Cell, column: Column, key: str = "macro_nll") -> np.ndarray:
    """(seeds,) of the strategy less what it is compared with, over the seeds that both have."""
    ours, theirs = (ground.of(cell, *of) for of in (column[:2], column[2:]))
    return np.array([ours[seed][key] - theirs[seed][key] for seed in sorted(ours.keys() & theirs.keys())])


def _text(nll: np.ndarray, matches: np.ndarray) -> str:
    if not len(nll):
        return "–"
    error = f" ± {stats.sem(nll):.3f}" if len(nll) > 1 else ""
    return f"{nll.mean():+.3f}{error} ({len(nll)})<br>{100 * matches.mean():+.1f}"


def _table(
    ground: Ground, title: str, columns: Sequence[Column], pools: Sequence[str] | None = None, needed: int | None = None
) -> str:
    """One row a model and pool that played any of the first `needed` columns (None: of all); macro NLL ± standard error (seeds), exact
    match in points."""
    lines = []
    for cell in ground.cells:
        entries = [_text(difference(ground, cell, c), difference(ground, cell, c, "macro_em")) for c in columns]
        if set(entries[:needed]) - {"–"} and (pools is None or cell[1] in pools):
            lines.append(f"| {', '.join(cell)} | " + " | ".join(entries) + " |")
    if not lines:
        return ""
    head = f"{title}: macro NLL ± standard error (seeds), and macro exact match in points."
    names = " | ".join(name for name, *_ in columns)
    return "\n".join([head, "", f"| model, pool | {names} |", "|" + "---|" * (len(columns) + 1), *lines])


def _goal(ground: Ground) -> str:
    """One row a model and pool that was compared task by task at BUDGET, tasks counting as they do in the pool."""
    lines = []
    for cell in ground.cells:
        entries = []
        for name in GOAL:
            less = [
                row["paired"]["of_pool"] for row in ground.of(cell, name).values() if "of_pool" in row.get("paired", {})
            ]
            entries.append(_text(*(np.array([of_run[key] for of_run in less]) for key in ("nll", "em"))))
        if set(entries) != {"–"}:
            lines.append(f"| {', '.join(cell)} | " + " | ".join(entries) + " |")
    if not lines:
        return ""
    head = (
        f"Each task weighted by its share of the pool, {BUDGET:,} examples, less random: NLL ± standard error (seeds), and exact match in "
        "points."
    )
    return "\n".join([head, "", f"| model, pool | {' | '.join(GOAL)} |", "|" + "---|" * (len(GOAL) + 1), *lines])


def _targets(rows: list[dict[str, Any]]) -> str:
    """One row a model and target: random's NLL, and each strategy less random."""
    runs, names = target_figures.runs_of(rows), aiming.STRATEGIES[1:]
    lines = []
    for model, target in sorted({cell for cell, _ in runs}):
        entries = []
        for name in names:
            both = (target_figures.differences(runs, name, "random", key=key) for key in ("macro_nll", "macro_em"))
            entries.append(_text(*(found.get((model, target), np.zeros(0)) for found in both)))
        of = LIST["targets"][target]
        random = [row["macro_nll"] for row in runs.get(((model, target), "random"), {}).values()]
        shown = f"{np.mean(random):.3f}" if random else "–"
        if set(entries) == {"–"}:
            continue
        lines.append(f"| {model}, {target}: {of['pool_has']}, {of['pool']} | {shown} | " + " | ".join(entries) + " |")
    if not lines:
        return ""
    head = "Targets: macro NLL of random on the test rows; each strategy less random ± standard error (seeds), exact match in points."
    return "\n".join(
        [head, "", f"| model, target | random | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2), *lines]
    )
