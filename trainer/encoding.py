"""Encoding of a rendered text in which the special tokens of the markup are tokens, and those that messages contain are text.

A tokenizer's own template gives one text, so a `<|im_end|>` that a user typed looks like the markup's. Such a token is replaced by the
tokens of its characters; all others stay as they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any


class Encoded:
    """Tokens with their characters; has the methods of a `tokenizers.Encoding` that templates use."""

    def __init__(self, ids: list[int], offsets: list[tuple[int, int]]):
        self.ids = ids
        self.offsets = offsets
        self._starts = [start for start, _ in offsets]

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """[start, stop) of a token in characters."""
        return self.offsets[token]

    def char_to_token(self, position: int) -> int | None:
        """The first token with the character at `position`, None if a normalizer dropped it."""
        token = bisect_right(self._starts, position) - 1
        while token > 0 and self.offsets[token - 1][1] > position:
            token -= 1
        return token if token >= 0 and self.offsets[token][0] <= position < self.offsets[token][1] else None


def with_contents_as_text(
    encoding: Any, text: str, contents: Sequence[tuple[int, int]], special_ids: frozenset[int], plain: Any
) -> Any:
    """The encoding of `text` with the special tokens inside `contents`, spans of characters, replaced by those of their characters.

    Args:
        special_ids: ids of the special tokens.
        plain: the tokenizer's backend that reads special tokens as text.
    """
    starts = [start for start, _ in contents]

    def is_text(token: int, offset: tuple[int, int]) -> bool:
        """Whether a token is a special one inside a content."""
        span = bisect_right(starts, offset[0]) - 1
        return token in special_ids and span >= 0 and offset[1] <= contents[span][1]

    typed = [
        at
        for at, (token, offset) in enumerate(zip(encoding.ids, encoding.offsets, strict=True))
        if is_text(token, offset)
    ]
    if not typed:
        return encoding
    ids, offsets, position = [], [], 0
    for at in typed:
        ids += encoding.ids[position:at]
        offsets += encoding.offsets[position:at]
        start, stop = encoding.offsets[at]
        for token, (first, last) in _spelled(text[start:stop], plain):
            ids.append(token)
            offsets.append((start + first, start + last))
        position = at + 1
    return Encoded([*ids, *encoding.ids[position:]], [*offsets, *encoding.offsets[position:]])


def _spelled(marker: str, plain: Any) -> list[tuple[int, tuple[int, int]]]:
    """Tokens of a marker as text, with their characters."""
    for before in (
        "x",
        "0",
        "",
    ):  # a tokenizer may add a space in front of a text, so a character goes before the marker
        found = plain.encode(before + marker, add_special_tokens=False)
        spelled = [
            (token, (a - len(before), b - len(before))) for token, (a, b) in zip(found.ids, found.offsets, strict=True)
        ]
        if not any(first < 0 < last for _, (first, last) in spelled):  # no token for both
            return [(token, (first, last)) for token, (first, last) in spelled if last > 0]
    return []
