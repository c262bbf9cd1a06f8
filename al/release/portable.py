"""Names and configs without the paths of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LAST_PARTS = 2
"""How much of an absolute path is kept, as in the labels of a pool's files."""


def portable(value: Any) -> Any:
    """A JSON-like value with every absolute path in it (also after `hub:`) shortened to its last two parts."""
    if isinstance(value, dict):
        return {portable(key): portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    if not isinstance(value, str):
        return value
    lead = "hub:" if value.startswith("hub:") else ""
    path = Path(value.removeprefix(lead)).expanduser() if "\0" not in value else Path()
    return lead + "/".join(path.parts[1:][-LAST_PARTS:]) if path.is_absolute() else value


def portable_name(name: str) -> str:
    """The name of a base for other machines: a hub name as it is; of a directory its last part, or the hub name under
    which the hub's cache keeps it."""
    path = Path(name).expanduser()
    if not (path.is_dir() or path.is_absolute()):
        return name
    cached = [part for part in path.parts if part.startswith("models--")]
    return cached[-1].removeprefix("models--").replace("--", "/") if cached else path.resolve().name
