"""A tokenizer's own chat template (Jinja), and the positions of responses in its output.

Templates rarely mark the responses, so rendering finds them. Once per sequence of roles the template renders
marks in place of the contents, for the whole conversation and for each of its prefixes with the generation prompt:

    <|im_start|>user\\n[0]<|im_end|>\\n<|im_start|>assistant\\n[1]<|im_end|>\\n
    <----------------- start with generation prompt --------->

The text between the marks is the skeleton: literal texts around the contents. Each conversation is then rendered in
full and must equal the skeleton filled with its contents (unchanged, or without white space at their ends). If a
template depends on the contents and this fails, each content is searched in order. If that also fails or
is ambiguous, the conversation is refused.

- What a template refuses in front of the first user turn (a system prompt under Gemma's and Mistral's, an opening of the assistant)
  is put into that turn, with a blank line between them, as the named template `mistral` does. `Text.folded` says so.
- Results of tools may be written as JSON. Responses must be found as they are.
- A response with reasoning (`<think>…</think>`) is found as the template writes it: whole, or without the reasoning in earlier turns.
  A template that also drops the reasoning of the last response, as DeepSeek-R1's does, gets it back.
- `strftime_now` gives the fixed date `DATE`, so the same conversation has the same tokens on every day.

A template is a program that comes with a model. transformers runs it in a sandbox; here its time, memory and output are limited too.
"""

from __future__ import annotations

import datetime
import json
import re
import resource
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import TemplateError, TemplateRuntimeError

from trainer.errors import DataError, TrainerError
from trainer.rendering import Response, Text

Messages = list[dict[str, str]]
STATM = Path("/proc/self/statm")
"""Memory of this process in pages, the address space first (proc(5)); only Linux has it."""
SKELETONS_KEPT = 4096
RENDER_SECONDS, RENDER_BYTES = 10.0, 2**30
"""CPU time of one call (and 0.01 s more a conversation; the slowest template that we know takes 0.001 s), and memory."""
LEAST_OUTPUT, MOST_OUTPUT = 2**20, 100
"""Characters that a template may write: so many, and so many for each that it was given."""
DATE = datetime.datetime(2024, 7, 26)
"""The date that templates write: Llama 3.1's own default. It is part of the template's hash."""
_THOUGHT = "</think>"
_MARK = "\ue000{}\ue001"


_NOW = re.compile(r"""strftime_now\(\s*(?:'([^'\\]*)'|"([^"\\]*)")\s*\)""")


def dated(template: str) -> str:
    """A Jinja template with the fixed date in place of its calls of `strftime_now`."""
    return _NOW.sub(lambda call: json.dumps(DATE.strftime(call[1] or call[2] or "")), template)


@dataclass(frozen=True)
class Skeleton:
    """`literals`: n+1 texts around the n contents. The model writes the last `opened[i]` characters of literals[i] before
    content i (Qwen3's empty <think> block), because the generation prompt ends before them."""

    literals: tuple[str, ...]
    opened: tuple[int, ...]


@dataclass(frozen=True)
class TokenizerTemplate:
    """Renders through `tokenizer.apply_chat_template` and finds the responses; `name` is for messages to the user."""

    tokenizer: Any
    name: str
    _skeletons: dict[tuple[str, ...], Skeleton | None] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raises TrainerError for a template with powers: one of them may take hours in a single step, which no timer interrupts."""
        try:
            powers = any(value == "**" for _, _, value in Environment().lex(self.tokenizer.get_chat_template()))
        except (TemplateError, ValueError):  # ValueError: several templates, and no default one
            return  # whoever renders says what is wrong
        if powers:
            raise TrainerError(
                f"{self.name} computes a power (`**`), which no chat template needs; choose another `model.chat_template`"
            )

    def render_batch(self, conversations: Sequence[Messages]) -> list[Text | DataError]:
        """The text of each conversation with its responses, or the error why the template cannot be used."""
        try:
            texts: list[str | DataError] = list(self._render(conversations))
        except TrainerError:  # it took too much
            raise
        except Exception:  # templates are programs: they may raise anything; each conversation is then rendered alone
            texts = [self._render_one(messages) for messages in conversations]
        return [
            self._locate(text, messages) if isinstance(text, str) else self._folded(text, messages)
            for text, messages in zip(texts, conversations, strict=True)
        ]

    def _render(self, conversations: Sequence[Messages], prompt: bool = False) -> list[str]:
        template = dated(self.tokenizer.get_chat_template())
        with _limited(self.name, len(conversations)):
            texts = self.tokenizer.apply_chat_template(
                conversations, chat_template=template, tokenize=False, add_generation_prompt=prompt
            )
        given = sum(len(str(message)) for messages in conversations for message in messages)
        if (written := sum(map(len, texts))) > LEAST_OUTPUT + MOST_OUTPUT * given:
            raise TrainerError(
                f"{self.name} writes {written:,} characters for {given:,}; choose another `model.chat_template`"
            )
        return texts

    def _render_one(self, messages: Messages) -> str | DataError:
        try:
            return self._render([messages])[0]
        except TrainerError:
            raise
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages[:8])
            return DataError(f"{self.name} refuses the conversation (roles {roles}): {error or type(error).__name__}")

    def _folded(self, refusal: DataError, messages: Messages) -> Text | DataError:
        """The conversation with all that precedes the first user turn put into it; `refusal` if that is refused too."""
        first = next((at for at, message in enumerate(messages) if message["role"] == "user"), 0)
        if first == 0:
            return refusal
        content = "\n\n".join(message["content"] for message in messages[: first + 1])
        folded = [{"role": "user", "content": content}, *messages[first + 1 :]]
        text = self._render_one(folded)
        found = self._locate(text, folded) if isinstance(text, str) else refusal
        if isinstance(found, DataError):
            return refusal
        responses = tuple(replace(response, turn=response.turn + first) for response in found.responses)
        return replace(found, responses=responses, folded=True)

    def _locate(self, text: str, messages: Messages) -> Text | DataError:
        if any(message["role"] == "assistant" and _THOUGHT in message["content"] for message in messages):
            return self._with_thoughts(text, messages)
        roles = tuple(message["role"] for message in messages)
        if roles not in self._skeletons:
            if len(self._skeletons) >= SKELETONS_KEPT:
                self._skeletons.clear()
            self._skeletons[roles] = self._skeleton(roles)
        skeleton = self._skeletons[roles]
        try:
            found = None if skeleton is None else fill(skeleton, text, messages)
            return found or self._search(text, messages)
        except DataError as error:
            return error

    def _with_thoughts(self, text: str, messages: Messages) -> Text | DataError:
        """A conversation with reasoning. The last response keeps its own, whatever the template does with it."""
        last = max(at for at, message in enumerate(messages) if message["role"] == "assistant")
        if not any(form in text for form in _whole_forms(messages[last]["content"])):
            mark = _MARK.format(last)
            marked = self._render_one([*messages[:last], {"role": "assistant", "content": mark}, *messages[last + 1 :]])
            if isinstance(marked, str) and marked.count(mark) == 1:
                text = marked.replace(mark, messages[last]["content"])
        try:
            return self._search(text, messages)
        except DataError as error:
            return error

    def _skeleton(self, roles: tuple[str, ...]) -> Skeleton | None:
        """The skeleton, or None if the template does not output every mark once and in order."""
        marked = [{"role": role, "content": _MARK.format(i)} for i, role in enumerate(roles)]
        text = self._render_one(marked)
        if not isinstance(text, str):
            return None
        literals, opened, position = [], [], 0
        known: dict[tuple[bool, str], int] = {}  # a template renders in linear time, so each literal is measured once
        for i, message in enumerate(marked):
            found = text.find(message["content"], position)
            if found < 0 or text.count(message["content"]) != 1:
                return None
            literals.append(text[position:found])
            opened.append(0)
            if message["role"] == "assistant":
                place = (i + 1 == len(marked), literals[-1])
                if place not in known:
                    prompt = self._prompt(text[:found], marked[:i])
                    known[place] = 0 if prompt is None else min(found - prompt, len(literals[-1]))
                opened[-1] = known[place]
            position = found + len(message["content"])
        return Skeleton((*literals, text[position:]), tuple(opened))

    def _prompt(self, text: str, messages: Messages) -> int | None:
        """Number of characters of `text` taken by the messages and the generation prompt; None without such a prompt."""
        if not messages:
            return None
        try:
            (with_prompt,), (without,) = self._render([messages], prompt=True), self._render([messages])
        except TrainerError:
            raise
        except Exception:
            return None  # a template may refuse a conversation that ends here; the length is then unknown
        return len(with_prompt) if with_prompt != without and text.startswith(with_prompt) else None

    def _search(self, text: str, messages: Messages) -> Text:
        """Find each content in order. Raises DataError for a content that is missing, or also occurs in the markup."""
        spans, position = [], 0
        for turn, message in enumerate(messages):
            role, opening = message["role"], None
            thought = role == "assistant" and _THOUGHT in message["content"]
            if role == "assistant":
                opening = self._prompt(text, messages[:turn])
                position = max(position, 0 if thought else opening or 0)
            for content in _forms(message):
                found = text.find(content, position)
                if found >= 0:
                    break
            else:
                if role == "tool":  # written in some form of its own; only responses are trained on
                    spans.append((position, position))
                    continue
                raise DataError(
                    f"{self.name} drops, changes or reorders turn {turn + 1} ({role}): {message['content']!r:.60}"
                )
            if role == "assistant" and not _unmistakable(content, text[position:], messages[turn:], thought):
                raise DataError(
                    f"{self.name}: turn {turn + 1} ({role}) cannot be distinguished from the text around it: {content!r:.60}"
                )
            position = found + len(content)
            spans.append((max(found, min(opening or 0, position)) if thought else found, position))
        borders = [*(start for start, _ in spans[1:]), len(text)]
        responses = tuple(
            Response(start, stop, limit, turn)
            for turn, ((start, stop), limit) in enumerate(zip(spans, borders, strict=True))
            if messages[turn]["role"] == "assistant"
        )
        return Text(text, responses, tuple(spans))


class _TookTooLong(Exception):
    """Raised in the middle of a template by the timer of `_limited`."""


@contextmanager
def _limited(name: str, conversations: int) -> Iterator[None]:
    """Stop a template that takes too much time or memory. Outside the main thread, which alone gets signals, only memory is limited.

    Raises TrainerError, and TemplateError for whatever else the template raises.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        """End the template where it is."""
        raise _TookTooLong

    alone = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGVTALRM, stop) if alone else None
    room = resource.getrlimit(resource.RLIMIT_AS)
    try:
        if room[0] == resource.RLIM_INFINITY and STATM.exists():
            used = int(STATM.read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + RENDER_BYTES, room[1]))
        if alone:  # it repeats, because an exception inside a finalizer is lost
            signal.setitimer(signal.ITIMER_VIRTUAL, RENDER_SECONDS + 0.01 * conversations, 1.0)
        yield
    except _TookTooLong:
        raise TrainerError(
            f"{name} took more than {RENDER_SECONDS:g} s; choose another `model.chat_template`"
        ) from None
    except MemoryError:
        raise TrainerError(
            f"{name} took more than {RENDER_BYTES / 2**30:g} GiB of memory; choose another `model.chat_template`"
        ) from None
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise TemplateRuntimeError(f"{type(error).__name__}: {error}") from error
    finally:
        if alone:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, room)


def fill(skeleton: Skeleton, text: str, messages: Messages) -> Text | None:
    """The text with its responses if it is the skeleton filled with the contents of `messages`, else None."""
    literals = skeleton.literals
    if not text.startswith(literals[0]):
        return None
    position, responses, spans = len(literals[0]), [], []
    for turn, message in enumerate(messages):
        for content in _forms(message):
            stop = position + len(content)
            if text.startswith(content, position) and text.startswith(literals[turn + 1], stop):
                break
        else:
            return None
        limit = stop + len(literals[turn + 1])
        if message["role"] == "assistant":
            next_opened = skeleton.opened[turn + 1] if turn + 1 < len(messages) else 0
            responses.append(Response(position - skeleton.opened[turn], stop, limit - next_opened, turn))
        spans.append((position, stop))
        position = limit
    return Text(text, tuple(responses), tuple(spans)) if position == len(text) else None


def _forms(message: dict[str, str]) -> tuple[str, ...]:
    """The forms in which a template may write a content, the most likely first."""
    content = message["content"]
    if message["role"] == "tool":
        return (*_variants(content), json.dumps(content, ensure_ascii=False)[1:-1], json.dumps(content)[1:-1])
    if message["role"] == "assistant" and _THOUGHT in content:
        return (*_whole_forms(content), *_variants(content.rpartition(_THOUGHT)[2]))
    return _variants(content)


def _whole_forms(content: str) -> tuple[str, ...]:
    """A response with its reasoning as it is, and as Qwen3's template sets it."""
    thought, _, answer = content.rpartition(_THOUGHT)
    thought = thought.rpartition("<think>")[2].strip("\n")
    return (*_variants(content), f"<think>\n{thought}\n</think>\n\n{answer.lstrip(chr(10))}")


def _variants(content: str) -> tuple[str, ...]:
    """The content, and its version with trimmed white space."""
    if content == content.strip():
        return (content,)
    trimmed = (
        content.strip(),
        content.lstrip(),
        content.rstrip(),
        content.strip("\n"),
        content.lstrip("\n"),
        content.rstrip("\n"),
    )
    return tuple(dict.fromkeys((content, *trimmed)))


def _unmistakable(content: str, text: str, messages: Messages, thought: bool) -> bool:
    """Whether the text has the content only where the messages have it; a template may drop reasoning that contains it."""
    expected = sum(message["content"].count(content) for message in messages)
    return bool(content) and (text.count(content) == expected or (thought and text.count(content) <= max(1, expected)))
