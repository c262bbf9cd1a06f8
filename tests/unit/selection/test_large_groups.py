"""Orders of groups that are too large to compare every pair or to copy."""

from __future__ import annotations

import numpy as np
import pytest

from selection import submodular, turns
from selection.candidates import Vectors
from selection.submodular import facility_location
from selection.turns import round_robin
from selection.vectors import unit


@pytest.fixture(scope="module")
def group():
    """3,000 unit vectors around 80 directions whose sizes follow a power law, in random order."""
    rng = np.random.default_rng(8)
    size = 1 / np.arange(1, 81)
    topic = rng.choice(80, size=3000, p=size / size.sum())
    return unit(unit(rng.normal(size=(80, 24)))[topic] + 0.12 * rng.normal(size=(3000, 24)))


def cover(vectors, order):
    """Mean cosine of the group to its nearest taken example."""
    return float(np.maximum(vectors @ vectors[order].T, 0).max(axis=1).mean())


@pytest.fixture
def in_parts(monkeypatch):
    monkeypatch.setattr(submodular, "WHOLE", 750)
    monkeypatch.setattr(submodular, "TAKEN_OF_A_PART", 100)


@pytest.mark.parametrize("count", [40, 150, 300])
def test_a_large_group_is_covered_in_parts_almost_as_well_as_whole(group, count, monkeypatch):
    whole = facility_location(group, count).order
    monkeypatch.setattr(submodular, "WHOLE", 750)
    monkeypatch.setattr(submodular, "TAKEN_OF_A_PART", 100)
    parts = facility_location(group, count).order
    random = np.mean([cover(group, np.random.default_rng(seed).permutation(3000)[:count]) for seed in range(5)])
    lost = (cover(group, whole) - cover(group, parts)) / (cover(group, whole) - random)
    assert (parts != whole).any() and lost < 0.25 and cover(group, parts) > 0.98 * cover(group, whole)


def test_a_later_part_adds_to_what_earlier_parts_took(group, in_parts):
    """The second half repeats the first, so its parts have nothing to add but what the first ones left."""
    twice = np.concatenate([group[:750], group[:750]])
    found = facility_location(twice, 160)
    assert (found.order[:100] < 750).all() and (found.order[100:] >= 750).all()
    assert not np.isin(found.order[100:] - 750, found.order[:100]).any()
    assert found.value[100] < found.value[50]


def test_a_smaller_count_of_a_large_group_is_the_beginning_and_all_come_once(group, in_parts):
    few, many = facility_location(group, 130).order, facility_location(group, 1400).order
    assert (many[:130] == few).all()
    assert sorted(facility_location(group[:1600], 5000).order) == list(range(1600))


def test_stored_vectors_give_the_order_of_copied_ones(group, in_parts):
    row = np.random.default_rng(0).permutation(3000)
    row[[5, 900]] = -1
    stored = Vectors(group.astype(np.float16), row)
    assert (facility_location(stored, 400).order == facility_location(stored.values(), 400).order).all()
    found, copied = (round_robin(of, group[:9], 500) for of in (stored, stored.values()))
    assert (found.order == copied.order).all() and (found.target == copied.target).all()
    assert np.array_equal(found.value, copied.value)


@pytest.mark.parametrize("size", [1, 2**21])
def test_targets_take_turns_in_blocks_as_over_the_whole_matrix(group, size, monkeypatch):
    monkeypatch.setattr(turns, "BLOCK_VALUES", size)
    monkeypatch.setattr(turns, "AIMS_AT_ONCE", 3)
    targets, taken = unit(group[:7] + 0.1), []
    cosines = group.astype(np.float64) @ targets.astype(np.float64).T
    for turn in range(90):
        taken.append(next(row for row in np.argsort(-cosines[:, turn % 7], kind="stable") if row not in taken))
    assert round_robin(group, targets, 90).order.tolist() == taken
