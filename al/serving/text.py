"""The text of an answer while its tokens come: whole characters only, and nothing from a stop sequence on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\ufffd"
CONTEXT_TOKENS = 8
"""Tokens of the prompt that are decoded with the answer: whether a token begins with a space may depend on the one before it."""
MOST_DECODED = 2 * CONTEXT_TOKENS
"""Tokens that are kept where a character ends; older ones are forgotten, so a token costs the same whatever came before it."""
MOST_UNFINISHED = MOST_DECODED + CONTEXT_TOKENS
"""Tokens that are kept where a character seems unfinished; after so many the bytes are none of a character."""
MISSING = 3
"""Bytes of a character of UTF-8 that may be read without its last one; a decoder shows each, or all of them, as one UNFINISHED."""


class TextStream:
    """Text of tokens that follow `prompt`. `stops`: sequences of which the first complete one ends the text, and is not part of it.

    `text` is what is certain. `length` counts characters, also those that are held back because a stop sequence may begin there.
    """

    def __init__(self, backend: Any, prompt: Sequence[int], stops: Sequence[str] = ()):
        self._backend, self._stops = backend, [stop for stop in stops if stop]
        self._ids = list(prompt[-CONTEXT_TOKENS:])
        self._read = len(self._decoded(self._ids))
        self._held = ""
        self.text = ""
        self.stopped = False

    @property
    def length(self) -> int:
        """Characters of all whole tokens so far."""
        return len(self.text) + len(self._held)

    def add(self, token: int) -> str:
        """The text that is certain with one more token."""
        self._ids.append(token)
        return self._release(self._new_text(last=False), last=False)

    def finish(self) -> str:
        """The rest, when no token follows."""
        return self._release(self._new_text(last=True), last=True)

    def _new_text(self, last: bool) -> str:
        """The text after the first `_read` characters of the tokens in memory, unless the next token may finish a character."""
        whole = self._decoded(self._ids)
        end = len(whole)
        if whole.endswith(UNFINISHED) and not last:
            if len(self._ids) <= MOST_UNFINISHED:
                return ""
            end = max(self._read, end - MISSING)
        new = whole[self._read : end]
        self._read = max(self._read, end)
        if len(self._ids) > MOST_DECODED:
            new += self._forget(whole)
        return new

    def _forget(self, whole: str) -> str:
        """Keep the last tokens alone, from the border of a character on; the unread text of the others, which nothing can finish."""
        unread = whole[self._read :]
        for count in range(CONTEXT_TOKENS, CONTEXT_TOKENS - MISSING - 1, -1):
            kept = self._decoded(self._ids[-count:])
            if whole.endswith(kept):
                break
        self._ids = self._ids[-count:]
        self._read = max(0, len(kept) - len(unread))
        return unread[: max(0, len(unread) - len(kept))]

    def _decoded(self, ids: Sequence[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=True)

    def _release(self, new: str, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, kept, self._held = True, text[: min(places)], ""
        else:
            count = 0 if last else max((_overlap(text, stop) for stop in self._stops), default=0)
            kept, self._held = text[: len(text) - count], text[len(text) - count :]
        self.text += kept
        return kept


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
