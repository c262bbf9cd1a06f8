"""What becomes of a selection when somebody who read it drops, pins and bans examples, or changes quotas.

Picks that nobody objects to stay. A place that becomes free goes to the next candidate of the same strategy in the same cluster,
and what a cluster can no longer take goes to the other clusters in proportion to what they have. The order of the next ones is a
function of the proposal alone, so one change more never reshuffles what another one brought in.
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
"""A picker ranks twice a cluster's quota and so many more; what lies deeper follows in any order."""
_NO_KEYS = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class Change:
    """What a review asks for. `dropped`, `pinned`, `banned`: (m,) uint64 keys, of candidates or not. `quotas`: by cluster, the most
    that shall be picked of it, in the budget's unit."""

    dropped: np.ndarray = field(default_factory=lambda: _NO_KEYS)
    pinned: np.ndarray = field(default_factory=lambda: _NO_KEYS)
    banned: np.ndarray = field(default_factory=lambda: _NO_KEYS)
    quotas: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """A selection as proposed, and who comes next.

    `picked`, `step`, `outcome`: as in `Selection`, of `candidates`. `ranked`: who could take a freed place, by cluster, best first (by
    0 alone for a picker of the whole pool). `place` (n,): place in that order, -1 for those held back.
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
        """(n,) what each candidate takes of the budget."""
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
    """The selection that `selection.strategy.select` made of these, with the order of those who come next. Costs a selection again."""

    strategy = resolve(config)
    spare = SPARE_EXAMPLES * (1 if quotas.unit == "examples" else int(candidates.tokens.mean()))
    deeper = replace(quotas, quota=2 * quotas.quota + spare)
    nobody = np.zeros(len(candidates), dtype=bool)
    ranked = rank_groups(candidates, nobody, deeper, strategy, seed_parts)
    place = np.full(len(candidates), -1, dtype=np.int64)
    for group in ranked.values():
        place[group.rows] = np.arange(len(group.rows))
    whole_pool = PICKERS[strategy.picker].whole_pool
    return Proposal(candidates, budget, selection.picked, selection.step, selection.outcome, ranked, place, whole_pool)


def revise(proposal: Proposal, change: Change) -> Selection:
    """The selection after the change. Deterministic; without a change it is the proposal.

    Budgets of examples are met exactly, budgets of tokens never exceeded. All that is pinned is in, nothing dropped or banned is;
    a quota that was set is exceeded by pins only. Outcomes as of a selection, and `dropped_in_review`, `banned_in_review`.
    Picks come in the order of the proposal, then what is new: pins, then what fills freed places.

    Raises:
        SelectionError: an example is both pinned and dropped or banned, a quota or the pins ask for more than there is, or too few
            candidates are left for the budget.
    """
    keys = proposal.candidates.keys
    dropped, banned = np.isin(keys, change.dropped), np.isin(keys, change.banned)
    pinned, out = np.isin(keys, change.pinned), np.isin(keys, change.dropped) | np.isin(keys, change.banned)
    if (pinned & out).any():
        at = int(np.flatnonzero(pinned & out)[0])
        raise SelectionError(f"{keys[at]:016x} is pinned, and it is dropped or banned too; take one of them back.")
    group = _groups(proposal, change)
    target = _targets(proposal, change, group, pinned, out)
    kept = _keep(proposal, group, target, pinned, out)
    new_pins = np.setdiff1d(np.flatnonzero(pinned), proposal.picked)
    taken = np.concatenate([kept, new_pins])
    filled = _fill(proposal, change, group, target, taken, out)
    back = np.isin(
        filled, proposal.picked
    )  # of tokens, one that was proposed may be what fits best into what its pins left
    kept = proposal.picked[np.isin(proposal.picked, np.concatenate([kept, filled[back]]))]
    filled = filled[~back]
    picked = np.concatenate([kept, new_pins, filled])
    if not len(picked):
        raise SelectionError("nothing is left to be picked; take back a drop, a ban or a quota.")
    spent = int(proposal.amount[picked].sum())
    outcome = proposal.outcome.copy()
    outcome[outcome == "selected"] = "quota_full"
    outcome[dropped], outcome[banned & ~dropped] = DROPPED, BANNED
    outcome[picked] = "selected"
    return Selection(
        picked, _reasons(proposal, kept, new_pins, filled, pinned), outcome, proposal.budget.amount - spent
    )


def _groups(proposal: Proposal, change: Change) -> np.ndarray:
    """(n,) the candidates that share an amount: those of a cluster, or all of the whole pool but for the clusters given a quota."""
    cluster = proposal.candidates.cluster
    if not proposal.whole_pool:
        return cluster
    return np.where(np.isin(cluster, list(change.quotas)), cluster, proposal.candidates.clusters)


def _targets(proposal: Proposal, change: Change, group: np.ndarray, pinned: np.ndarray, out: np.ndarray) -> np.ndarray:
    """(groups,) what each shall have: the quota that was set, else as much as proposed, in proportion to that where the sum is not
    the budget; never less than what is pinned of it."""
    k, amount, budget = proposal.candidates.clusters + 1, proposal.amount, proposal.budget

    def of_group(rows: np.ndarray) -> np.ndarray:
        return np.bincount(group[rows], weights=amount[rows], minlength=k).astype(np.int64)

    can = (proposal.place >= 0) | pinned
    can[proposal.picked] = True
    capacity, floor, weight = of_group(can & ~out), of_group(pinned), of_group(proposal.picked)
    target, fixed = np.zeros(k, dtype=np.int64), np.zeros(k, dtype=bool)
    for c, quota in change.quotas.items():
        if quota > (capacity[c] if c < k - 1 else 0) and budget.unit == "examples":
            has = int(capacity[c]) if c < k - 1 else 0
            raise SelectionError(
                f"cluster {c}: a quota of {quota} is asked for, but only {has} of its examples can be picked."
            )
        if c < k - 1:
            target[c], fixed[c] = max(quota, int(floor[c])), True
    while True:
        left = budget.amount - int(target[fixed].sum())
        if left < 0:
            raise SelectionError(
                f"budget: the quotas that were set and the pinned examples ask for {budget.amount - left:,} {budget.unit}, "
                f"the budget is {budget.amount:,}; lower a quota or take back a pin."
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
            f"budget: {missing:,} of {budget.amount:,} places cannot be filled, nothing is left that is neither dropped, banned nor over a "
            "quota that was set; take some of that back, or start the round with a lower budget."
        )
    return target


def _keep(proposal: Proposal, group: np.ndarray, target: np.ndarray, pinned: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Rows of the proposal that stay, in its order: all that is pinned, and of each group the first that fit beside its pins."""
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
    """Rows that take the freed places, group by group: the next ones of each, then for tokens whatever still fits."""
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
    lines += [f"pinned in review; as proposed it was left out: {name.replace('_', ' ')}" for name in before]
    at = [0] * len(filled) if proposal.whole_pool else proposal.candidates.cluster[filled].tolist()
    next_ones = list(zip(at, proposal.place[filled].tolist(), strict=True))
    if next_ones:
        lines += [
            f"{why}; fills a place freed in review" for why in explain(proposal.candidates, proposal.ranked, next_ones)
        ]
    return lines
