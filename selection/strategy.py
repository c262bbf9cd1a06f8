"""Strategies by name, and the three steps of a selection: quotas, what must be measured to fill them, picks with reasons.

    losses of a sample ──allocate──▶ quotas ──shortlist──▶ measure ──select──▶ picks, and why not the others

All three are deterministic, depend on the examples' keys and not on the order of rows, and take O(n) memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from selection.allocate import ALLOCATIONS, Situation, largest_remainder
from selection.candidates import OUTCOMES, Budget, Candidates, Quotas, Selection, Strategy
from selection.config import SelectConfig
from selection.errors import SelectionError, SelectionUsageError, nearest_name
from selection.fill import prefix_within
from selection.losses import cluster_losses
from selection.pick import PICKERS, most_suspects, suspects
from selection.ranked import clusters_in_random_order, explain, rank_clusters, take_examples, take_tokens

__all__ = [
    "OUTCOMES",
    "STRATEGIES",
    "Budget",
    "Candidates",
    "Quotas",
    "Selection",
    "Strategy",
    "allocate",
    "needs_losses",
    "registry",
    "resolve",
    "select",
    "shortlist",
]

STRATEGIES: dict[str, Strategy] = {
    "default": Strategy(
        "loss", "random", "clusters by what the current adapter gets wrong, random inside, likely noise cut"
    ),
    "random": Strategy("random", "random", "uniform over the whole pool, no clusters: the control", tail_cut=0.0),
    "uniform": Strategy(
        "uniform", "random", "every cluster alike, random inside: strong on uneven pools", tail_cut=0.0
    ),
    "size": Strategy(
        "size", "random", "clusters by the square root of their size, random inside", temperature=0.5, tail_cut=0.0
    ),
    "top": Strategy("loss", "top", "clusters by loss, inside the highest scores of each length, likely noise cut"),
    "mid": Strategy("loss", "mid", "clusters by loss, inside the middle of the scores, likely noise cut"),
}


def registry(kind: str) -> Mapping[str, Any]:
    """The names that `kind` ("strategy", "allocation", "picker") can take, with what each stands for."""
    return {"strategy": STRATEGIES, "allocation": ALLOCATIONS, "picker": PICKERS}[kind]


def resolve(config: SelectConfig) -> Strategy:
    """The strategy that a config names, with the config's overrides.

    Raises:
        SelectionUsageError: an unknown name; the message names the nearest known one.
    """
    for kind in ("strategy", "allocation", "picker"):
        name = getattr(config, kind)
        if name is not None and name not in registry(kind):
            raise SelectionUsageError(f"select.{kind}: {nearest_name(kind, name, registry(kind))}")
    overrides = {name: value for name, value in config if name != "strategy" and value is not None}
    return replace(STRATEGIES[config.strategy], **overrides)


def needs_losses(config: SelectConfig) -> bool:
    """Whether anything this strategy does depends on measured losses; if not, nothing need be measured."""
    strategy = resolve(config)
    return strategy.allocation == "loss" or strategy.tail_cut > 0 or PICKERS[strategy.picker].uses_score


def allocate(candidates: Candidates, budget: Budget, config: SelectConfig, seed_parts: Sequence[int]) -> Quotas:
    """Divide the budget over the clusters, from the losses measured so far.

    Args:
        candidates: n selectable examples; a random sample of them has a loss.
        seed_parts: non-negative integers, for example (seed, round).

    Raises:
        SelectionError: more examples asked for than can be selected once the tail cut has had its share, or fewer tokens than
            the shortest example has.
    """
    strategy = resolve(config)
    candidates = candidates.take(np.argsort(candidates.keys, kind="stable"))
    losses = cluster_losses(candidates)
    capacity = _capacity(candidates, losses.size, budget, strategy)
    total = min(budget.amount, int(capacity.sum()))
    situation = Situation(candidates, losses, budget, capacity, total, strategy, tuple(seed_parts))
    weights = ALLOCATIONS[strategy.allocation](situation)
    quota = largest_remainder(weights.weight, total, capacity)
    share = weights.weight / max(float(weights.weight.sum()), np.finfo(float).tiny)
    reason = [
        _quota_reason(weights.reason[c], share[c], budget, int(quota[c]), int(capacity[c]), int(losses.size[c]))
        for c in range(len(quota))
    ]
    return Quotas(quota, reason, losses.mean, losses.stderr, losses.expected, losses.measured, share, budget.unit)


def _capacity(candidates: Candidates, size: np.ndarray, budget: Budget, strategy: Strategy) -> np.ndarray:
    """What each cluster can surely give (k,). The tail cut only shrinks it by what it can take once all is measured, so that
    quotas made from a sample can be met after more has been measured."""
    if budget.unit == "tokens":
        if budget.amount < candidates.tokens.min():
            raise SelectionError(
                f"budget: {budget.amount} tokens are fewer than the shortest selectable example has "
                f"({candidates.tokens.min()}); raise the budget."
            )
        return np.bincount(candidates.cluster, weights=candidates.tokens, minlength=len(size)).astype(np.int64)
    capacity = size - most_suspects(size, strategy.tail_cut)
    if budget.amount > capacity.sum():
        cut = int(size.sum() - capacity.sum())
        held_back = f", {cut} of which the tail cut may hold back as suspected noise" if cut else ""
        remedy = ", set select.tail_cut=0" if cut else ""
        raise SelectionError(
            f"budget: {budget.amount} examples asked for, but only {len(candidates)} can be selected{held_back}. "
            f"Ask for at most {capacity.sum()}{remedy} or add data to the pool."
        )
    return capacity


def _quota_reason(reason: str, share: float, budget: Budget, quota: int, capacity: int, size: int) -> str:
    if size == 0:
        return "no selectable example"
    full = "; all it can give" if quota == capacity else ""
    return f"{reason}; weight {share:.1%} of {budget.amount} {budget.unit}{full}"


def shortlist(candidates: Candidates, quotas: Quotas, config: SelectConfig, seed_parts: Sequence[int]) -> np.ndarray:
    """Candidates that must be measured before `select`, and are not yet.

    A picker that ranks by score chooses among `shortlist_factor` times its quota, drawn at random. The random picker needs
    what it will draw; without a tail cut it needs nothing measured. Both get spares for what the tail cut may take of it.

    Returns:
        (m,) int64 rows of the candidates, ascending.
    """
    strategy = resolve(config)
    measured_by = (candidates.loss, candidates.score) if PICKERS[strategy.picker].uses_score else (candidates.loss,)
    known = ~np.any([np.isnan(values) for values in measured_by], axis=0)
    wanted = [np.empty(0, dtype=np.int64)]
    for c, rows in clusters_in_random_order(candidates, seed_parts):
        if quotas.quota[c] > 0:
            rows = rows[~suspects(candidates.loss[rows], strategy.tail_cut)]
            wanted.append(rows[: _depth(candidates.tokens[rows], int(quotas.quota[c]), quotas.unit, strategy)])
    rows = np.sort(np.concatenate(wanted))
    return rows[~known[rows]]


def _depth(tokens: np.ndarray, quota: int, unit: str, strategy: Strategy) -> int:
    """How many of a cluster's examples, in random order, must be measured."""
    by_score = PICKERS[strategy.picker].uses_score
    if not by_score and strategy.tail_cut == 0:
        return 0
    amount = math.ceil((strategy.shortlist_factor if by_score else 1.0) * quota)
    count = amount if unit == "examples" else prefix_within(tokens, amount) + 1
    return math.ceil((count - 1) / (1 - strategy.tail_cut)) + 1  # so many that `count` are left after the cut


def select(
    candidates: Candidates, quotas: Quotas, budget: Budget, config: SelectConfig, seed_parts: Sequence[int]
) -> Selection:
    """Pick inside the quotas.

    Args:
        candidates: the ones that `allocate` saw, now with the shortlist measured. quotas: from `allocate`, for this budget.

    Returns:
        For a budget of examples exactly as many; for tokens never more, and so that no candidate left would still fit
        (unless it is held back by the tail cut).

    Raises:
        SelectionError: the quotas were made for other candidates or another budget, or nothing fits a token budget.
    """
    strategy = resolve(config)
    _check_quotas(candidates, quotas, budget)
    ranked = rank_clusters(candidates, strategy, seed_parts)
    take = take_examples if budget.unit == "examples" else take_tokens
    picks = take(ranked, candidates.tokens, quotas.quota, budget.amount)
    picked = np.array([ranked[c].rows[i] for c, i in picks], dtype=np.int64)
    if not len(picked):
        raise SelectionError(f"budget: no selectable example fits into {budget.amount} tokens; raise the budget.")
    outcome = np.full(len(candidates), "quota_full", dtype=object)
    for c, cluster in ranked.items():
        if quotas.quota[c] == 0:
            outcome[cluster.rows] = "no_quota"
        outcome[cluster.suspects] = "tail_cut"
    outcome[picked] = "selected"
    spent = len(picked) if budget.unit == "examples" else int(candidates.tokens[picked].sum())
    return Selection(picked, explain(ranked, picks, candidates.loss), outcome, budget.amount - spent)


def _check_quotas(candidates: Candidates, quotas: Quotas, budget: Budget) -> None:
    total = int(quotas.quota.sum())
    expected = budget.amount if budget.unit == "examples" else min(budget.amount, int(candidates.tokens.sum()))
    if total != expected or quotas.unit != budget.unit or len(quotas.quota) != candidates.clusters:
        raise SelectionError(
            f"quotas: expected those of {candidates.clusters} clusters for {budget.amount} {budget.unit}, "
            f"found {len(quotas.quota)} for {total} {quotas.unit}."
        )
