"""The tables of docs/strategies.md that list every strategy and every score, from the registry that the code uses."""

from __future__ import annotations

import sys
from pathlib import Path

from common import table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from selection.registry import PICKERS, SCORES, STRATEGIES  # noqa: E402
from selection.scores import MEASUREMENTS  # noqa: E402


def strategies() -> str:
    """Every strategy with its allocation, its picker and what it does."""
    rows = [
        [
            f"`{name}`",
            "none, the whole pool" if PICKERS[strategy.picker].whole_pool else f"`{strategy.allocation}`",
            f"`{strategy.picker}`",
            strategy.about,
        ]
        for name, strategy in STRATEGIES.items()
    ]
    return table(["strategy", "allocation", "picker", "what it does"], rows)


def scores() -> str:
    """Every score with its definition, cost and source."""
    rows = [
        [
            f"`{name}`",
            score.about,
            "; ".join(cost for need, cost in MEASUREMENTS.items() if need in score.needs) or "nothing",
            score.source,
        ]
        for name, score in SCORES.items()
    ]
    return table(["score", "definition", "cost", "source"], rows)
