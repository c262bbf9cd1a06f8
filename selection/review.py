"""Revise a selection after a review drops, pins or bans examples, or changes quotas.

Picks without objection stay. A freed place goes to the strategy's next candidate in the same cluster. The part of the budget that a
cluster can no longer take goes to the other clusters, in proportion to their picks. The order of the next candidates depends on the
proposal alone, so a further change does not replace the candidates that an earlier change added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from selection.allocate import largest_remainder
from selection.candidates import Budget, Candidates, Quotas, Selection
from selection.config import SelectConfig
from selection.errors import SelectionError
from selection.fill import fill_tokens, prefix_within
from selection.ranked import RankedGroup, explain, rank_groups
from selection.registry import PICKERS
from selection.strategy import resolve

DROPPED, BANNED = "dropped_in_review", "banned_in_review"
SPARE_EXAMPLES = 16
"""For a review, a picker ranks twice a cluster's quota plus this many; the rest follows in any order."""
_NO_KEYS = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class Change:
    """The changes of a review.

    `dropped`, `pinned`, `banned`: (m,) uint64 keys, not necessarily of candidates. `quotas`: new quotas by cluster, in the budget's unit;
    each is the most to pick from its cluster.
    """

    dropped: np.ndarray = field(default_factory=lambda: _NO_KEYS)
    pinned: np.ndarray = field(default_factory=lambda: _NO_KEYS)
    banned: np.ndarray = field(default_factory=lambda: _NO_KEYS)
    quotas: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """A proposed selection and the candidates that come next.

    `picked`, `step`, `outcome`: as in `Selection`. `ranked`: for each cluster the candidates for a freed place, best first; a
    picker of the whole pool has group 0 alone. `place`: (n,) int, each candidate's place in that order, -1 if held back.
    """

    candidates: Candidates
    budget: Budget
    picked: np.ndarray
    step: list[str]
    outcome: np.ndarray
    ranked: Mapping[int, RankedGroup]
    place: np.ndarray
    whole_pool: bool

    @property
    def amount(self) -> np.ndarray:
        """(n,) each candidate's part of the budget."""
        return (
            np.ones(len(self.candidates), dtype=np.int64) if self.budget.unit == "examples" else self.candidates.tokens
        )


def propose(
    candidates: Candidates,
    quotas: Quotas,
    budget: Budget,
    config: SelectConfig,
    seed_parts: tuple[int, ...],
    selection: Selection,
) -> Proposal:
    """The selection that `selection.strategy.select` made from these inputs, with the candidates that come next. Ranks again."""
    strategy = resolve(config)
    spare = SPARE_EXAMPLES * (1 if quotas.unit == "examples" else int(candidates.tokens.mean()))
    deeper = replace(quotas, quota=2 * quotas.quota + spare)
    unexplored = np.zeros(len(candidates), dtype=bool)
    ranked = rank_groups(candidates, unexplored, deeper, strategy, seed_parts)
    place = np.full(len(candidates), -1, dtype=np.int64)
    for group in ranked.values():
        place[group.rows] = np.arange(len(group.rows))
    whole_pool = PICKERS[strategy.picker].whole_pool
    return Proposal(candidates, budget, selection.picked, selection.step, selection.outcome, ranked, place, whole_pool)


def revise(proposal: Proposal, change: Change) -> Selection:
    """The selection after the change. It is deterministic; without a change it equals the proposal.

    Budgets of examples are met exactly, budgets of tokens are never exceeded. Pinned examples are picked, dropped and banned ones are not.
    Only pins can exceed a changed quota. The outcomes are those of a selection, plus `dropped_in_review` and `banned_in_review`. Picks
    keep the order of the proposal; new pins follow, then the examples that fill freed places.

    Raises:
        SelectionError: an example is pinned and also dropped or banned; a quota or the pins exceed the candidates or the budget; or too few
            candidates are left for the budget.
    """
    keys = proposal.candidates.keys
    dropped, banned = np.isin(keys, change.dropped), np.isin(keys, change.banned)
    pinned, out = np.isin(keys, change.pinned), np.isin(keys, change.dropped) | np.isin(keys, change.banned)
    if (pinned & out).any():
        at = int(np.flatnonzero(pinned & out)[0])
        raise SelectionError(f"{keys[at]:016x} is pinned and also dropped or banned; undo one of the two.")
    group = _groups(proposal, change)
    target = _targets(proposal, change, group, pinned, out)
    kept = _keep(proposal, group, target, pinned, out)
    new_pins = np.setdiff1d(np.flatnonzero(pinned), proposal.picked)
    taken = np.concatenate([kept, new_pins])
    filled = _fill(proposal, change, group, target, taken, out)
    back = np.isin(
        filled, proposal.picked
    )  # with a budget of tokens, a proposed example may fill the part that its cluster's pins left
    kept = proposal.picked[np.isin(proposal.picked, np.concatenate([kept, filled[back]]))]
    filled = filled[~back]
    picked = np.concatenate([kept, new_pins, filled])
    if not len(picked):
        raise SelectionError("no candidate is left to pick; undo a drop, a ban or a quota.")
    spent = int(proposal.amount[picked].sum())
    outcome = proposal.outcome.copy()
    outcome[outcome == "selected"] = "quota_full"
    outcome[dropped], outcome[banned & ~dropped] = DROPPED, BANNED
    outcome[picked] = "selected"
    return Selection(
        picked, _reasons(proposal, kept, new_pins, filled, pinned), outcome, proposal.budget.amount - spent
    )


def _groups(proposal: Proposal, change: Change) -> np.ndarray:
    """(n,) the group of each candidate that shares one target: its cluster, or for a picker of the whole pool one common group for all
    clusters without a changed quota."""
    cluster = proposal.candidates.cluster
    if not proposal.whole_pool:
        return cluster
    return np.where(np.isin(cluster, list(change.quotas)), cluster, proposal.candidates.clusters)


def _targets(proposal: Proposal, change: Change, group: np.ndarray, pinned: np.ndarray, out: np.ndarray) -> np.ndarray:
    """(groups,) the target of each: its changed quota, or its proposed amount, scaled so that all sum to the budget; at least its pins."""
    k, amount, budget = proposal.candidates.clusters + 1, proposal.amount, proposal.budget

    def of_group(rows: np.ndarray) -> np.ndarray:
        """(groups,) sum of the amounts at `rows`."""
        return np.bincount(group[rows], weights=amount[rows], minlength=k).astype(np.int64)

    can = (proposal.place >= 0) | pinned
    can[proposal.picked] = True
    capacity, floor, weight = of_group(can & ~out), of_group(pinned), of_group(proposal.picked)
    target, fixed = np.zeros(k, dtype=np.int64), np.zeros(k, dtype=bool)
    for c, quota in change.quotas.items():
        if quota > (capacity[c] if c < k - 1 else 0) and budget.unit == "examples":
            has = int(capacity[c]) if c < k - 1 else 0
            raise SelectionError(
                f"group {c}: the quota is {quota}, but only {has} of its examples can be picked; lower the quota."
            )
        if c < k - 1:
            target[c], fixed[c] = max(quota, int(floor[c])), True
    while True:
        left = budget.amount - int(target[fixed].sum())
        if left < 0:
            raise SelectionError(
                f"budget: the changed quotas and the pinned examples need {budget.amount - left:,} {budget.unit}, "
                f"the budget is {budget.amount:,}; lower a quota or undo a pin."
            )
        room = np.where(fixed, 0, capacity)
        target[~fixed] = largest_remainder(np.where(fixed, 0, weight), min(left, int(room.sum())), room)[~fixed]
        short = ~fixed & (target < floor)
        if not short.any():
            break
        target[short], fixed = floor[short], fixed | short
    missing = budget.amount - int(target.sum())
    if missing > 0 and budget.unit == "examples":
        raise SelectionError(
            f"budget: {missing:,} of {budget.amount:,} places cannot be filled, because all other candidates are dropped, banned or over a "
            "changed quota; undo some of these changes, or start the round with a lower budget."
        )
    return target


def _keep(proposal: Proposal, group: np.ndarray, target: np.ndarray, pinned: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The rows of the proposal that stay, in its order: its pins, and from each group the first that fit next to the pins."""
    amount, rows = proposal.amount, proposal.picked
    left = target - np.bincount(group[pinned], weights=amount[pinned], minlength=len(target)).astype(np.int64)
    free = rows[~pinned[rows] & ~out[rows]]
    stays = pinned.copy()
    order = np.argsort(group[free], kind="stable")
    bounds = np.flatnonzero(np.diff(group[free][order])) + 1
    for part in np.split(free[order], bounds) if len(free) else []:
        stays[part[: prefix_within(amount[part], int(left[group[part[0]]]))]] = True
    return rows[stays[rows]]


def _fill(
    proposal: Proposal, change: Change, group: np.ndarray, target: np.ndarray, taken: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """The rows that fill freed places: the next candidates of each group; for a budget of tokens, then any that still fit."""
    amount, budget = proposal.amount, proposal.budget
    used = np.bincount(group[taken], weights=amount[taken], minlength=len(target)).astype(np.int64)
    open_ = (proposal.place >= 0) & ~out
    open_[taken] = False
    rows = np.flatnonzero(open_)
    rows = rows[np.lexsort((proposal.candidates.keys[rows], proposal.place[rows], group[rows]))]
    parts = np.split(rows, np.flatnonzero(np.diff(group[rows])) + 1) if len(rows) else []
    names = [int(group[part[0]]) for part in parts]
    room = np.array([max(0, int(target[g] - used[g])) for g in names], dtype=np.int64)
    limited = [c in change.quotas for c in names]
    parts = [
        p[: prefix_within(amount[p], int(r))] if stop else p for p, r, stop in zip(parts, room, limited, strict=True)
    ]
    if budget.unit == "examples":
        chosen = [part[: int(r)] for part, r in zip(parts, room, strict=True)]
        return np.concatenate([*chosen, np.empty(0, dtype=np.int64)])
    left = budget.amount - int(amount[taken].sum())
    picks, _ = fill_tokens([amount[part] for part in parts], np.minimum(room, left), left)
    return np.array([parts[c][i] for c, i in picks], dtype=np.int64)


def _reasons(
    proposal: Proposal, kept: np.ndarray, new_pins: np.ndarray, filled: np.ndarray, pinned: np.ndarray
) -> list[str]:
    said = dict(zip(proposal.picked.tolist(), proposal.step, strict=True))
    lines = [said[row] + ("; pinned in review" if pinned[row] else "") for row in kept.tolist()]
    before = proposal.outcome[new_pins].tolist()
    lines += [f"pinned in review; the proposal left it out: {name.replace('_', ' ')}" for name in before]
    at = [0] * len(filled) if proposal.whole_pool else proposal.candidates.cluster[filled].tolist()
    next_ones = list(zip(at, proposal.place[filled].tolist(), strict=True))
    if next_ones:
        lines += [
            f"{why}; fills a place freed in review" for why in explain(proposal.candidates, proposal.ranked, next_ones)
        ]
    return lines
