"""Where Winnow keeps what it fetches and can fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$WINNOW_CACHE`, or `~/.cache/winnow`."""
    return Path(os.environ.get("WINNOW_CACHE") or Path.home() / ".cache" / "winnow")
