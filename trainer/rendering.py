"""The output of a chat template before encoding: texts, single tokens, positions of responses."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

NO_TARGET, RESPONSE, END_OF_TURN = 0, 1, 2

Message = Mapping[str, Any]
"""`role`, `content`, and optionally `train`: false for a turn of the assistant that is context only."""
Conversation = Sequence[Message]


@dataclass(frozen=True)
class Response:
    """One response inside a text, in characters: the model writes [start, stop), then the first special token of
    [stop, limit).

    limit is None if that token is a separate piece; the response then extends to the end of the text. `turn` is the
    index of the message, for error messages.
    """

    start: int
    stop: int
    limit: int | None
    turn: int


@dataclass(frozen=True)
class Text:
    """A text that is encoded as a whole, and the responses in it, in order and without overlap.

    `contents` are [start, stop) of the messages' contents, in which special tokens are plain text. `folded`: what precedes the first
    user turn became part of it.
    """

    text: str
    responses: tuple[Response, ...] = ()
    contents: tuple[tuple[int, int], ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Special:
    """One token inserted by id, with the code of its target; `text` is its readable form."""

    id: int
    text: str
    target: int = NO_TARGET


Piece = Text | Special


class Segment(NamedTuple):
    """A part of a rendered conversation whose tokens have the same target: NO_TARGET, RESPONSE or END_OF_TURN."""

    text: str
    target: int


def segments_of(text: str, spans: Sequence[tuple[int, int]], targets: Sequence[int]) -> list[Segment]:
    """Split `text` where the target changes. `spans` are the tokens' [start, stop) in characters.

    A character shared by tokens (one of several bytes) counts as trained on if any of them is. A character of no token
    (dropped by a normalizer) belongs to the previous one. The joined texts equal `text`.
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
    """The segments, with consecutive ones of the same target merged."""
    groups = groupby(segments, key=lambda segment: segment.target)
    return [Segment("".join(segment.text for segment in group), target) for target, group in groups]


def without(pieces: Sequence[Piece], turns: Collection[int]) -> Sequence[Piece]:
    """The pieces with the responses of `turns`, and the tokens that end them, as no targets."""
    kept: list[Piece] = []
    ends = False
    for piece in pieces:
        if isinstance(piece, Text):
            left = tuple(response for response in piece.responses if response.turn not in turns)
            ends = bool(piece.responses) and piece.responses[-1].turn in turns
            kept.append(replace(piece, responses=left))
        elif ends and piece.target == END_OF_TURN:
            kept.append(replace(piece, target=NO_TARGET))
            ends = False
        else:
            kept.append(piece)
    return kept


def checked(messages: Conversation) -> list[dict[str, str]]:
    """Role and content of each message, as plain dicts.

    Raises ValueError with the turn (counted from 1) if there is no message, or one without a role or with a content
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
