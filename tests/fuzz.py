"""How many cases a property test draws."""

from __future__ import annotations

import os


def cases(few: int, full: int) -> int:
    """`few` in `make test`, which must be quick; `full` with WINNOW_FUZZ=full, where rare faults are looked for."""
    return full if os.environ.get("WINNOW_FUZZ") == "full" else few
