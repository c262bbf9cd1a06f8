"""Scores: one number per example out of its statistics, higher = more worth training on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Score = Callable[[Mapping[str, np.ndarray]], np.ndarray]

SCORES: dict[str, Score] = {
    "nll": lambda statistics: statistics["nll_mean"],
    "entropy": lambda statistics: statistics["entropy_mean"],
}
"""`nll`: mean negative log-likelihood per response token, nats: what the model gets wrong (noise included).
`entropy`: mean entropy of the model's predictions over the response, nats: what it is unsure of, whatever the answer."""


def length_correlation(score: np.ndarray, tokens: np.ndarray) -> float | None:
    """Spearman's rank correlation of a score with length, over the examples where the score is measured.

    Far from 0 means that ranking by the score ranks by length. None if fewer than 3 are measured or one of the two is constant.
    """
    from scipy.stats import spearmanr

    known = np.isfinite(score)
    score, tokens = np.asarray(score)[known], np.asarray(tokens)[known]
    if len(score) < 3 or np.ptp(score) == 0 or np.ptp(tokens) == 0:
        return None
    return float(spearmanr(score, tokens).statistic)
