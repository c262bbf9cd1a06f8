"""Formats of whole conversations."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from al.pool.formats.around import with_system
from al.pool.formats.base import (
    RESPONSES,
    SYSTEM,
    Example,
    Row,
    RowError,
    Turn,
    answers,
    has,
    joined,
    kind,
    response_field,
    row_format,
    text,
)
from al.pool.formats.template import TextTemplate
from al.pool.formats.turns import Notes, listed, read_turns, unanswered, with_tools

UNANSWERED = "unanswered_turns"
"""The metadata with the turns that were cut from the end of a conversation because nothing answers them."""
_HH = TextTemplate("\n\nHuman: {user}\n\nAssistant: {assistant}", "a conversation as text")
_TOLD = ("tools", *SYSTEM)
_MESSAGES = ("messages", "functions", *_TOLD)
_ASKED = ("prompt", "instruction", "question", "input")
_CHATS = ("messages", "conversations", "conversation")
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
    notes = Notes()
    turns = unanswered(row.get("messages"), "messages", "response", notes)
    response = text(row, "response", "")
    if not response.strip():
        raise RowError(
            "not_filled_in", "response: empty; write the answer to the conversation and import the file again"
        )
    used = ("id", "messages", "response", "suggestion", "entropy", "disagreement", "cluster", "reason")
    return [notes.example([*turns, ("assistant", response)], used)]


@row_format(
    "preference",
    "chosen, rejected: conversations or responses (with prompt or question); the chosen one is used",
    has("chosen", "rejected"),
    ("chosen", "rejected"),
    (*_ASKED, *_CHATS, *SYSTEM),
)
def _preference(row: Row) -> list[Example]:
    notes, chosen = Notes(), row.get("chosen")
    notes.adjusted.append("rejected_set_aside")
    asked = [name for name in (*_ASKED, *_CHATS) if row.get(name)]
    if asked and not isinstance(row[asked[0]], str):
        asked = asked[:1]
    if isinstance(chosen, dict):  # one message
        chosen = [chosen] if chosen else chosen
    if isinstance(chosen, list):
        turns = conversation(chosen, "chosen", notes)
        if turns and turns[0][0] == "assistant" and asked:  # TRL's explicit form: the prompt is a separate field
            turns = _prompt(row, asked, notes) + turns
        else:
            asked = []
    elif not asked:
        turns = _HH.split(text(row, "chosen"), "chosen")
    else:
        turns = _prompt(row, asked, notes) + [("assistant", said) for said in answers(row, "chosen")[:1]]
    return [notes.example(with_system(turns, row), ("chosen", *SYSTEM, *asked))]


def _prompt(row: Row, asked: list[str], notes: Notes) -> list[Turn]:
    if isinstance(row[asked[0]], list) or asked[0] in _CHATS:
        return conversation(row[asked[0]], asked[0], notes)
    return [("user", joined(*(text(row, name) for name in asked)))]


@row_format("messages", "messages: [{role, content}, …], with tools or functions, response, alternatives: other accepted answers",
            lambda names: "messages" in names, ("messages",),
            ("tools", "functions", "alternatives", *SYSTEM, *RESPONSES))  # fmt: skip
def _messages(row: Row) -> list[Example]:
    notes = Notes()
    turns = read_turns(row.get("messages"), "messages", notes)
    turns, used = _answered(turns, row, notes)
    turns = with_system(turns, row)
    offered = "tools" if row.get("tools") else "functions"
    if row.get(offered):
        turns = with_tools(turns, row[offered], offered)
    used = _MESSAGES + used
    if isinstance(row.get("alternatives"), list):
        return [notes.example(turns, (*used, "alternatives"), answers(row, "alternatives"))]
    return [notes.example(turns, used)]


def _answered(turns: list[Turn], row: Row, notes: Notes) -> tuple[list[Turn], tuple[str, ...]]:
    """The turns with the row's response to the last one, and the response's field; else with an unanswered tail cut off."""
    if turns and turns[-1][0] != "assistant" and not set(RESPONSES).isdisjoint(row):
        given = response_field(row, RESPONSES)
        if said := answers(row, given)[:1]:
            return [*turns, ("assistant", said[0])], (given,)
    return cut_unanswered(turns, notes), ()


def cut_unanswered(turns: list[Turn], notes: Notes) -> list[Turn]:
    """The turns up to the last response; all of them if there is none."""
    if turns and turns[-1][0] == "assistant" and turns[-1][1].strip():
        return turns
    last = max((at for at, (role, said) in enumerate(turns) if role == "assistant" and said.strip()), default=None)
    if last is None or last == len(turns) - 1:
        return turns
    if cut := [said for _, said in turns[last + 1 :] if said.strip()]:
        notes.adjusted += ["unanswered_turn_cut"] * len(cut)
        notes.left[UNANSWERED] = cut
    return turns[: last + 1]


def _is_sharegpt(names: Collection[str]) -> bool:
    if "conversations" in names or "conversation" in names:
        return True
    return "items" in names and {"prompt", "query", "question", "problem", "instruction", "inputs"}.isdisjoint(names)


@row_format("sharegpt", "conversations (or conversation, items): [{from, value}, …], [{role, content}, …] or [text, …]",
            _is_sharegpt, ("conversations",), ("conversation", "items", "tools", *SYSTEM, *RESPONSES))  # fmt: skip
def _sharegpt(row: Row) -> list[Example]:
    notes, name = (
        Notes(),
        next((name for name in ("conversations", "conversation", "items") if name in row), "conversations"),
    )
    turns, used = _answered(conversation(row.get(name), name, notes), row, notes)
    turns = with_system(turns, row)
    if row.get("tools"):
        turns = with_tools(turns, row["tools"], "tools")
    return [notes.example(turns, (name, *_TOLD, *used))]


def conversation(value: Any, name: str, notes: Notes) -> list[Turn]:
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
                return _pairs(value, name, asked, answered, notes)
        keys = next((keys for keys in _KEYS if keys[0] in first and keys[1] in first), None)
        keys = keys or (("role", "content") if "role" in first else ("from", "value"))
        return read_turns(value, name, notes, *keys)
    return read_turns(value, name, notes, "from", "value")


def _other(value: list[Any]) -> Any:
    return next(item for item in value if not isinstance(item, str))


def _pairs(value: list[Any], name: str, asked: str, answered: str, notes: Notes) -> list[Turn]:
    turns: list[Turn] = []
    for index, pair in enumerate(value):
        if not isinstance(pair, dict):
            raise RowError("wrong_type", f"{name}[{index}]: expected an object with {asked} and {answered}")
        system = text(pair, "system", "") if index == 0 else ""
        if system.strip():
            turns.append(("system", system))
        turns += [("user", text(pair, asked)), ("assistant", text(pair, answered, ""))]
        for key, said in pair.items():
            if key not in (asked, answered) and said and not (key == "system" and system):
                notes.left.setdefault(f"{name}[].{key}", []).append(said)
    return turns
