"""ROUGE-L of a written text and a reference (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3)."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
"""Words; each character of Chinese and Japanese. On ASCII text these are the tokens of the rouge-score package."""


def rouge_l(written: str, reference: str) -> float:
    """F1 of the longest common subsequence of their tokens in lower case, without stemming: 0 (nothing in common) to 1. O(n m) time."""
    ours, theirs = (_TOKEN.findall(text.lower()) for text in (written, reference))
    common = _longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _longest_common(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, with one row of the table in memory."""
    row = [0] * (len(second) + 1)
    for token in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if token == other else max(row[j], row[j - 1])
    return row[-1]
