"""Rows of the pools' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_rows(pools: Path, pool: str, part: str) -> list[dict[str, Any]]:
    """Rows of one file."""
    with (pools / pool / f"{part}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def prompt_of(row: dict[str, Any]) -> str:
    """All messages but the response."""
    return "\n".join(message["content"] for message in row["messages"][:-1])


def text_of(row: dict[str, Any]) -> str:
    """All messages."""
    return "\n".join(message["content"] for message in row["messages"])
