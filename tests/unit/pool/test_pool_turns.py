"""Messages as they are written in the wild become turns of text: roles, tool calls, tools, parts."""

from __future__ import annotations

import json

import pytest

CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"b": 2, "a": 1}'}}
WRITTEN = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
ASK = {"role": "user", "content": "1 + 2?"}


def contents(imported) -> list[str]:
    return [content for _, content in imported.only]


@pytest.mark.parametrize(
    ("spelling", "role"),
    [(name, "user") for name in ("human", "Human", "USER", " user ", "prompter")]
    + [
        (n, "assistant")
        for n in ("gpt", "chatgpt", "Assistant", "model", "bing", "bard", "claude", "bot", "gpt-4", "ai")
    ],
)
def test_roles_are_known_in_all_their_spellings(importing, spelling, role):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    turns[role == "assistant"]["from"] = spelling
    assert importing({"a.jsonl": [{"conversations": turns}]}).only == [("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize(
    "spelling", ["tool", "function", "function_response", "observation", "ipython", "tool_response"]
)
def test_what_a_tool_said_is_a_tool_turn(importing, spelling):
    said = [("human", "a"), ("gpt", "b"), (spelling, "c"), ("gpt", "d")]
    imported = importing({"a.jsonl": [{"conversations": [{"from": who, "value": what} for who, what in said]}]})
    assert [role for role, _ in imported.only] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("field", ["messages", "conversations", "data"])
def test_a_conversation_may_be_json_text(importing, field):
    turns = {
        "messages": [ASK, {"role": "assistant", "content": "3"}],
        "conversations": [{"from": "human", "value": "1 + 2?"}, {"from": "gpt", "value": "3"}],
        "data": ["1 + 2?", "3"],
    }
    written, listed = (
        importing({"a.jsonl": [{field: json.dumps(turns[field])}]}),
        importing({"a.jsonl": [{field: turns[field]}]}),
    )
    assert written.only == listed.only == [("user", "1 + 2?"), ("assistant", "3")]


class TestToolCalls:
    def test_a_call_without_text_is_the_content(self, importing):
        messages = [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
        assert contents(importing({"a.jsonl": [{"messages": messages}]})) == ["1 + 2?", WRITTEN]

    def test_calls_follow_the_text_one_below_the_other(self, importing):
        messages = [ASK, {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]}]
        assert contents(importing({"a.jsonl": [{"messages": messages}]}))[1] == f"Let me see.\n{WRITTEN}\n{WRITTEN}"

    @pytest.mark.parametrize("arguments", ['{"a":1,"b":2}', {"b": 2, "a": 1}, {"a": 1, "b": 2, "c": None}])
    def test_equal_calls_have_equal_ids_however_they_are_written(self, importing, arguments):
        call = {"function": {"name": "add", "arguments": arguments}}
        messages = [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]
        assert contents(importing({"a.jsonl": [{"messages": messages}]}))[1] == WRITTEN

    def test_arguments_that_are_no_json_are_kept_as_text(self, importing):
        call = {"function": {"name": "add", "arguments": "1, 2"}}
        messages = [ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
        assert '"arguments": "1, 2"' in contents(importing({"a.jsonl": [{"messages": messages}]}))[1]

    def test_the_older_function_call_is_a_call(self, importing):
        messages = [ASK, {"role": "assistant", "content": None, "function_call": CALL["function"]}]
        assert contents(importing({"a.jsonl": [{"messages": messages}]}))[1] == WRITTEN

    @pytest.mark.parametrize("said", ['{"name": "add", "arguments": {"b": 2, "a": 1}}', WRITTEN])
    def test_a_sharegpt_function_call_is_marked_once(self, importing, said):
        turns = [{"from": "human", "value": "1 + 2?"}, {"from": "function_call", "value": said}]
        assert importing({"a.jsonl": [{"conversations": turns}]}).only == [("user", "1 + 2?"), ("assistant", WRITTEN)]

    def test_a_whole_exchange_with_a_tool_is_kept(self, importing):
        messages = [
            ASK,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "3"},
            {"role": "assistant", "content": "3."},
        ]
        imported = importing({"a.jsonl": [{"messages": messages}]})
        assert imported.only == [("user", "1 + 2?"), ("assistant", WRITTEN), ("tool", "3"), ("assistant", "3.")]
        assert imported.stats.adjusted == {}

    @pytest.mark.parametrize("calls", [["add"], [{"function": {}}], "add"])
    def test_calls_of_another_shape_are_quarantined_with_their_place(self, importing, good, calls):
        messages = [ASK, {"role": "assistant", "content": None, "tool_calls": calls}]
        (row,) = importing({"a.jsonl": [good, {"messages": messages}]}).quarantine
        assert (row["line"], row["reason"]) == (2, "wrong_type") and "messages[1].tool_calls" in row["message"]


class TestTools:
    @pytest.mark.parametrize("field", ["tools", "functions"])
    @pytest.mark.parametrize("form", [TOOLS, json.dumps(TOOLS)])
    def test_tools_are_listed_in_the_system_message(self, importing, field, form):
        messages = [{"role": "system", "content": "Be brief."}, ASK, {"role": "assistant", "content": "3"}]
        imported = importing({"a.jsonl": [{"messages": messages, field: form}]})
        system = contents(imported)[0]
        assert system.startswith("Be brief.\n\n# Tools\n")
        assert f"<tools>\n{json.dumps(TOOLS[0], sort_keys=True)}\n</tools>" in system
        assert imported.pool.metadata([0]) == [{}]

    def test_without_a_system_message_they_are_one(self, importing):
        imported = importing({"a.jsonl": [{"messages": [ASK, {"role": "assistant", "content": "3"}], "tools": TOOLS}]})
        assert [role for role, _ in imported.only] == ["system", "user", "assistant"]

    def test_a_system_message_that_lists_them_already_is_left_alone(self, importing):
        messages = [{"role": "system", "content": "<tools>mine</tools>"}, ASK]
        assert contents(importing({"a.jsonl": [{"messages": messages, "tools": TOOLS}]}))[0] == "<tools>mine</tools>"

    @pytest.mark.parametrize("tools", ["no JSON", 7])
    def test_tools_of_another_shape_are_quarantined(self, importing, good, tools):
        (row,) = importing({"a.jsonl": [good, {"messages": [ASK], "tools": tools}]}).quarantine
        assert row["reason"] == "wrong_type" and row["message"].startswith("tools: ")


class TestParts:
    def test_parts_of_text_are_joined(self, importing):
        parts = [{"type": "text", "text": "1 + 2"}, {"type": "text", "text": "= ?"}]
        assert contents(importing({"a.jsonl": [{"messages": [{"role": "user", "content": parts}]}]})) == ["1 + 2\n= ?"]

    @pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
    def test_anything_but_text_is_refused_with_its_place(self, importing, good, kind):
        parts = [{"type": "text", "text": "See?"}, {"type": kind, kind: {}}]
        (row,) = importing({"a.jsonl": [good, {"messages": [{"role": "user", "content": parts}]}]}).quarantine
        assert (row["line"], row["reason"]) == (2, "not_text")
        assert row["message"].startswith(f"messages[0].content[1]: {kind}")


def test_fields_of_a_message_that_cannot_be_kept_are_counted(importing):
    messages = [ASK, {"role": "assistant", "content": "3", "reasoning_content": "1 and 2 make 3."}]
    assert importing({"a.jsonl": [{"messages": messages}]}).stats.adjusted == {"message_fields_left_out": 1}


def test_fields_that_are_null_as_parquet_fills_them_are_not(importing):
    messages = [{**ASK, "name": None, "tool_calls": None}, {"role": "assistant", "content": "3", "audio": None}]
    imported = importing({"a.jsonl": [{"messages": messages, "tools": None}]})
    assert (imported.stats.adjusted, contents(imported)) == ({}, ["1 + 2?", "3"])


@pytest.mark.parametrize(
    "row",
    [
        {"items": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "id": "1"},
        {"conversation": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversation": [{"human": "a", "assistant": "b"}]},
        {"conversation": [{"input": "a", "output": "b"}]},
        {"conversations": [{"user": "human", "text": "a"}, {"user": "assistant", "text": "b"}]},
        {"conversations": ["a", "b"]},
        {"id": "1", "data": ["a", "b"]},
        {"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": []},
        {
            "prompt": [{"role": "user", "content": "a"}],
            "chosen": [{"role": "assistant", "content": "b"}],
            "rejected": [],
        },
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"question": "a", "chosen": "b", "rejected": "c", "system": ""},
    ],
)
def test_conversations_are_read_in_every_form(importing, row):
    assert importing({"a.jsonl": [row]}).only == [("user", "a"), ("assistant", "b")]
