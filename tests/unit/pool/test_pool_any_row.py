"""Whatever fields a row has and whatever they hold, a converter gives records or a RowError that names something."""

from __future__ import annotations

import json
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al.pool.convert import Converter, Record
from al.pool.formats import FORMATS, RowError
from al.pool.sources import make_sources

NAMES = sorted(
    {name for found in FORMATS.values() for name in found.expects}
    | set(
        """id parent_id role text lang rank deleted review_result tree_state tools functions tool_calls alternatives system
             Definition Instances answerKey question_stem label replies content name arguments function type items from value
             conversation query problem solution input completion ideal metadata labelled source""".split()
    )
)
WORDS = [
    "user",
    "assistant",
    "tool",
    "human",
    "function_call",
    "",
    " ",
    "a",
    "\0",
    "\ud800",
    "ready_for_export",
    '{"name": "f"}',
]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=15,
)
rows = st.lists(st.dictionaries(st.sampled_from(NAMES), values, max_size=7), max_size=5)
SOURCE = make_sources(["a.jsonl"])[0]


def outcome(converter: Converter, row: object, line: int) -> list[Record]:
    try:
        return converter.convert(row, line)
    except RowError as error:
        assert error.reason and str(error)
        return []


@settings(max_examples=120, deadline=None, derandomize=True)
@given(rows)
def test_any_rows_give_records_or_reasons(given_rows):
    converter = Converter(SOURCE)
    records = [record for line, row in enumerate(given_rows, 1) for record in outcome(converter, row, line)]
    finished = list(converter.finish())
    assert all(isinstance(found, Record | RowError) for _, found, _ in finished)
    records += [found for _, found, _ in finished if isinstance(found, Record)]
    assert all(turn[1].strip() for record in records for turn in record.turns)
    assert all(isinstance(json.loads(record.metadata), dict) for record in records)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_values_in_the_fields_of_a_format_give_records_or_reasons(name, data):
    fields = FORMATS[name].expects or ("messages",)
    row = {field: data.draw(values) for field in fields} | data.draw(
        st.dictionaries(st.sampled_from(NAMES), values, max_size=3)
    )
    converter = Converter(SOURCE)
    outcome(converter, row, 1)
    list(converter.finish())


@pytest.mark.parametrize("depth", [200, 5000])
def test_a_value_that_is_nested_deeply_is_a_reason_not_a_crash(depth):
    deep: object = "a"
    for _ in range(depth):
        deep = {"b": deep}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": deep}}]}
    text = {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "f", "arguments": "[" * depth + "]" * depth},
    }
    for message in (call, text):
        outcome(Converter(SOURCE), {"messages": [{"role": "user", "content": "a"}, message], "tools": [deep]}, 1)


def test_a_hundred_thousand_unknown_fields_are_reported_quickly_and_once():
    row = dict.fromkeys((f"{letter}{i}" for i in range(4_000) for letter in string.ascii_lowercase[:25]), "a")
    converter, started = Converter(SOURCE), time.process_time()
    for line in (1, 2, 3):
        assert outcome(converter, row, line) == []
    assert time.process_time() - started < 2


def test_rows_that_all_have_different_fields_are_reported_quickly():
    converter, started = Converter(SOURCE), time.process_time()
    for line in range(1, 10_001):
        assert outcome(converter, {f"instructon {line}": "a", f"key {line}": "b"}, line) == []
    assert time.process_time() - started < 4


def test_a_hundred_thousand_neighbouring_messages_of_one_role_are_joined_quickly():
    converter, started = Converter(SOURCE), time.process_time()
    (record,) = converter.convert({"messages": [{"role": "user", "content": "words " * 6}] * 100_000})
    assert time.process_time() - started < 2
    assert record.turns == [("user", "\n\n".join(["words " * 6] * 100_000))]
    assert converter.adjusted == {"merged_turns": 99_999}
