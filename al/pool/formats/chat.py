"""Formats of whole conversations."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from al.pool.formats.base import Example, Row, RowError, Turn, answers, has, kind, row_format, text, with_input
from al.pool.formats.template import TextTemplate
from al.pool.formats.turns import listed, read_turns, unanswered, with_tools

_HH = TextTemplate("\n\nHuman: {user}\n\nAssistant: {assistant}", "a conversation as text")
_ASKED = ("prompt", "question", "instruction", "input")
# (role key, content key): OpenAI's, ShareGPT's, and those of two smaller families.
_KEYS = (("role", "content"), ("from", "value"), ("from", "content"), ("user", "text"), ("speaker", "text"))
_PAIRS = (("human", "assistant"), ("input", "output"), ("user", "assistant"), ("prompt", "response"))


@row_format(
    "labelling",
    "messages: [{role, content}, …], response, suggestion: an answered export of `label`",
    has("messages", "response", "suggestion"),
    ("messages", "response", "suggestion"),
)
def _labelling(row: Row) -> list[Example]:
    turns = unanswered(row.get("messages"), "messages", "response")
    response = text(row, "response", "")
    if not response.strip():
        raise RowError(
            "not_filled_in", "response: empty; write the answer to the conversation and import the file again"
        )
    used = ("id", "messages", "response", "suggestion", "entropy", "disagreement", "cluster", "reason")
    return [Example([*turns, ("assistant", response)], used)]


@row_format(
    "preference",
    "chosen, rejected: conversations or responses (with prompt or question); the chosen one is used",
    has("chosen", "rejected"),
    ("chosen", "rejected"),
)
def _preference(row: Row) -> list[Example]:
    chosen = row.get("chosen")
    asked = next((name for name in _ASKED if row.get(name)), None)
    used = ("chosen", "system", *([asked] if asked else []))
    if asked == "instruction" and (context := text(row, "input", "")).strip():
        row, used = {**row, "instruction": with_input(text(row, "instruction"), context)}, (*used, "input")
    if isinstance(chosen, list):
        turns = read_turns(chosen, "chosen")
        if turns and turns[0][0] == "assistant" and asked:  # TRL's explicit form: the prompt is a separate field
            prompt = row[asked]
            turns = (read_turns(prompt, asked) if isinstance(prompt, list) else [("user", text(row, asked))]) + turns
    elif asked is None:
        turns = _HH.split(text(row, "chosen"), "chosen")
    else:
        prompt = row[asked]
        turns = read_turns(prompt, asked) if isinstance(prompt, list) else [("user", text(row, asked))]
        turns += [("assistant", response) for response in answers(row, "chosen")[:1]]
    return [Example(_with_system(turns, row), used, [], ("rejected_set_aside",))]


@row_format("messages", "messages: [{role, content}, …], with tools or functions, alternatives: other accepted answers",
            lambda names: "messages" in names, ("messages",))  # fmt: skip
def _messages(row: Row) -> list[Example]:
    adjusted: list[str] = []
    turns = read_turns(row.get("messages"), "messages", "role", "content", adjusted)
    offered = "tools" if row.get("tools") else "functions"
    if row.get(offered):
        turns = with_tools(turns, row[offered], offered)
    if isinstance(row.get("alternatives"), list):
        used = ("messages", "tools", "functions", "alternatives")
        return [Example(turns, used, answers(row, "alternatives"), adjusted)]
    return [Example(turns, ("messages", "tools", "functions"), [], adjusted)]


def _is_sharegpt(names: Collection[str]) -> bool:
    return "conversations" in names or "conversation" in names or "items" in names


@row_format("sharegpt", "conversations (or conversation, items): [{from, value}, …], [{role, content}, …] or [text, …]",
            _is_sharegpt, ("conversations",))  # fmt: skip
def _sharegpt(row: Row) -> list[Example]:
    name = next((name for name in ("conversations", "conversation", "items") if name in row), "conversations")
    adjusted: list[str] = []
    turns = conversation(row.get(name), name, adjusted)
    turns = _with_system(turns, row)
    if row.get("tools"):
        turns = with_tools(turns, row["tools"], "tools")
    return [Example(turns, (name, "system", "tools"), [], adjusted)]


def conversation(value: Any, name: str, adjusted: list[str]) -> list[Turn]:
    """Turns of field `name`: objects with a role, alternating plain texts, or pairs of question and answer."""
    value = listed(value, name)
    first = value[0] if value else None
    if isinstance(first, str):  # LIMA and UltraChat write the turns as plain strings, starting with the user
        if not all(isinstance(said, str) for said in value):
            raise RowError("wrong_type", f"{name}: expected only strings, also found {kind(_other(value))}")
        return [("assistant" if i % 2 else "user", said) for i, said in enumerate(value)]
    if isinstance(first, dict):
        for asked, answered in _PAIRS:
            if asked in first and answered in first:
                return _pairs(value, name, asked, answered)
        keys = next((keys for keys in _KEYS if keys[0] in first and keys[1] in first), None)
        keys = keys or (("role", "content") if "role" in first else ("from", "value"))
        return read_turns(value, name, *keys, adjusted)
    return read_turns(value, name, "from", "value", adjusted)


def _other(value: list[Any]) -> Any:
    return next(item for item in value if not isinstance(item, str))


def _pairs(value: list[Any], name: str, asked: str, answered: str) -> list[Turn]:
    turns: list[Turn] = []
    for index, pair in enumerate(value):
        if not isinstance(pair, dict):
            raise RowError("wrong_type", f"{name}[{index}]: expected an object with {asked} and {answered}")
        if index == 0 and isinstance(pair.get("system"), str) and pair["system"].strip():
            turns.append(("system", pair["system"]))
        turns += [("user", text(pair, asked)), ("assistant", text(pair, answered, ""))]
    return turns


def _with_system(turns: list[Turn], row: Row) -> list[Turn]:
    system = text(row, "system", "").strip() if "system" in row else ""
    if turns and turns[0][0] == "system" and turns[0][1].strip() == system:
        return turns
    return [("system", system), *turns] if system else turns
