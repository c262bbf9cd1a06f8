"""Scores: one number per example out of what was measured of it, higher = more worth training on.

A score names the measurements it needs; whoever measures takes the union of what is asked for and measures once. Columns of
measurements (n,), NaN where an example was not measured:

    response     nll_mean, entropy_mean, top_mean, margin_mean   per response token, from one forward pass
    unprompted   nll_unprompted_mean                             the response in the same frame without its prompt
    reference    nll_reference_mean                              under another adapter
    history      nll_before                                      lowest nll_mean of earlier rounds
    pooled       rds_similarity                                  to target examples, by pooled hidden states
    gradient     less_similarity                                 to target examples, by projected gradients
    quality      quality                                         the user's own column
    tokens       tokens                                          length; always known
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from selection.errors import SelectionUsageError, nearest_name

Columns = Mapping[str, np.ndarray]

COLUMNS = (
    "nll_mean", "entropy_mean", "top_mean", "margin_mean", "nll_unprompted_mean", "nll_reference_mean", "nll_before",
    "rds_similarity", "less_similarity", "quality", "tokens",
)  # fmt: skip
"""Every column that a score reads."""
TARGETED = frozenset({"pooled", "gradient"})
"""Measurements that need examples of what to be good at."""


@dataclass(frozen=True)
class Score:
    """`compute` gives (n,) float64 from the columns, NaN where an example lacks what it needs. `needs`: names of measurements."""

    about: str
    needs: frozenset[str]
    compute: Callable[[Columns], np.ndarray]


def _score(about: str, needs: str, compute: Callable[[Columns], np.ndarray]) -> Score:
    return Score(about, frozenset(needs.split()), compute)


SCORES: dict[str, Score] = {
    "nll": _score("what the model gets wrong, noise included", "response", lambda c: c["nll_mean"]),
    "entropy": _score("what it is unsure of, whatever the answer", "response", lambda c: c["entropy_mean"]),
    "margin": _score(
        "how near the second most probable token comes to the first", "response", lambda c: 1 - c["margin_mean"]
    ),
    "least_confidence": _score(
        "how far the most probable token is from certain", "response", lambda c: 1 - c["top_mean"]
    ),
    # Li et al. 2023 (arXiv 2308.12032): the ratio of the two losses. It costs a second forward pass over the responses.
    "ifd": _score(
        "how little the prompt helps to predict the response (instruction-following difficulty)",
        "response unprompted",
        lambda c: _ratio(c["nll_mean"], c["nll_unprompted_mean"]),
    ),
    # Mindermann et al. 2022 (arXiv 2206.07137): loss that a model which knows better does not have is not noise.
    "learnability": _score(
        "what a reference adapter has learned and this one has not",
        "response reference",
        lambda c: c["nll_mean"] - c["nll_reference_mean"],
    ),
    # After Toneva et al. 2019 (arXiv 1812.05159), with losses in place of right and wrong.
    "forgetting": _score(
        "what earlier rounds knew better", "response history", lambda c: c["nll_mean"] - c["nll_before"]
    ),
    # Ivison et al. 2025 (arXiv 2503.01807).
    "rds": _score("nearness to the target, by pooled hidden states", "pooled", lambda c: c["rds_similarity"]),
    # Xia et al. 2024 (arXiv 2402.04333).
    "less": _score("how much it moves the model towards the target", "gradient", lambda c: c["less_similarity"]),
    "length": _score("long examples, a baseline that is hard to beat", "", lambda c: c["tokens"].astype(np.float64)),
    "quality": _score("a column of your own", "quality", lambda c: c["quality"]),
}
"""By name; docs/selection.md says more of each."""

Wish = str | Mapping[str, float]
"""A score, or several with weights: {"nll": 1, "quality": 2}."""


def check(wish: Wish) -> None:
    """Raises SelectionUsageError for an unknown score (naming the nearest) or weights that are all zero or not finite."""
    weights = _weights(wish)
    for name in weights:
        if name not in SCORES:
            raise SelectionUsageError(nearest_name("score", name, SCORES))
    values = np.array(list(weights.values()), dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or not values.any():
        raise SelectionUsageError(f"weights of scores: expected finite numbers, not all zero, found {dict(weights)}")


def needs(*wishes: Wish) -> frozenset[str]:
    """The measurements that scores need, in all."""
    return frozenset().union(*(SCORES[name].needs for wish in wishes for name in _weights(wish)))


def compute(wish: Wish, columns: Columns) -> np.ndarray:
    """(n,) a score, or the combination of several: the weighted mean of their ranks, scaled to 0 … 1 over the examples that
    have all of them; NaN for the others. Ranks, because scores have no common unit; ties share their mean rank."""
    weights = _weights(wish)
    if list(weights.values()) == [1.0]:
        return np.asarray(SCORES[next(iter(weights))].compute(columns), dtype=np.float64)
    from scipy.stats import rankdata

    values = np.stack([SCORES[name].compute(columns) for name in weights])
    whole = np.isfinite(values).all(axis=0)
    result = np.full(values.shape[1], np.nan)
    if whole.any():
        ranks = (rankdata(values[:, whole], axis=1) - 0.5) / whole.sum()
        shares = np.array(list(weights.values()), dtype=np.float64)
        result[whole] = (shares[:, None] * ranks).sum(axis=0) / np.abs(shares).sum()
    return result


def describe(wish: Wish) -> str:
    """A score or a combination in words: `nll`, `1 × nll + 2 × quality (ranks)`."""
    if isinstance(wish, str):
        return wish
    return " + ".join(f"{weight:g} × {name}" for name, weight in wish.items()) + " (ranks)"


def computable(columns: Columns, measured: frozenset[str]) -> dict[str, np.ndarray]:
    """Every score whose needs are among `measured`, by name: what a report can show without another measurement."""
    return {name: compute(name, columns) for name, score in SCORES.items() if score.needs <= measured}


def similarity(vectors: np.ndarray, targets: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """(n,) cosine of unit `vectors` (n, d) to unit `targets` (t, d): to the nearest one, or with `groups` (t,) the highest
    mean over a group (LESS: groups are the target's tasks). O(n · t) time, in blocks."""
    result = np.empty(len(vectors), dtype=np.float64)
    targets = np.asarray(targets, dtype=np.float32)
    if groups is not None:
        _, codes = np.unique(groups, return_inverse=True)
        sums = np.zeros((codes.max() + 1, targets.shape[1]), dtype=np.float32)
        np.add.at(sums, codes, targets)
        targets = sums / np.bincount(codes)[:, None]
    for start in range(0, len(vectors), 4096):
        block = np.asarray(vectors[start : start + 4096], dtype=np.float32)
        result[start : start + 4096] = (block @ targets.T).max(axis=1)
    return result


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


def _weights(wish: Wish) -> Mapping[str, float]:
    return {wish: 1.0} if isinstance(wish, str) else {name: float(weight) for name, weight in wish.items()}


def _ratio(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lower > 0, upper / lower, np.nan)
