"""Hold out dev and test: stratified by source, with every near-duplicate group on one side."""

from __future__ import annotations

import numpy as np

from selection.allocate import largest_remainder
from selection.errors import SelectionError
from selection.randomness import HOLDOUT, keyed_draw

POOL, DEV, TEST, SHADOW, NEW = 0, 1, 2, 3, -1
"""Sides of the split: selectable; held out for development; held out for reports; unused near-duplicate of a held-out example. In `kept`,
NEW marks examples that the earlier split did not contain."""


def hold_out(
    keys: np.ndarray,
    sources: np.ndarray,
    representative: np.ndarray,
    trainable: np.ndarray,
    dev: int | float,
    test: int | float,
    seed: int,
    kept: np.ndarray | None = None,
) -> np.ndarray:
    """Split a pool into selectable, dev and test examples.

    Each source gives in proportion to its distinct trainable examples (largest remainder). The draw depends on the examples' keys, so
    the order of the pool does not matter. The representative of a near-duplicate group is held out; the rest of the group becomes
    SHADOW.

    Args:
        keys: (n,) uint64.
        sources: (n,) str.
        representative: (n,) int, from `selection.dedup`.
        trainable: (n,) bool.
        dev: a count, or a share of the distinct trainable examples.
        test: as `dev`.
        kept: (n,) int, each example's side in an earlier split, or NEW. Held-out examples stay held out. The others may have been
            trained on, so only groups without any earlier example can be added.

    Returns:
        (n,) int8, the side of each example.

    Raises:
        SelectionError: too few examples to hold out as many and leave some to pick.
    """
    groups = np.flatnonzero((representative == np.arange(len(keys))) & trainable)
    split = np.full(len(keys), POOL, dtype=np.int8)
    if kept is not None:
        split[kept != NEW] = kept[kept != NEW]
        touched = np.zeros(len(keys), dtype=bool)
        touched[representative[kept != NEW]] = True
        groups = groups[~touched[groups]]
    wanted = [
        _wanted(size, split == side, _distinct(representative, trainable)) for size, side in ((dev, DEV), (test, TEST))
    ]
    _check(dev, test, wanted, len(groups), kept is not None)
    draw = keyed_draw(keys[groups], seed, HOLDOUT)
    for side, amount in zip((DEV, TEST), wanted, strict=True):
        chosen = _stratified(sources[groups], draw, amount)
        split[groups[chosen]] = side
        groups, draw = groups[~chosen], draw[~chosen]
    held = np.zeros(len(keys), dtype=bool)
    held[representative[(split == DEV) | (split == TEST)]] = True
    split[held[representative] & (split == POOL)] = SHADOW
    return split


def _distinct(representative: np.ndarray, trainable: np.ndarray) -> int:
    return int((trainable & (representative == np.arange(len(representative)))).sum())


def _wanted(size: int | float, present: np.ndarray, distinct: int) -> int:
    amount = size if isinstance(size, int) else round(size * distinct)
    return max(0, amount - int(present.sum()))


def _check(dev: int | float, test: int | float, wanted: list[int], groups: int, grown: bool) -> None:
    if sum(wanted) < groups or sum(wanted) == 0:
        return
    if grown:
        raise SelectionError(
            f"holdout: dev {dev} and test {test} need {sum(wanted)} more examples than this run first held out, but the pool has only "
            f"{groups} new ones; the others may have been trained on. Keep the sizes, or start a new run."
        )
    raise SelectionError(
        f"holdout: dev {dev} and test {test} ask for {sum(wanted)} distinct trainable examples, and the pool has {groups}, so they leave "
        "nothing to pick. Lower holdout.dev and holdout.test or add data to the pool."
    )


def _stratified(sources: np.ndarray, draw: np.ndarray, amount: int) -> np.ndarray:
    """(n,) bool: `amount` rows, in proportion to the sources, with the lowest draws of each source."""
    chosen = np.zeros(len(sources), dtype=bool)
    if amount == 0:
        return chosen
    _, stratum = np.unique(sources, return_inverse=True)
    size = np.bincount(stratum)
    quota = largest_remainder(size.astype(np.float64), amount, size)
    order = np.lexsort((draw, stratum))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    chosen[order[rank < quota[stratum[order]]]] = True
    return chosen
