"""Dev and test."""

from __future__ import annotations

import numpy as np
import pytest

from selection.errors import SelectionError
from selection.holdout import DEV, NEW, POOL, SHADOW, TEST, hold_out

N = 600
KEYS = np.sort(np.random.default_rng(1).integers(0, 2**63, N, dtype=np.uint64))
SOURCES = np.random.default_rng(2).choice(["a", "b", "c", "rare"], N, p=[0.6, 0.25, 0.14, 0.01])
ALONE = np.arange(N)


def split(dev=40, test=80, keys=KEYS, sources=SOURCES, representative=ALONE, trainable=None, kept=None, seed=0):
    trainable = np.ones(len(keys), bool) if trainable is None else trainable
    return hold_out(keys, sources, representative, trainable, dev, test, seed, kept)


def test_sizes_are_met_exactly_as_counts_or_shares():
    assert [(split() == side).sum() for side in (DEV, TEST)] == [40, 80]
    assert [(split(dev=0.1, test=0.25) == side).sum() for side in (DEV, TEST)] == [60, 150]


def test_each_source_gives_in_proportion_as_scikit_learn_would():
    from sklearn.model_selection import train_test_split

    held = split(dev=0, test=150) == TEST
    _, expected = train_test_split(ALONE, test_size=150, stratify=SOURCES, random_state=0)
    for source in np.unique(SOURCES):
        assert abs((held & (SOURCES == source)).sum() - (SOURCES[expected] == source).sum()) <= 1


def test_order_of_rows_does_not_matter_and_the_seed_does():
    order = np.random.default_rng(3).permutation(N)
    assert (split(keys=KEYS[order], sources=SOURCES[order]) == split()[order]).all()
    assert (split(seed=1) != split()).any()


def test_trap_20_near_duplicate_groups_are_on_one_side():
    representative = np.arange(N) // 3 * 3
    sides = split(representative=representative)
    for first in range(0, N, 3):
        group = sides[first : first + 3]
        assert group.tolist() in ([POOL] * 3, [DEV, SHADOW, SHADOW], [TEST, SHADOW, SHADOW])


def test_only_trainable_examples_are_held_out():
    trainable = np.arange(N) % 2 == 0
    assert (split(trainable=trainable)[~trainable] == POOL).all()


def test_a_grown_pool_keeps_what_was_held_out_and_adds_only_new_groups():
    old = np.arange(N) % 3 != 0
    first = split(keys=KEYS[old], sources=SOURCES[old], representative=np.arange(old.sum()), dev=0.1, test=0.1)
    kept = np.full(N, NEW)
    kept[old] = first
    grown = split(kept=kept, dev=0.1, test=0.1)
    assert (grown[old] == first).all()
    assert (grown == TEST).sum() == 60 and (grown[~old] == TEST).sum() == 60 - (first == TEST).sum()


def test_a_new_near_duplicate_of_what_may_be_trained_on_is_never_held_out():
    kept = np.where(np.arange(N) % 2 == 0, POOL, NEW)
    with pytest.raises(SelectionError, match="may have been trained on"):
        split(kept=kept, representative=np.arange(N) // 2 * 2)


def test_a_holdout_that_leaves_nothing_is_refused_with_the_numbers():
    with pytest.raises(
        SelectionError, match="dev 300 and test 300 ask for 600 .* the pool has 600, so they leave nothing"
    ):
        split(dev=300, test=300)


def test_no_holdout_at_all_is_allowed():
    assert (split(dev=0, test=0) == POOL).all()
