"""What the page can search of the picked examples: their texts, as much of each as fits a page that stays under 5 MB."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

PACKED = 420_000
"""Bytes of all texts together, compressed. In base64 they take a third more of the page: 0.56 MB."""
RATIO = 20
"""No text shrinks by more than this worth trying: a bound on what is compressed to find out."""

Parts = tuple[str, str, str]


def parts_of(messages: Sequence[dict[str, str]]) -> Parts:
    """(last user turn, response, everything before as "role: content"), each on one line. A conversation without a user has its last
    message before the response as the first part."""
    response = messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""
    before = list(messages[:-1] if response else messages)
    users = [i for i, message in enumerate(before) if message["role"] == "user"]
    at = users[-1] if users else len(before) - 1
    rest = "\n".join(f"{m['role']}: {m['content']}" for i, m in enumerate(before) if i != at)
    asked = before[at]["content"] if before else ""
    return _line(asked), _line(response), _line(rest)


def fit(texts: Sequence[Parts], packed: int = PACKED) -> dict[str, Any]:
    """As much of the texts as compresses to `packed` bytes: whole if they fit, else each cut after the same number of characters, the
    last user turn first and what stands before it last.

    Returns:
        {"asked", "response", "before": a list each, "whole": texts that are complete, "limit": characters after which the others are
        cut, None if none is, "characters_left_out"}.
    """
    lengths = [sum(map(len, parts)) for parts in texts]
    longest = max(lengths, default=0)
    low, high = 0, longest
    while low < high:  # the largest limit that fits
        limit = (low + high + 1) // 2 if high < longest else high
        if _fits(texts, lengths, limit, packed):
            low = limit
        else:
            high = limit - 1
        if high - low <= low // 50:  # within 2% is near enough
            break
    cut = [_cut(parts, low) for parts in texts]
    names = ("asked", "response", "before")
    return {
        **{name: [parts[i] for parts in cut] for i, name in enumerate(names)},
        "whole": sum(length <= low for length in lengths),
        "limit": low if low < longest else None,
        "characters_left_out": sum(max(0, length - low) for length in lengths),
    }


def _fits(texts: Sequence[Parts], lengths: Sequence[int], limit: int, packed: int) -> bool:
    if sum(min(length, limit) for length in lengths) > RATIO * packed:
        return False
    return len(zlib.compress(json.dumps([_cut(parts, limit) for parts in texts]).encode())) <= packed


def _cut(parts: Parts, limit: int) -> Parts:
    asked, response, before = parts
    asked = asked[:limit]
    response = response[: limit - len(asked)]
    return asked, response, before[: limit - len(asked) - len(response)]


def _line(text: str) -> str:
    return " ".join(text.split())
