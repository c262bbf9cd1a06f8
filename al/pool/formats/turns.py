"""Messages in their various published forms → turns of text.

An example contains only text, so tools and calls are written as text, in the form that Hermes and Qwen models were trained on
(github.com/NousResearch/Hermes-Function-Calling; the chat template of Qwen2.5):

    assistant with tool_calls → its content, then one `<tool_call>\\n{"name": …, "arguments": …}\\n</tool_call>` per call
    tools of the conversation → `# Tools … <tools>\\n{one function per line}\\n</tools>`, at the end of the system message
    content in parts          → the text of its parts, joined by line breaks; an image or sound is refused

JSON is written with sorted keys, so that equal calls have equal ids. Ids of calls are not written: results are put in the order of
their calls. A turn with the flag `train: false` or the weight 0 is context that is not trained on.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from msgspec.structs import replace

from al.pool.formats.base import ROLES_EXPECTED, Example, RowError, Turn, Unlearned, kind

ROLES = {
    "system": "system", "developer": "system", "system_prompt": "system",
    "user": "user", "human": "user", "prompter": "user", "instruction": "user", "question": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "claude": "assistant", "gemini": "assistant", "ai": "assistant", "bot": "assistant",
    "chatbot": "assistant", "gpt4": "assistant", "gpt-4": "assistant", "gpt-3.5": "assistant", "palm": "assistant",
    "function_call": "assistant", "tool_call": "assistant", "tool_calls": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool",
    "tool_result": "tool", "ipython": "tool",
}  # fmt: skip
_CALLS = {"function_call", "tool_call", "tool_calls"}
# In OpenAI's files a few-shot example is a message whose *name* gives its role.
_SPEAKERS = {"example_user": "user", "example_assistant": "assistant"}
# Fields of a message that are written as text, order or mask the turns, or only name them.
_USED = {"tool_calls", "function_call", "tool_call_id", "id", "weight", "train", "training", "type", "index"}
_FLAGS = ("train", "training")

_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class Notes:
    """What reading the conversations of one row changed or left out.

    `adjusted` lists codes; `left` are fields of messages that the conversation cannot hold: {"messages[].name": [value, …]}.
    """

    __slots__ = ("adjusted", "left")

    def __init__(self) -> None:
        self.adjusted: list[str] = []
        self.left: dict[str, list[Any]] = {}

    def example(self, turns: list[Turn], used: tuple[str, ...], alternatives: list[str] | None = None) -> Example:
        """An example with these notes."""
        return Example(turns, used, alternatives or [], self.adjusted, left=self.left)

    def added_to(self, example: Example) -> Example:
        """The example with these notes in addition to its own."""
        if not (self.adjusted or self.left):
            return example
        return replace(example, adjusted=(*example.adjusted, *self.adjusted), left={**example.left, **self.left})


def read_turns(value: Any, name: str, notes: Notes, role_key: str = "role", content_key: str = "content") -> list[Turn]:
    """Turns from a list (or JSON text of one) of objects that hold a role and a content under the given keys.

    `notes` gets `message_fields_left_out` if a message has fields that the conversation cannot hold, and
    `tool_results_reordered` if results are not in the order of their calls.

    Raises:
        RowError: wrong_type, unknown_role, not_text, naming the message.
    """
    value = listed(value, name)
    turns: list[Turn] = []
    lost = called = False
    for message in value:
        if not isinstance(message, dict):
            expected = f"expected an object with {role_key} and {content_key}"
            raise RowError("wrong_type", f"{name}[{len(turns)}]: {expected}, found {kind(message)}")
        role, content = message.get(role_key), message.get(content_key)
        known = ROLES.get(role) if isinstance(role, str) else None
        turn = None
        if known is None or len(message) > 2 or not isinstance(content, str):
            known, content = _unusual(message, f"{name}[{len(turns)}]", role_key, content_key)
            lost = _note_left(message, name, role_key, content_key, known, notes) or lost
            called = called or bool(message.get("tool_call_id"))
            turn = Unlearned((known, content)) if known == "assistant" and _not_trained(message) else None
        elif role in _CALLS:
            content = _call_text(content)
        turns.append(turn or (known, content))
    if lost:
        notes.adjusted.append("message_fields_left_out")
    return _in_order_of_calls(value, turns, notes) if called else turns


def _not_trained(message: dict[str, Any]) -> bool:
    """Whether OpenAI's `weight` or Axolotl's `train` excludes the turn from the loss."""
    weight = message.get("weight")
    if isinstance(weight, (int, float)) and weight == 0:
        return True
    return any(message.get(flag) in (False, "false", "False") for flag in _FLAGS)


def _in_order_of_calls(messages: list[Any], turns: list[Turn], notes: Notes) -> list[Turn]:
    """The turns with neighbouring tool results in the order of the calls that they answer, by their ids."""
    calls = [call.get("id") for m in messages for call in (m.get("tool_calls") or ()) if isinstance(call, dict)]
    ranks = {identity: rank for rank, identity in reversed(list(enumerate(calls))) if isinstance(identity, str)}
    found, at = list(turns), 0
    while at < len(turns):
        end = at
        while end < len(turns) and turns[end][0] == "tool" and messages[end].get("tool_call_id") in ranks:
            end += 1
        order = sorted(range(at, end), key=lambda i: ranks[messages[i]["tool_call_id"]])
        if order != list(range(at, end)):
            found[at:end] = [turns[i] for i in order]
            notes.adjusted.append("tool_results_reordered")
        at = max(end, at + 1)
    return found


def listed(value: Any, name: str) -> list[Any]:
    """The list of messages in field `name`, given as a list or, in tables, as JSON or Python text. Raises RowError: wrong_type."""
    if isinstance(value, str):
        written = value
        try:
            value = json.loads(written)
        except (ValueError, RecursionError):
            value = _python_list(written) or written
        if value is written and written.lstrip().startswith("["):
            raise RowError(
                "wrong_type", f"{name}: a list written as text, but neither JSON nor Python; save it as JSON"
            )
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{name}: expected a list of messages (or JSON text of one), found {kind(value)}")
    return value


def _python_list(written: str) -> list[Any] | None:
    """The list that pandas writes into a CSV file as Python text, or None."""
    if not written.lstrip().startswith("["):
        return None
    try:
        value = ast.literal_eval(written.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def unanswered(value: Any, name: str, answer: str, notes: Notes) -> list[Turn]:
    """Turns of a conversation whose last message is answered by the field `answer`."""
    turns = read_turns(value, name, notes)
    if turns and turns[-1][0] == "assistant":
        raise RowError(
            "no_prompt", f"{name}: ends with an assistant message; expected the turn that `{answer}` answers"
        )
    return turns


def with_tools(turns: list[Turn], tools: Any, name: str) -> list[Turn]:
    """The turns with the tools of field `name` (a list of functions, or JSON text of one) written into the system message."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except (ValueError, RecursionError):
            raise RowError("wrong_type", f"{name}: expected a list of functions or JSON text of one") from None
    if not tools or (turns and turns[0][0] == "system" and "<tools>" in turns[0][1]):
        return turns
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        raise RowError("wrong_type", f"{name}: expected a list of functions, found {kind(tools)}")
    listed = _TOOLS.format(tools="\n".join(canonical_json(_without_null(tool), name) for tool in tools))
    if turns and turns[0][0] == "system" and turns[0][1].strip():
        return [("system", f"{turns[0][1]}\n\n{listed}"), *turns[1:]]
    return [("system", listed), *(turns[1:] if turns and turns[0][0] == "system" else turns)]


def canonical_json(value: Any, name: str) -> str:
    """JSON with sorted keys and no line breaks. Raises RowError, naming the field `name`, for values without a JSON form."""
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise RowError("not_finite", f"{name}: holds a number that is not finite (NaN or Infinity)") from None
    except (TypeError, RecursionError):
        raise RowError("wrong_type", f"{name}: cannot be written as JSON") from None


def _unusual(message: dict[str, Any], where: str, role_key: str, content_key: str) -> tuple[str, str]:
    """Role and text of a message in a complex form: aliases of roles, parts, tool calls."""
    role, content, speaker = message.get(role_key), message.get(content_key), message.get("name")
    spelling = role.strip().lower() if isinstance(role, str) else ""
    known = ROLES.get(spelling)
    if known is None:
        raise RowError("unknown_role", f"{where}.{role_key}: {ROLES_EXPECTED}, found {role!r:.60}")
    calls = _calls(message, where)
    if content is None and calls:
        content = ""
    elif content is None and known == "assistant" and isinstance(message.get("refusal"), str):
        content = message["refusal"]
    elif isinstance(content, list) and content:
        content = _parts(content, f"{where}.{content_key}")
    elif isinstance(content, dict) and known == "tool":
        content = canonical_json(content, f"{where}.{content_key}")
    if not isinstance(content, str):
        raise RowError("wrong_type", f"{where}.{content_key}: expected a string, found {kind(content)}")
    if spelling in _CALLS:
        content = _call_text(content)
    written = "\n".join([*([content] if content.strip() else []), *calls]) if calls else content
    return (_SPEAKERS.get(speaker, known) if isinstance(speaker, str) else known), written


def _note_left(message: dict[str, Any], name: str, role_key: str, content_key: str, role: str, notes: Notes) -> bool:
    """Note the fields of a message that its turn does not hold; whether there are more than a name."""
    lost = False
    for key, value in message.items():
        if value in (None, "", [], {}) or key in _USED or key in (role_key, content_key):
            continue
        if key == "refusal" and message.get(content_key) is None:
            continue  # it became the content
        if key == "name" and role == "tool":
            continue  # the call has the name
        notes.left.setdefault(f"{name}[].{key}", []).append(value)
        lost = lost or key not in ("name", "refusal")
    return lost


def _parts(parts: list[Any], where: str) -> str:
    texts = []
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            raise RowError("wrong_type", f"{where}[{index}]: expected an object with type and text, found {kind(part)}")
        if not isinstance(part.get("text"), str):
            found = str(part.get("type", "no type"))[:40]
            raise RowError("not_text", f"{where}[{index}]: {found}; only text parts can be trained on")
        texts.append(part["text"])
    return "\n".join(texts)


def _calls(message: dict[str, Any], where: str) -> list[str]:
    """The message's tool calls (and OpenAI's older function_call) in text form."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RowError("wrong_type", f"{where}.tool_calls: expected a list, found {kind(calls)}")
    found = [call.get("function") or call if isinstance(call, dict) else call for call in calls]
    if message.get("function_call"):
        found.append(message["function_call"])
    written = []
    for call in found:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise RowError(
                "wrong_type", f"{where}.tool_calls[{len(written)}]: expected an object with name and arguments"
            )
        written.append(_call(call["name"], call.get("arguments", call.get("parameters")), f"{where}.tool_calls"))
    return written


def _call(name: str, arguments: Any, where: str) -> str:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            pass  # a model's broken JSON is kept as text
    elif isinstance(arguments, dict):
        arguments = _without_null(arguments)
    given = canonical_json({} if arguments is None else arguments, where)
    return f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {given}}}\n</tool_call>'


def _call_text(content: str) -> str:
    """The content of a ShareGPT `function_call` turn, marked as a call unless it is already."""
    if "<tool_call>" in content:
        return content
    try:
        call = json.loads(content)
        if isinstance(call, dict) and isinstance(call.get("name"), str) and call.keys() <= {"name", "arguments"}:
            return _call(call["name"], call.get("arguments"), "function_call")
    except (ValueError, RecursionError):
        pass
    return f"<tool_call>\n{content.strip()}\n</tool_call>"


def _without_null(value: Any) -> Any:
    """The value without null keys, which Parquet adds if another row has them."""
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value
