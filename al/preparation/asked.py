"""A check for a wrong column map: what is asked is a bare number, such as the number of a row or a ticket."""

from __future__ import annotations

import numpy as np

from al.pool.formats.advice import is_number
from al.pool.store import Pool

CHECKED = 1_000
"""Examples of a pool that are checked, spread evenly."""


def check_asked(pool: Pool) -> str | None:
    """A warning if a bare number is all that most examples ask, else None. Checks at most 1,000 examples."""
    rows = np.unique(np.linspace(0, len(pool) - 1, min(len(pool), CHECKED)).astype(np.int64))
    asked = [
        next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), "")
        for messages in pool.messages(rows)
    ]
    numbers = sum(map(is_number, asked))
    return numbers_asked(numbers, len(rows)) if 2 * numbers > len(rows) else None


def numbers_asked(numbers: int, rows: int) -> str:
    """The warning, for `numbers` of `rows` examples."""
    return (
        f"in {numbers:,} of {rows:,} examples checked, what is asked is a bare number: --map (`pool.map`) probably names a wrong column "
        "for the question; `pool inspect` shows how rows are read"
    )
