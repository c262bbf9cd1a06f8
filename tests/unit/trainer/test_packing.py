"""Packing: properties that hold for any lengths, and a plain best-fit decreasing to compare with."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import CheckpointError, DataError, TrainerError
from trainer.packing import PLANNERS, STRETCH, PackPlan, plan_length_sorted, plan_packs

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


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


@pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS)
@settings(max_examples=400, deadline=None)
@given(case=documents())
def test_every_document_is_in_one_pack_and_no_pack_is_over_capacity(planner, case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    plan = planner(np.array(lengths, dtype=np.int64), capacity)
    assert sorted(plan.members.tolist()) == list(range(len(lengths)))
    assert plan.offsets[0] == 0 and plan.offsets[-1] == len(lengths) and (np.diff(plan.offsets) > 0).all()
    assert all(load <= capacity for load in loads(plan, lengths))
    packs = [np.array(lengths)[plan.members[a:b]] for a, b in zip(plan.offsets, plan.offsets[1:], strict=False)]
    assert all((np.diff(pack) <= 0).all() for pack in packs)
    assert len(plan) >= -(-sum(lengths) // capacity)
    assert plan.efficiency == (sum(lengths) / (len(plan) * capacity) if lengths else 1.0)


@settings(max_examples=400, deadline=None)
@given(documents())
def test_it_leaves_the_free_space_of_plain_best_fit_decreasing(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    plan = plan_packs(np.array(lengths, dtype=np.int64), capacity)
    assert sorted(capacity - load for load in loads(plan, lengths)) == sorted(naive_packs(lengths, capacity))


@pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS)
@settings(max_examples=100, deadline=None)
@given(case=documents())
def test_the_plan_depends_on_the_lengths_alone(planner, case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    one, two = (planner(np.array(lengths, dtype=dtype), capacity) for dtype in (np.int32, np.int64))
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
@pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS)
def test_a_document_that_cannot_be_packed_is_named(planner, lengths: list[int], named: str) -> None:
    with pytest.raises(DataError, match=named):
        planner(np.array(lengths), 16)


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


def test_sorted_batches_hold_documents_of_like_length_that_chance_brings_together() -> None:
    lengths = np.random.default_rng(1).integers(1, 200, 20_000)
    plan = plan_length_sorted(lengths, 1000)
    packs = [plan.members[a:b] for a, b in zip(plan.offsets, plan.offsets[1:], strict=False)]
    spread = np.mean([np.ptp(lengths[pack]) for pack in packs])
    assert spread < 12 < 100 < np.mean([np.ptp(lengths[i : i + 10]) for i in range(0, 20_000, 10)])
    # Lengths decrease inside a segment and start again with the next one: batches do not follow the order of all lengths.
    restarts = int((np.diff([lengths[pack[0]] for pack in packs]) > 0).sum())
    assert restarts == -(-int(lengths.sum()) // (STRETCH * 1000)) - 1
    assert all((np.diff(lengths[pack]) <= 0).all() for pack in packs)
    assert np.ptp(packs[0]) > 5_000


MILLION = """
import sys, time
import numpy as np
from trainer.packing import PLANNERS
planner, capacity = PLANNERS[sys.argv[1]], int(sys.argv[2])
lengths = np.random.default_rng(0).lognormal(np.log(200), 0.9, 1_000_000).astype(np.int64).clip(1, capacity)
started = time.process_time()
plan = planner(lengths, capacity)
# Not ru_maxrss: a child inherits the peak of the process that started it.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.process_time() - started, plan.efficiency, int(peak.split()[1]) / 2**20)
"""


@pytest.mark.parametrize(
    ("planner", "capacity", "efficiency"), [("packed", 512, 0.99), ("packed", 2048, 0.99), ("length_sorted", 512, 0.8)]
)
def test_a_million_documents_are_planned_in_seconds_and_little_memory(planner, capacity, efficiency) -> None:
    arguments = [sys.executable, "-c", MILLION, planner, str(capacity)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    seconds, found, gib = map(float, done.stdout.split())
    assert seconds < 10 and gib < 1 and found > efficiency


@pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data next to the checkout")
@pytest.mark.parametrize(("capacity", "efficiency"), [(512, 0.98), (2048, 0.99)])
def test_packs_of_p3_are_nearly_full(p3_lengths, capacity: int, efficiency: float) -> None:
    assert plan_packs(p3_lengths[p3_lengths <= capacity], capacity).efficiency >= efficiency


@pytest.fixture(scope="module")
def p3_lengths(mistral_tokenizer) -> np.ndarray:
    """Tokens of every tenth P3 example under Mistral's tokenizer; with all of them packs are fuller still."""
    with gzip.open(DATA / "p3_t0_train_50k.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in list(lines)[::10]]
    encoded = mistral_tokenizer([f"[INST] {row['prompt']} [/INST] {row['completion']}</s>" for row in rows])
    return np.array([len(ids) for ids in encoded["input_ids"]])
