"""A tokenizer's own chat template (Jinja), and the positions of responses in its output.

Templates rarely mark the responses, so rendering finds them. Once per sequence of roles the template renders
marks in place of the contents, for the whole conversation and for each of its prefixes with the generation prompt:

    <|im_start|>user\\n[0]<|im_end|>\\n<|im_start|>assistant\\n[1]<|im_end|>\\n
    <----------------- start with generation prompt --------->

The text between the marks is the skeleton: literal texts around the contents. Each conversation is then rendered in
full and must equal the skeleton filled with its contents (unchanged, or without white space at their ends). If a
template depends on the contents and this fails, each content is searched in order. If that also fails or
is ambiguous, the conversation is refused.

A template is a program that comes with a model. transformers runs it in a sandbox; here its time, memory and output are limited too.
"""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
        except TemplateError:
            return  # rendering says what is wrong
        if powers:
            raise TrainerError(
                f"{self.name} computes a power (`**`), which no chat template needs; choose another `model.chat_template`"
            )

    def render_batch(self, conversations: Sequence[Messages]) -> list[Text | DataError]:
        """The text of each conversation with its responses, or the error why the template cannot be used."""
        try:
            texts: list[str | DataError] = list(self._render(conversations))
        except TemplateError:
            texts = [self._render_one(messages) for messages in conversations]
        return [
            self._locate(text, messages) if isinstance(text, str) else text
            for text, messages in zip(texts, conversations, strict=True)
        ]

    def _render(self, conversations: Sequence[Messages], prompt: bool = False) -> list[str]:
        with _limited(self.name, len(conversations)):
            texts = self.tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=prompt)
        given = sum(len(str(message)) for messages in conversations for message in messages)
        if (written := sum(map(len, texts))) > LEAST_OUTPUT + MOST_OUTPUT * given:
            raise TrainerError(
                f"{self.name} writes {written:,} characters for {given:,}; choose another `model.chat_template`"
            )
        return texts

    def _render_one(self, messages: Messages) -> str | DataError:
        try:
            return self._render([messages])[0]
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages[:8])
            return DataError(f"{self.name} refuses the conversation (roles {roles}): {error}")

    def _locate(self, text: str, messages: Messages) -> Text | DataError:
        roles = tuple(message["role"] for message in messages)
        if roles not in self._skeletons:
            if len(self._skeletons) >= SKELETONS_KEPT:
                self._skeletons.clear()
            self._skeletons[roles] = self._skeleton(roles)
        skeleton = self._skeletons[roles]
        try:
            responses = None if skeleton is None else fill(skeleton, text, messages)
            if responses is None:
                responses = self._search(text, messages)
        except DataError as error:
            return error
        return Text(text, responses)

    def _skeleton(self, roles: tuple[str, ...]) -> Skeleton | None:
        """The skeleton, or None if the template does not output every mark once and in order."""
        marked = [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)]
        text = self._render_one(marked)
        if not isinstance(text, str):
            return None
        literals, opened, position = [], [], 0
        for i, message in enumerate(marked):
            found = text.find(message["content"], position)
            if found < 0 or text.count(message["content"]) != 1:
                return None
            literals.append(text[position:found])
            prompt = self._prompt(text[:found], marked[:i]) if message["role"] == "assistant" else None
            opened.append(0 if prompt is None else min(found - prompt, len(literals[-1])))
            position = found + len(message["content"])
        return Skeleton((*literals, text[position:]), tuple(opened))

    def _prompt(self, text: str, messages: Messages) -> int | None:
        """Number of characters of `text` taken by the messages and the generation prompt; None without such a prompt."""
        if not messages:
            return None
        try:
            (with_prompt,), (without,) = self._render([messages], prompt=True), self._render([messages])
        except TemplateError:
            return None  # a template may refuse a conversation that ends here; the length is then unknown
        return len(with_prompt) if with_prompt != without and text.startswith(with_prompt) else None

    def _search(self, text: str, messages: Messages) -> tuple[Response, ...]:
        """Find each content in order. Raises DataError for a content that is missing, or also occurs in the markup."""
        spans, position = [], 0
        for turn, message in enumerate(messages):
            role = message["role"]
            if role == "assistant":
                position = max(position, self._prompt(text, messages[:turn]) or 0)
            for content in _variants(message["content"]):
                found = text.find(content, position)
                if found >= 0:
                    break
            else:
                raise DataError(
                    f"{self.name} drops, changes or reorders turn {turn + 1} ({role}): {message['content']!r:.60}"
                )
            if role == "assistant" and not _unmistakable(content, text[position:], messages[turn:]):
                raise DataError(
                    f"{self.name}: turn {turn + 1} ({role}) cannot be distinguished from the text around it: {content!r:.60}"
                )
            position = found + len(content)
            spans.append((found, position))
        borders = [*(start for start, _ in spans[1:]), len(text)]
        return tuple(
            Response(start, stop, limit, turn)
            for turn, ((start, stop), limit) in enumerate(zip(spans, borders, strict=True))
            if messages[turn]["role"] == "assistant"
        )


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


def fill(skeleton: Skeleton, text: str, messages: Messages) -> tuple[Response, ...] | None:
    """The responses of `text` if it is the skeleton filled with the contents of `messages`, else None."""
    literals = skeleton.literals
    if not text.startswith(literals[0]):
        return None
    position, responses = len(literals[0]), []
    for turn, message in enumerate(messages):
        for content in _variants(message["content"]):
            stop = position + len(content)
            if text.startswith(content, position) and text.startswith(literals[turn + 1], stop):
                break
        else:
            return None
        limit = stop + len(literals[turn + 1])
        if message["role"] == "assistant":
            next_opened = skeleton.opened[turn + 1] if turn + 1 < len(messages) else 0
            responses.append(Response(position - skeleton.opened[turn], stop, limit - next_opened, turn))
        position = limit
    return tuple(responses) if position == len(text) else None


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


def _unmistakable(content: str, text: str, messages: Messages) -> bool:
    return bool(content) and text.count(content) == sum(message["content"].count(content) for message in messages)
