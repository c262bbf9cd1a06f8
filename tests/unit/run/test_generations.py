"""Which prompts the models answer for the report, and what of their answers is shown."""

from __future__ import annotations

import numpy as np

from al.evaluation.generations import _shown, turns

KEYS = np.arange(1, 13, dtype=np.uint64) * np.uint64(0x1234_5678_9ABC)
SOURCES = ["a"] * 6 + ["b"] * 3 + ["c"] * 2 + ["d"]
GROUPS = ["one"] * 9 + ["two"] * 3


def test_groups_take_turns_and_inside_a_group_its_sources():
    order = turns(GROUPS, SOURCES, KEYS)
    assert sorted(order.tolist()) == list(range(12))
    first = order[:4]
    assert {GROUPS[i] for i in first[:2]} == {GROUPS[i] for i in first[2:]} == {"one", "two"}
    assert {SOURCES[i] for i in first} == {"a", "b", "c", "d"}


def test_the_order_hangs_on_the_keys_alone():
    mixed = np.random.default_rng(0).permutation(12)
    again = turns([GROUPS[i] for i in mixed], [SOURCES[i] for i in mixed], KEYS[mixed])
    assert mixed[again].tolist() == turns(GROUPS, SOURCES, KEYS).tolist()


def test_nothing_held_out_gives_no_prompt():
    assert turns([], [], np.empty(0, dtype=np.uint64)).tolist() == []


def test_an_answer_equals_any_accepted_one_but_for_the_spaces_around_it():
    answer = {"id": "x", "text": " 42 ", "tokens": 3}
    assert _shown(answer, {"41", "42"})["equal"] is True
    assert _shown(answer, {"4 2"})["equal"] is False


def test_a_prompt_that_was_not_given_has_no_answer():
    nothing = {"text": None, "tokens": None, "equal": None}
    assert _shown(None, {"42"}) == nothing
    assert _shown({"id": "x", "text": None, "tokens": None}, {"42"}) == nothing
