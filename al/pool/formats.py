"""Row formats: how a raw row (a dict) becomes examples.

A format is one function with the `row_format` decorator. It is recognised by the row's field names alone, so that a file
may mix formats and recognition costs one lookup per distinct set of names. The first that fits wins, in the order of
definition (the more special first). To add one, write its function here, or in a module that `FORMATS` users import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

Row = dict[str, Any]
Turn = tuple[str, str]
"""(role, content) of one message."""


class RowError(ValueError):
    """A row that cannot be used: `reason` is a code that is counted, the message names the field."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Example(NamedTuple):
    """One conversation as a format found it.

    `turns` end with the response, or with the prompt when there is none (unlabelled). `used` names the row's fields that
    are not metadata. `alternatives` are accepted answers besides the response.
    """

    turns: list[Turn]
    used: tuple[str, ...]
    alternatives: list[str] = []


@dataclass(frozen=True)
class Format:
    """A named way to write examples: `matches(field names)`, and `convert(row)`, which raises RowError."""

    name: str
    fields: str
    matches: Callable[[Collection[str]], bool]
    convert: Callable[[Row], list[Example]]


FORMATS: dict[str, Format] = {}


def row_format(name: str, fields: str, matches: Callable[[Collection[str]], bool]) -> Callable:
    """Register a function Row → list[Example] as format `name`; `fields` describes its fields to a reader."""

    def register(convert: Callable[[Row], list[Example]]) -> Callable[[Row], list[Example]]:
        FORMATS[name] = Format(name, fields, matches, convert)
        return convert

    return register


def detect(names: Collection[str]) -> str | None:
    """Name of the first format that a row with these field names fits, or None."""
    return next((candidate.name for candidate in FORMATS.values() if candidate.matches(names)), None)


ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip
# In OpenAI's files a few-shot example is a message whose *name* says who is speaking in it.
_SPEAKERS = {"example_user": "user", "example_assistant": "assistant"}


def text(row: Row, name: str, default: str | None = None) -> str:
    """The string in field `name`; numbers and booleans are written out. Missing or null gives `default`, else RowError."""
    value = row.get(name)
    if isinstance(value, str):
        return value
    if value is None:
        if default is None:
            raise RowError("missing_field", f"{name}: missing or null; expected a string")
        return default
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("not_finite", f"{name}: expected a string, found {value}, which is not JSON")
    if isinstance(value, (bool, int, float)):
        return str(value)
    raise RowError("wrong_type", f"{name}: expected a string, found {_kind(value)}")


def answers(row: Row, name: str) -> list[str]:
    """One or several accepted answers in field `name`, given as a string or a list; [] when missing, null or blank."""
    value = row.get(name)
    if not isinstance(value, list):
        return [given] if (given := text(row, name, "")).strip() else []
    return [given for item in value if (given := text({name: item}, name, "")).strip()]


def read_turns(value: Any, name: str, role_key: str = "role", content_key: str = "content") -> list[Turn]:
    """Turns from a list of objects that hold a role and a content under the given keys."""
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{name}: expected a list of messages, found {_kind(value)}")
    turns = []
    for message in value:
        if not isinstance(message, dict):
            expected = f"expected an object with {role_key} and {content_key}"
            raise RowError("wrong_type", f"{name}[{len(turns)}]: {expected}, found {_kind(message)}")
        role, content = message.get(role_key), message.get(content_key)
        known = ROLES.get(role.lower()) if isinstance(role, str) else None
        if known is None:
            expected = "expected system, user, assistant or tool"
            raise RowError("unknown_role", f"{name}[{len(turns)}].{role_key}: {expected}, found {role!r:.60}")
        if not isinstance(content, str):
            raise RowError(
                "wrong_type", f"{name}[{len(turns)}].{content_key}: expected a string, found {_kind(content)}"
            )
        speaker = message.get("name")
        turns.append((_SPEAKERS.get(speaker, known) if isinstance(speaker, str) else known, content))
    return turns


def _unanswered(value: Any, name: str, answer: str) -> list[Turn]:
    """Turns of a conversation whose last message the field `answer` responds to."""
    turns = read_turns(value, name)
    if turns and turns[-1][0] == "assistant":
        raise RowError(
            "no_prompt", f"{name}: ends with an assistant message; expected the turn that `{answer}` answers"
        )
    return turns


def _kind(value: Any) -> str:
    if value is None:
        return "null or nothing"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _ask(question: str, responses: list[str], used: tuple[str, ...], system: str = "") -> list[Example]:
    turns = [("system", system)] if system.strip() else []
    turns.append(("user", question))
    turns += [("assistant", response) for response in responses[:1]]
    return [Example(turns, used, responses[1:])]


def _with_input(instruction: str, context: str) -> str:
    return f"{instruction}\n\n{context}" if context.strip() else instruction


@row_format(
    "labelling",
    "messages: [{role, content}, …], response, suggestion: what `label` wrote, its responses filled in",
    {"messages", "response", "suggestion"}.issubset,
)
def _labelling(row: Row) -> list[Example]:
    turns = _unanswered(row.get("messages"), "messages", "response")
    response = text(row, "response", "")
    if not response.strip():
        raise RowError(
            "not_filled_in", "response: empty; write the answer to the conversation and import the file again"
        )
    used = ("id", "messages", "response", "suggestion", "entropy", "disagreement", "cluster", "reason")
    return [Example([*turns, ("assistant", response)], used)]


@row_format("messages", "messages: [{role, content}, …]", lambda names: "messages" in names)
def _messages(row: Row) -> list[Example]:
    return [Example(read_turns(row.get("messages"), "messages"), ("messages",))]


@row_format("sharegpt", "conversations: [{from, value}, …] or [text, …]", lambda names: "conversations" in names)
def _sharegpt(row: Row) -> list[Example]:
    value = row.get("conversations")
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, str):  # LIMA writes the turns as bare strings, the user's first
        value = [{"from": "gpt" if i % 2 else "human", "value": said} for i, said in enumerate(value)]
    keys = ("role", "content") if isinstance(first, dict) and "role" in first else ("from", "value")
    turns = read_turns(value, "conversations", *keys)
    if system := text(row, "system", "").strip():
        turns.insert(0, ("system", system))
    return [Example(turns, ("conversations", "system"))]


@row_format("self_instruct", "instruction, instances: [{input, output}, …]", lambda names: "instances" in names)
def _self_instruct(row: Row) -> list[Example]:
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances or not all(isinstance(item, dict) for item in instances):
        raise RowError("wrong_type", f"instances: expected objects with input and output, found {_kind(instances)}")
    examples = []
    for instance in instances:
        question = _with_input(text(row, "instruction"), text(instance, "input", ""))
        examples += _ask(question, answers(instance, "output"), ("instruction", "instances"))
    return examples


@row_format("dolly", "instruction, context, response", {"instruction", "context", "response"}.issubset)
def _dolly(row: Row) -> list[Example]:
    question = _with_input(text(row, "instruction"), text(row, "context", ""))
    return _ask(question, answers(row, "response"), ("instruction", "context", "response"))


@row_format("alpaca", "instruction, input, output or response", lambda names: "instruction" in names)
def _alpaca(row: Row) -> list[Example]:
    question = _with_input(text(row, "instruction"), text(row, "input", ""))
    responses = answers(row, "output") or answers(row, "response")
    used = ("instruction", "input", "output", "response", "system")
    return _ask(question, responses, used, text(row, "system", ""))


_RESPONSES = ("completion", "response", "output")


def _is_evals(names: Collection[str]) -> bool:
    return "input" in names and ("ideal" in names or not ({"prompt", *_RESPONSES} & set(names)))


@row_format("evals", "input: a string or [{role, content}, …], ideal: an answer or a list of accepted ones", _is_evals)
def _evals(row: Row) -> list[Example]:
    if "ideal" not in row:
        raise RowError(
            "missing_field", "ideal: missing; expected an answer, a list of them, or null where there is none"
        )
    value, responses = row.get("input"), answers(row, "ideal")
    if not isinstance(value, list):
        return _ask(text(row, "input"), responses, ("input", "ideal"))
    turns = _unanswered(value, "input", "ideal")
    turns += [("assistant", response) for response in responses[:1]]
    return [Example(turns, ("input", "ideal"), responses[1:])]


@row_format("prompt_completion", "prompt or input, completion or response or output; strings or lists of messages",
            lambda names: "prompt" in names or "input" in names)  # fmt: skip
def _prompt_completion(row: Row) -> list[Example]:
    asked = "prompt" if "prompt" in row else "input"
    given = next((name for name in _RESPONSES if row.get(name) is not None), "completion")
    used = (asked, given, "system")
    if not isinstance(row.get(asked), list):
        return _ask(text(row, asked), answers(row, given), used, text(row, "system", ""))
    turns = read_turns(row[asked], asked)
    if isinstance(response := row.get(given), list):
        return [Example(turns + read_turns(response, given), used)]
    return [Example(turns + [("assistant", response) for response in answers(row, given)], used)]


@row_format("question_answer", "question, answer", lambda names: "question" in names)
def _question_answer(row: Row) -> list[Example]:
    return _ask(text(row, "question"), answers(row, "answer"), ("question", "answer"))
