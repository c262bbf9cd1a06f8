"""Short texts: shortened ones, and counts with their nouns."""

from __future__ import annotations


def cut(text: str, limit: int) -> str:
    """`text`, or its first `limit` - 1 characters and "…"."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: `1 example`, `2,000 examples`. `many`: a plural that is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def prompt_and_response(messages: list[dict[str, str]]) -> tuple[str, str]:
    """A conversation as (prompt, response) texts: all messages before the last response with their roles, and the response or ""."""
    response = messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""
    shown = messages[:-1] if response else messages
    return "\n".join(f"{m['role']}: {m['content']}" for m in shown), response
