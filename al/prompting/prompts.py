"""Prompts from the command line and from files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from al.errors import DataError

Messages = list[dict[str, str]]


def conversations(prompts: Sequence[str], file: Path | None, system: str | None) -> list[Messages]:
    """A conversation per prompt, then per row of `file`. `system` comes first in those that have no system message.

    In a .jsonl file a row is a text, or an object with `prompt` (a text) or `messages` (the last one of the user). Any other file has a
    prompt in each line that is not blank.

    Raises DataError for a file that cannot be read and a row of another form, with its line.
    """
    asked = [[_message("user", prompt)] for prompt in prompts] + ([] if file is None else _read(file))
    first = [] if system is None else [_message("system", system)]
    return [messages if messages[0]["role"] == "system" else [*first, *messages] for messages in asked]


def _read(file: Path) -> list[Messages]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--file {file}: expected a UTF-8 text file, found {error}") from error
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if file.suffix != ".jsonl":
        return [[_message("user", line.strip())] for _, line in rows]
    return [_row(f"{file}:{number}", line) for number, line in rows]


def _row(place: str, line: str) -> Messages:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: expected JSON, found {error}") from error
    if isinstance(row, dict):
        row = row["messages"] if "messages" in row else row.get("prompt")
    if isinstance(row, str) and row.strip():
        return [_message("user", row)]
    if isinstance(row, list) and row and all(_is_message(message) for message in row):
        messages = [_message(message["role"], message["content"]) for message in row]
        if messages[-1]["role"] != "assistant":
            return messages
        raise DataError(f"{place}: expected messages that end with a prompt, found an answer at the end")
    raise DataError(f'{place}: expected a text, or an object with "prompt" or "messages", found {line.strip():.80}')


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
