"""Rows and counts that were once lost or wrong."""

from __future__ import annotations

import json

import pytest

from al.config.pool import PoolConfig
from al.pool.convert import Converter
from al.pool.export import export_examples
from al.pool.formats import RowError
from al.pool.importer import import_pool
from al.pool.sources import Source, find_sources
from al.pool.store import Pool


def imported(path, out, **config):
    out.mkdir()
    previous = config.pop("previous", None)
    return import_pool(find_sources(PoolConfig(files=[str(path)], **config)), out, previous=previous)


@pytest.mark.parametrize("opening", ['{"data": [', '{"data": [\n', '{"version": "1", "data": [\n'])
def test_a_list_in_an_object_with_a_row_a_line_is_no_json_lines(tmp_path, opening):
    rows = ",\n".join(json.dumps({"instruction": str(n), "output": "x"}) for n in range(3))
    (tmp_path / "rows.json").write_text(f"{opening}{rows}]}}\n")
    stats = imported(tmp_path / "rows.json", tmp_path / "pool")
    assert stats.examples == 3 and not stats.quarantined


def converted(row):
    (record,) = Converter(Source("x.jsonl", "x.jsonl", "x")).convert(row)
    return record


def test_a_preference_pairs_input_is_part_of_its_prompt():
    row = {"instruction": "Translate", "input": "Hello", "chosen": "Bonjour", "rejected": "x"}
    assert converted(row).turns == [("user", "Translate\n\nHello"), ("assistant", "Bonjour")]


def test_a_system_message_that_is_given_twice_is_one():
    turns = [{"from": "system", "value": "S"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    found = converted({"system": "S", "conversations": turns}).turns
    assert found == [("system", "S"), ("user", "q"), ("assistant", "a")]


def test_half_a_surrogate_pair_in_metadata_can_be_exported(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"instruction": "a", "output": "b", "note": "\\ud83d"}\n')
    imported(tmp_path / "a.jsonl", tmp_path / "pool")
    export_examples(tmp_path / "pool", tmp_path / "out.jsonl")
    imported(tmp_path / "out.jsonl", tmp_path / "again")
    assert (
        Pool.open(tmp_path / "again").metadata([0])
        == Pool.open(tmp_path / "pool").metadata([0])
        == [{"note": "\ud83d"}]
    )


def test_a_raised_limit_reads_a_file_with_bad_rows_again(tmp_path):
    rows = [{"question": "q" * size, "answer": "a"} for size in (10, 3_000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = imported(tmp_path / "a.jsonl", tmp_path / "one", max_row_bytes=1024)
    second = imported(tmp_path / "a.jsonl", tmp_path / "two", max_row_bytes=10_000, previous=tmp_path / "one")
    assert first.quarantined == {"oversize_row": 1} and first.examples == 1
    assert not second.quarantined and second.examples == 2 and second.rows == 2


def test_a_file_name_that_is_no_text_is_shown_in_escapes(tmp_path):
    name = b"\xff.jsonl".decode("utf-8", "surrogateescape")
    (tmp_path / name).write_text('{"question": "q", "answer": "a"}\n')
    assert imported(tmp_path, tmp_path / "pool").files[0]["file"].endswith("udcff.jsonl")


def test_a_held_out_file_in_a_folder_of_the_pool_is_read_once(tmp_path):
    from al.preparation.sources import _each_once

    for name in ("a.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("{}\n")
    both = [
        *find_sources(PoolConfig(files=[str(tmp_path)])),
        *find_sources(PoolConfig(files=[str(tmp_path / "test.jsonl")])),
    ]
    assert len(both) == 3 and [source.path for source in _each_once(both)] == [source.path for source in both[:2]]


@pytest.mark.parametrize(
    "table",
    [
        {"question": ["Name a tree", "Name a bird"], "answer": ["Oak", "Crow"]},
        {"prompt": {"0": "Name a tree", "1": "Name a bird"}, "completion": {"0": "Oak", "1": "Crow"}},
        {"colour": ["red", "blue", "green"], "hue": [1, 2, None]},
    ],
)
def test_a_table_by_column_says_what_it_is(table):
    with pytest.raises(RowError, match=r"column by column .* (2|3) values each") as caught:
        converted(table)
    assert caught.value.reason == "columns"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"question": ["Name a tree"], "answer": ["Oak"]},
            "wrong_type",
        ),  # one value each: nothing says that it is a table
        ({"question": ["Name a tree", "Name a bird"], "answer": "Oak"}, "wrong_type"),
        ({"question": ["Name a tree", "or a bird"], "answer": ["Oak", "Crow", "Cod"]}, "wrong_type"),
    ],
)
def test_a_row_with_lists_is_no_table(row, reason):
    with pytest.raises(RowError) as caught:
        converted(row)
    assert caught.value.reason == reason


def test_a_conversation_with_as_many_tools_as_messages_is_a_row():
    messages = [{"role": "user", "content": "Is it raining?"}, {"role": "assistant", "content": "It is"}]
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("rain", "wind")]
    assert converted({"messages": messages, "tools": tools}).turns[-1] == ("assistant", "It is")
