"""Shortened texts for pages."""

from __future__ import annotations


def cut(text: str, limit: int) -> str:
    """`text`, or its first `limit` - 1 characters and "…"."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def prompt_and_response(messages: list[dict[str, str]]) -> tuple[str, str]:
    """A conversation as (prompt, response) texts: all messages before the last response with their roles, and the response or ""."""
    response = messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""
    shown = messages[:-1] if response else messages
    return "\n".join(f"{m['role']}: {m['content']}" for m in shown), response
