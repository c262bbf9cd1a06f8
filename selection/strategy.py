"""The steps of a selection: quotas, then picks with reasons; and what a strategy needs for them.

    losses of a sample ──allocate──▶ quotas ──shortlist──▶ measure ──select──▶ picks, and an outcome for every candidate

`shortlist` is in selection/shortlist.py. All steps are deterministic, depend on the examples' keys and not on the order of rows, and
take O(n) memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from selection.allocate import Situation, largest_remainder
from selection.candidates import OUTCOMES, Budget, Candidates, PastRound, Quotas, Selection, Strategy, Vectors
from selection.config import SelectConfig
from selection.errors import PoolUsedUp, SelectionError, SelectionUsageError, nearest_name
from selection.fill import prefix_within
from selection.losses import cluster_losses
from selection.pick import most_suspects
from selection.ranked import explain, in_exploring_order, pick_examples, pick_tokens, rank_groups, tail_cut
from selection.registry import ALLOCATIONS, PICKERS, STRATEGIES, registry

__all__ = [
    "OUTCOMES",
    "Budget",
    "Candidates",
    "PastRound",
    "Quotas",
    "Selection",
    "Strategy",
    "Vectors",
    "aims",
    "allocate",
    "by_default",
    "measures",
    "needs_losses",
    "resolve",
    "select",
    "vectors_needed",
]


def resolve(config: SelectConfig) -> Strategy:
    """The strategy that a config names, with the parameters that the config overrides.

    Raises:
        SelectionUsageError: an unknown name; the message suggests the nearest known one.
    """
    for kind in ("strategy", "allocation", "picker"):
        name = getattr(config, kind)
        if name is not None and name not in registry(kind):
            raise SelectionUsageError(f"select.{kind}: {nearest_name(kind, name, registry(kind))}")
    overrides = {name: value for name, value in config if name != "strategy" and value is not None}
    return replace(STRATEGIES[config.strategy], **overrides)


def needs_losses(config: SelectConfig, number: int) -> bool:
    """Whether this strategy uses any measurement in round `number`; if not, the round need not measure."""
    strategy = resolve(config)
    picker, allocation = PICKERS[strategy.picker], ALLOCATIONS[strategy.allocation]
    by_allocation = allocation.uses_losses(number) and not picker.whole_pool
    return by_allocation or _ranks_by_measurements(strategy)


def can_do_without_losses(config: SelectConfig) -> bool:
    """Whether only an optional allocation (see `Allocation.optional`) uses losses, so that a round may skip measuring."""
    strategy = resolve(config)
    return ALLOCATIONS[strategy.allocation].optional and not _ranks_by_measurements(strategy)


def _ranks_by_measurements(strategy: Strategy) -> bool:
    picker = PICKERS[strategy.picker]
    return strategy.tail_cut > 0 or picker.uses_score or bool(picker.vectors - {"embedding", "hidden_states"})


def measures(config: SelectConfig) -> frozenset[str]:
    """The measurements that the picker's vectors come from: a part of "pooled" and "gradient", as in selection.scores."""
    return PICKERS[resolve(config).picker].vectors & {"pooled", "gradient"}


def by_default(config: SelectConfig) -> bool:
    """Whether the config uses the default strategy unchanged. With a target, a round then selects for the target."""
    return config.strategy == "default" and config.allocation is None and config.picker is None


def aims(config: SelectConfig) -> bool:
    """Whether the picker or the allocation needs a target."""
    strategy = resolve(config)
    return PICKERS[strategy.picker].aims or _allocation_aims(strategy)


def _allocation_aims(strategy: Strategy) -> bool:
    return ALLOCATIONS[strategy.allocation].aims and not PICKERS[strategy.picker].whole_pool


def vectors_needed(config: SelectConfig) -> frozenset[str]:
    """Names of the `Candidates.vectors` that the picker or the allocation reads; a round passes no others."""
    strategy = resolve(config)
    return PICKERS[strategy.picker].vectors | ({"embedding"} if _allocation_aims(strategy) else set())


def allocate(
    candidates: Candidates,
    budget: Budget,
    config: SelectConfig,
    seed_parts: Sequence[int],
    past: Sequence[PastRound] = (),
    distinct: float = 1.0,
) -> Quotas:
    """Divide the budget over the clusters, from the losses measured so far. A picker of the whole pool gets one undivided quota.

    Args:
        candidates: n selectable examples; a random sample of them has a loss.
        seed_parts: non-negative integers, for example (seed, round).
        past: earlier rounds, oldest first.
        distinct: how distinct the clusters are, 0 to 1 (`selection.cluster.distinctness`).

    Raises:
        SelectionError: the budget has more examples than can be selected after the tail cut, or fewer tokens than the shortest
            example.
    """
    strategy = resolve(config)
    _check_vectors(candidates, strategy, vectors_needed(config) & {"embedding"})
    candidates = candidates.take(np.argsort(candidates.keys, kind="stable"))
    explored = _explore(candidates, budget, strategy, seed_parts)
    open_ = candidates.trusted & ~explored
    left = _left(budget, candidates, explored)
    losses = cluster_losses(candidates)
    size = np.bincount(candidates.cluster[open_], minlength=candidates.clusters)
    capacity = _capacity(candidates, open_, size, budget, left, strategy)
    if PICKERS[strategy.picker].whole_pool:
        capacity, share = capacity.sum(keepdims=True), np.ones(1)
        reason, formula = ["one quota: the picker ranks the whole pool"], [""]
    else:
        total = min(left, int(capacity.sum()))
        situation = Situation(
            candidates,
            open_,
            size,
            losses,
            budget.unit,
            capacity,
            total,
            strategy,
            tuple(seed_parts),
            tuple(past),
            distinct,
        )
        weights = ALLOCATIONS[strategy.allocation].weigh(situation)
        share = weights.weight / max(float(weights.weight.sum()), np.finfo(float).tiny)
        reason, formula = weights.reason, weights.formula or [""] * len(share)
    quota = largest_remainder(share, min(left, int(capacity.sum())), capacity)
    if not PICKERS[strategy.picker].whole_pool:
        clusters = range(len(quota))
        reason = [_quota_reason(reason[c], int(quota[c]), int(capacity[c]), int(size[c])) for c in clusters]
        weight = [f"weight {share[c]:.1%} of {left} {budget.unit}" for c in clusters]
        formula = [f"{formula[c]}; {weight[c]}" if formula[c] else weight[c] for c in clusters]
    return Quotas(
        quota,
        reason,
        formula,
        losses.mean,
        losses.stderr,
        losses.expected,
        losses.measured,
        share,
        budget.unit,
        candidates.keys[explored],
    )


def _explore(candidates: Candidates, budget: Budget, strategy: Strategy, seed_parts: Sequence[int]) -> np.ndarray:
    """(n,) bool: the random examples of the whole pool that take the strategy's `explore` share of the budget."""
    explored = np.zeros(len(candidates), dtype=bool)
    amount = math.floor(strategy.explore * min(budget.amount, 2**53))
    if amount > 0:
        rows = in_exploring_order(candidates, candidates.trusted, seed_parts)
        count = amount if budget.unit == "examples" else prefix_within(candidates.tokens[rows], amount)
        explored[rows[:count]] = True
    return explored


def _left(budget: Budget, candidates: Candidates, explored: np.ndarray) -> int:
    return budget.amount - int(explored.sum() if budget.unit == "examples" else candidates.tokens[explored].sum())


def _capacity(
    candidates: Candidates, open_: np.ndarray, size: np.ndarray, budget: Budget, left: int, strategy: Strategy
) -> np.ndarray:
    """(k,) the most that each cluster's quota can be. It leaves out the most that the tail cut can take once everything is measured, so
    quotas set from a sample can be met after more is measured."""
    if not candidates.trusted.any():
        raise PoolUsedUp("every selectable example is held back as suspected noise; set noise.hold=false.")
    if budget.unit == "tokens":
        if budget.amount < candidates.tokens[candidates.trusted].min():
            raise PoolUsedUp(
                f"budget: expected at least {candidates.tokens[candidates.trusted].min()} tokens, which the shortest selectable "
                f"example has, found {budget.amount}; raise the budget."
            )
        return np.bincount(candidates.cluster[open_], weights=candidates.tokens[open_], minlength=len(size)).astype(
            np.int64
        )
    trusted = np.bincount(candidates.cluster[candidates.trusted], minlength=len(size))
    capacity = np.maximum(size - most_suspects(trusted, strategy.tail_cut), 0)
    if left > capacity.sum():
        at_most = int(capacity.sum()) + budget.amount - left
        held = len(candidates) - int(candidates.trusted.sum())
        cut = len(candidates) - held - at_most
        why = [f"{held} of which are held back as suspected noise"] * (held > 0)
        why += [f"{cut} of which the tail cut may hold back"] * (cut > 0)
        remedy = ", set select.tail_cut=0" * (cut > 0) + ", set noise.hold=false" * (held > 0)
        raise PoolUsedUp(
            f"budget: {budget.amount} examples asked for, but only {len(candidates)} can be selected"
            f"{''.join(', ' + reason for reason in why)}. Ask for at most {at_most}{remedy} or add data to the pool."
        )
    return capacity


def _quota_reason(reason: str, quota: int, capacity: int, size: int) -> str:
    if size == 0:
        return "no selectable example"
    return reason + ("; the most it can have" if quota == capacity else "")


def select(
    candidates: Candidates, quotas: Quotas, budget: Budget, config: SelectConfig, seed_parts: Sequence[int]
) -> Selection:
    """Pick inside the quotas.

    Args:
        candidates: those that `allocate` got, now with the shortlist measured.
        quotas: from `allocate`, for this budget.

    Returns:
        For a budget of examples, exactly as many picks. For tokens, at most as many, and no other candidate would still fit, unless it
        is held back.

    Raises:
        SelectionError: the quotas are for other candidates or another budget, or no example fits a token budget.
    """
    strategy = resolve(config)
    _check_vectors(candidates, strategy, vectors_needed(config))
    explored = np.isin(candidates.keys, quotas.explored)
    left = _left(budget, candidates, explored)
    _check_quotas(candidates, quotas, budget, explored, left)
    ranked = rank_groups(candidates, explored, quotas, strategy, seed_parts)
    pick = pick_examples if budget.unit == "examples" else pick_tokens
    picks = pick(ranked, candidates.tokens, quotas.quota, left)
    picked = np.array([ranked[c].rows[i] for c, i in picks], dtype=np.int64)
    if not len(picked):
        raise PoolUsedUp(f"budget: no selectable example fits into {budget.amount} tokens; raise the budget.")
    outcome = np.full(len(candidates), "quota_full", dtype=object)
    if not PICKERS[strategy.picker].whole_pool:
        outcome[np.append(quotas.quota, 0)[candidates.cluster] == 0] = "no_quota"
    outcome[tail_cut(candidates, strategy)] = "tail_cut"
    outcome[~candidates.trusted] = "suspected_noise"
    outcome[picked] = "selected"
    spent = len(picked) if budget.unit == "examples" else int(candidates.tokens[picked].sum())
    return Selection(picked, explain(candidates, ranked, picks), outcome, budget.amount - spent)


def _check_vectors(candidates: Candidates, strategy: Strategy, names: Iterable[str]) -> None:
    for name in sorted(names):
        if name not in candidates.vectors:
            raise SelectionError(f"picker {strategy.picker}: expected {name} vectors of the candidates, found none.")
        aimed = PICKERS[strategy.picker].aims or (name == "embedding" and _allocation_aims(strategy))
        if aimed and candidates.vectors[name].targets is None:
            who = f"picker {strategy.picker}" if PICKERS[strategy.picker].aims else f"allocation {strategy.allocation}"
            raise SelectionError(f"{who}: expected {name} vectors of a target, found none; name a target.")


def _check_quotas(candidates: Candidates, quotas: Quotas, budget: Budget, explored: np.ndarray, left: int) -> None:
    total = int(quotas.quota.sum())
    if budget.unit == "examples":
        expected = left
    else:
        expected = min(left, int(candidates.tokens[candidates.trusted & ~explored].sum()))
    clusters = len(quotas.loss_mean)
    if total != expected or quotas.unit != budget.unit or clusters != candidates.clusters:
        raise SelectionError(
            f"quotas: expected those of {candidates.clusters} clusters for {left} {budget.unit}, "
            f"found {clusters} for {total} {quotas.unit}."
        )
