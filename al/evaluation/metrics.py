"""Holdout metrics. NumPy only; al.evaluation.bootstrap has the intervals of their differences.

NLL is in nats per response token. *Micro* weighs every token (NLL) or example (exact match) alike; *macro* is the plain mean of
the sources' values, so that a huge source does not drown the small ones. Exact match is teacher-forced: every response token
is the model's first choice given the true text before it. Both are given with and without the end-of-turn token, because NLL
gains overstate accuracy gains and the end token is easy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = (
    "micro_nll",
    "macro_nll",
    "micro_em",
    "macro_em",
    "micro_nll_no_end",
    "macro_nll_no_end",
    "micro_em_no_end",
    "macro_em_no_end",
)


@dataclass(frozen=True)
class Measured:
    """Per-example results of one model on one split; all arrays (n,), row-aligned between the models compared.

    `nll`: summed over response tokens, in nats. `targets`: response tokens, end-of-turn tokens included. `correct`: 0 or 1.
    The `_no_end` arrays leave the end-of-turn tokens out. `source`: integer code of the example's source.
    """

    nll: np.ndarray
    targets: np.ndarray
    correct: np.ndarray
    nll_no_end: np.ndarray
    targets_no_end: np.ndarray
    correct_no_end: np.ndarray
    source: np.ndarray


@dataclass(frozen=True)
class Scores:
    """One score of every example (n,), 0 to 1, by one model. `source`: integer code of the example's source."""

    score: np.ndarray
    source: np.ndarray


def metrics(measured: Measured | Scores, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every metric under one or many weightings of the examples.

    Args:
        weights: (B, n) how often each example counts, or None for once each.

    Returns:
        {name: (B,)}; sources without any weight are left out of a macro mean.
    """
    n = len(measured.source)
    w = np.ones((1, n)) if weights is None else weights.astype(np.float64)
    sources = int(measured.source.max()) + 1
    membership = np.zeros((n, sources))
    membership[np.arange(n), measured.source] = 1.0
    result = {}
    for name, (top, bottom) in sums(measured).items():
        micro = (w @ top) / np.maximum(w @ bottom, 1e-12)
        upper, lower = w @ (membership * top[:, None]), w @ (membership * bottom[:, None])
        present = lower > 0
        macro = np.where(present, upper / np.maximum(lower, 1e-12), 0.0).sum(1) / np.maximum(present.sum(1), 1)
        result[f"micro_{name}"], result[f"macro_{name}"] = micro, macro
    return result


def sums(measured: Measured | Scores) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per measure ("nll", "em", "nll_no_end", "em_no_end"; or "score") what is summed and what the sum is divided by, both (n,)."""
    each = np.ones(len(measured.source))
    if isinstance(measured, Scores):
        return {"score": (measured.score, each)}
    return {
        "nll": (measured.nll, measured.targets),
        "em": (measured.correct, each),
        "nll_no_end": (measured.nll_no_end, measured.targets_no_end),
        "em_no_end": (measured.correct_no_end, each),
    }
