"""Packing: properties that hold for any lengths, and a plain best-fit decreasing to compare with."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import CheckpointError, DataError, TrainerError
from trainer.packing import PackPlan, plan_packs


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[int], int]:
    capacity = draw(st.one_of(st.integers(1, 40), st.sampled_from([64, 100, 512, 5000])))
    length = st.one_of(st.integers(1, capacity), st.integers(1, max(1, capacity // 4)))
    return draw(st.lists(length, max_size=120)), capacity


def naive_packs(lengths: list[int], capacity: int) -> list[int]:
    """Rooms left by best-fit decreasing, tried pack by pack."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda i: rooms[i])] -= length
        else:
            rooms.append(capacity - length)
    return rooms


def loads(plan: PackPlan, lengths: list[int]) -> list[int]:
    """Tokens in each pack."""
    return [
        int(np.asarray(lengths)[plan.members[a:b]].sum()) for a, b in zip(plan.offsets, plan.offsets[1:], strict=False)
    ]


@settings(max_examples=400, deadline=None)
@given(documents())
def test_every_document_is_in_one_pack_and_no_pack_is_over_capacity(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    plan = plan_packs(np.array(lengths, dtype=np.int64), capacity)
    assert sorted(plan.members.tolist()) == list(range(len(lengths)))
    assert plan.offsets[0] == 0 and plan.offsets[-1] == len(lengths) and (np.diff(plan.offsets) > 0).all()
    assert all(load <= capacity for load in loads(plan, lengths))
    assert len(plan) >= -(-sum(lengths) // capacity)
    assert plan.efficiency == (sum(lengths) / (len(plan) * capacity) if lengths else 1.0)


@settings(max_examples=400, deadline=None)
@given(documents())
def test_it_leaves_the_rooms_that_plain_best_fit_decreasing_leaves(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    plan = plan_packs(np.array(lengths, dtype=np.int64), capacity)
    assert sorted(capacity - load for load in loads(plan, lengths)) == sorted(naive_packs(lengths, capacity))


@settings(max_examples=100, deadline=None)
@given(documents())
def test_the_plan_depends_on_the_lengths_alone(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    one, two = (plan_packs(np.array(lengths, dtype=dtype), capacity) for dtype in (np.int32, np.int64))
    assert np.array_equal(one.members, two.members) and np.array_equal(one.offsets, two.offsets)
    assert one.members.dtype == one.offsets.dtype == np.int64


def test_members_are_longest_first_and_ties_by_index() -> None:
    plan = plan_packs(np.array([3, 14, 9, 7, 6, 5, 3]), 16)
    packs = [plan.members[a:b].tolist() for a, b in zip(plan.offsets, plan.offsets[1:], strict=False)]
    assert packs == [[1], [2, 3], [4, 5, 0], [6]]


@pytest.mark.parametrize(
    ("lengths", "named"),
    [([5, 17, 3], "document 1 of 17 tokens is longer"), ([5, 0], "document 1 of 0 tokens is empty")],
)
def test_a_document_that_cannot_be_packed_is_named(lengths: list[int], named: str) -> None:
    with pytest.raises(DataError, match=named):
        plan_packs(np.array(lengths), 16)


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(TrainerError, match="at least 1 token"):
        plan_packs(np.array([1]), 0)


@pytest.mark.parametrize("lengths", [[3, 14, 9, 7, 6, 5, 3], []])
def test_a_saved_plan_opens_as_it_was(tmp_path: Path, lengths: list[int]) -> None:
    plan = plan_packs(np.array(lengths, dtype=np.int64), 16)
    plan.save(tmp_path / "plan")
    opened = PackPlan.open(tmp_path / "plan")
    assert np.array_equal(opened.members, plan.members) and np.array_equal(opened.offsets, plan.offsets)
    assert (opened.capacity, opened.efficiency, len(opened)) == (16, plan.efficiency, len(plan))


def test_a_damaged_plan_is_noticed(tmp_path: Path) -> None:
    plan_packs(np.array([3, 4]), 16).save(tmp_path)
    np.save(tmp_path / "members.npy", np.zeros(5, np.int64))
    with pytest.raises(CheckpointError, match="do not belong together"):
        PackPlan.open(tmp_path)
    (tmp_path / "packs.json").write_text("{")
    with pytest.raises(CheckpointError, match="expected a pack plan"):
        PackPlan.open(tmp_path)


@pytest.mark.parametrize("capacity", [512, 2048])
def test_a_million_documents_are_planned_in_seconds_with_little_waste(capacity: int) -> None:
    lengths = np.random.default_rng(0).lognormal(np.log(200), 0.9, 1_000_000).astype(np.int64).clip(1, capacity)
    started = time.process_time()
    plan = plan_packs(lengths, capacity)
    assert time.process_time() - started < 10
    assert plan.efficiency > 0.99
