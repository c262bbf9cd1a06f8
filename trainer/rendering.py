"""What a chat template makes of a conversation before anything is encoded: texts, single tokens, places of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
