"""Prompts come from the command line and from files of two forms; anything else is refused with its line."""

from __future__ import annotations

import json

import pytest

from al.errors import DataError
from al.prompting.prompts import conversations


def user(text):
    return {"role": "user", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}


def test_prompts_of_the_command_line_come_before_those_of_the_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffWhy is the sea salt?  \n\n  How deep is it?\n", encoding="utf-8")
    assert conversations(["Who sails?"], file, None) == [
        [user("Who sails?")], [user("Why is the sea salt?")], [user("How deep is it?")]
    ]  # fmt: skip


def test_rows_of_a_jsonl_file_are_texts_prompts_or_messages(tmp_path):
    file = tmp_path / "prompts.jsonl"
    turns = [user("One?"), {"role": "assistant", "content": "Two."}, user("And\nthen?")]
    rows = ["Only text", {"prompt": "With a key", "id": 3}, {"messages": turns}, {"messages": [SYSTEM, user("Hello")]}]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert conversations([], file, None) == [[user("Only text")], [user("With a key")], turns, [SYSTEM, user("Hello")]]


def test_a_system_message_comes_first_where_there_is_none(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "system", "content": "Mine."}, user("a")]}))
    found = conversations(["b"], file, "Be brief.")
    assert found == [[SYSTEM, user("b")], [{"role": "system", "content": "Mine."}, user("a")]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "prompts.jsonl:2: expected JSON"),
        ("[" * 5000, "prompts.jsonl:2: expected JSON"),
        ('{"text": "a"}', 'prompts.jsonl:2: expected a text, or an object with "prompt" or "messages"'),
        ('{"prompt": " "}', "prompts.jsonl:2: expected a text"),
        ('{"messages": []}', "prompts.jsonl:2: expected a text"),
        ('{"messages": [{"role": "user", "content": 4}]}', "prompts.jsonl:2: expected a text"),
        ('{"messages": [{"role": "user"}]}', "prompts.jsonl:2: expected a text"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "prompts.jsonl:2: expected messages that end with a prompt",
        ),
    ],
)
def test_other_rows_are_refused_with_their_line(tmp_path, row, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'"fine"\n{row}\n')
    with pytest.raises(DataError) as error:
        conversations([], file, None)
    assert message in str(error.value)


def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path):
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe")
    for name in ("picture.txt", "absent.txt"):
        with pytest.raises(DataError, match=f"--file .*{name}: expected a UTF-8 text file"):
            conversations([], tmp_path / name, None)
