"""A tokenizer's own chat template (Jinja), and the positions of responses in its output.

Templates rarely mark the responses, so rendering finds them. Once per sequence of roles the template renders
marks in place of the contents, for the whole conversation and for each of its prefixes with the generation prompt:

    <|im_start|>user\\n[0]<|im_end|>\\n<|im_start|>assistant\\n[1]<|im_end|>\\n
    <----------------- start with generation prompt --------->

The text between the marks is the skeleton: literal texts around the contents. Each conversation is then rendered in
full and must equal the skeleton filled with its contents (unchanged, or without white space at their ends). If a
template depends on the contents and this fails, each content is searched in order. If that also fails or
is ambiguous, the conversation is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2.exceptions import TemplateError

from trainer.errors import DataError
from trainer.rendering import Response, Text

Messages = list[dict[str, str]]
SKELETONS_KEPT = 4096


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

    def render_batch(self, conversations: Sequence[Messages]) -> list[Text | DataError]:
        """The text of each conversation with its responses, or the error why the template cannot be used."""
        try:
            texts: list[str | DataError] = list(self._render(conversations))
        except (TemplateError, TypeError):
            texts = [self._render_one(messages) for messages in conversations]
        return [
            self._locate(text, messages) if isinstance(text, str) else text
            for text, messages in zip(texts, conversations, strict=True)
        ]

    def _render(self, conversations: Sequence[Messages], prompt: bool = False) -> list[str]:
        return self.tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=prompt)

    def _render_one(self, messages: Messages) -> str | DataError:
        try:
            return self._render([messages])[0]
        except (TemplateError, TypeError) as error:
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
        except (TemplateError, TypeError):
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
