"""The cache directory, for files that can be downloaded again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache directory: `$WINNOW_CACHE`, or `~/.cache/winnow`."""
    return Path(os.environ.get("WINNOW_CACHE") or Path.home() / ".cache" / "winnow")
