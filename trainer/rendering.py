"""What a chat template makes of a conversation before anything is encoded: texts, single tokens, places of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

NO_TARGET, RESPONSE, END_OF_TURN = 0, 1, 2

Message = Mapping[str, Any]
Conversation = Sequence[Message]


@dataclass(frozen=True)
class Response:
    """One response inside a text, in characters: the model writes [start, stop), then the first special token of
    [stop, limit).

    limit is None where that token is a piece of its own; the response then goes to the end of the text. `turn` is the
    index of the message, for error messages.
    """

    start: int
    stop: int
    limit: int | None
    turn: int


@dataclass(frozen=True)
class Text:
    """A text that is encoded in one go, and the responses in it, in order and without overlap."""

    text: str
    responses: tuple[Response, ...] = ()


@dataclass(frozen=True)
class Special:
    """One token put in by its id, with the code of its target; `text` is how people see it."""

    id: int
    text: str
    target: int = NO_TARGET


Piece = Text | Special


class Segment(NamedTuple):
    """A stretch of a rendered conversation whose tokens share one target: NO_TARGET, RESPONSE or END_OF_TURN."""

    text: str
    target: int


def segments_of(text: str, spans: Sequence[tuple[int, int]], targets: Sequence[int]) -> list[Segment]:
    """Cut `text` where the target changes. `spans` are the tokens' [start, stop) in characters.

    A character shared by tokens (one of several bytes) counts as trained on if any of them is; one that no token holds
    (a normalizer dropped it) goes with the character before it. The texts joined are `text` again.
    """
    codes: list[int | None] = [None] * len(text)
    for (start, stop), target in zip(spans, targets, strict=True):
        for position in range(start, stop):
            codes[position] = max(codes[position] or NO_TARGET, target)
    segments: list[Segment] = []
    start, code = 0, NO_TARGET
    for position, found in enumerate(codes):
        if found is not None and found != code:
            if position > start:
                segments.append(Segment(text[start:position], code))
            start, code = position, found
    return [*segments, Segment(text[start:], code)] if len(text) > start else segments


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """Segments with neighbours of one target made one."""
    groups = groupby(segments, key=lambda segment: segment.target)
    return [Segment("".join(segment.text for segment in group), target) for target, group in groups]


def checked(messages: Conversation) -> list[dict[str, str]]:
    """Role and content of each message, as plain dicts.

    Raises ValueError naming the turn (counted from 1) when there is no message, or one without a role or with a content
    that is not text.
    """
    if not messages:
        raise ValueError("expected at least one message, found none")
    for turn, message in enumerate(messages, start=1):
        for field in ("role", "content"):
            value = message.get(field)
            if not isinstance(value, str) or (field == "role" and not value):
                raise ValueError(f"turn {turn}: expected a text in '{field}', found {value!r:.60}")
    return [{"role": message["role"], "content": message["content"]} for message in messages]
