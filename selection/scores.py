"""Scores: one number per example from its measurements, higher = more worth training on.

A score names the measurements it needs. The scoring stage measures the union of what all scores in use need, once. Columns of
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
MEASUREMENTS = {
    "response": "one forward pass, shared with the quotas",
    "unprompted": "a second pass over the responses",
    "reference": "a second pass with the other adapter",
    "history": "losses of earlier rounds",
    "pooled": "one vector an example",
    "gradient": "about as much as training on the measured examples, and 32 KB an example, for each of `score.checkpoints`",
    "quality": "nothing",
}
"""What each measurement costs."""
TARGETED = frozenset({"pooled", "gradient"})
"""Measurements that need target examples."""


@dataclass(frozen=True)
class Score:
    """One number per example. Help, docs/strategies.md and the report take their words from here.

    `compute` gives (n,) float64 from the columns, NaN where an example lacks what the score needs. `needs`: names of MEASUREMENTS.
    `about`: what the score is, without a final full stop. `label`: the axis of its chart, with the unit; without one, name and
    about. `source`: the paper, or what it follows.
    """

    about: str
    needs: frozenset[str]
    compute: Callable[[Columns], np.ndarray]
    label: str = ""
    source: str = ""


def _score(
    about: str, needs: str, compute: Callable[[Columns], np.ndarray], label: str = "", source: str = ""
) -> Score:
    return Score(about, frozenset(needs.split()), compute, label, source)


SCORES: dict[str, Score] = {
    "nll": _score(
        "mean NLL per response token: the model's errors, including noise",
        "response",
        lambda c: c["nll_mean"],
        label="NLL, nats per response token",
    ),
    "entropy": _score(
        "the model's uncertainty: mean entropy of its predictions",
        "response",
        lambda c: c["entropy_mean"],
        label="Entropy, nats per response token",
        source="Settles 2009",
    ),
    "margin": _score(
        "the model's uncertainty: 1 - (highest - second-highest probability)",
        "response",
        lambda c: 1 - c["margin_mean"],
        label="Margin: 1 − gap of the two likeliest tokens",
        source="Settles 2009",
    ),
    "least_confidence": _score(
        "the model's uncertainty: 1 - highest probability",
        "response",
        lambda c: 1 - c["top_mean"],
        label="1 − the likeliest token's probability",
        source="Settles 2009",
    ),
    "ifd": _score(
        "NLL given the prompt over NLL without it (instruction-following difficulty)",
        "response unprompted",
        lambda c: _ratio(c["nll_mean"], c["nll_unprompted_mean"]),
        label="IFD: NLL with the prompt over NLL without it",
        source="arXiv 2308.12032",
    ),
    "learnability": _score(
        "NLL minus that of `score.reference`, a better adapter: high loss that can be learned",
        "response reference",
        lambda c: c["nll_mean"] - c["nll_reference_mean"],
        label="Learnability: NLL above the reference adapter's, nats",
        source="arXiv 2206.07137",
    ),
    "forgetting": _score(
        "NLL minus the lowest of earlier rounds; only for examples measured before",
        "response history",
        lambda c: c["nll_mean"] - c["nll_before"],
        label="Forgetting: NLL above the lowest of earlier rounds, nats",
        source="after arXiv 1812.05159, with losses in place of right and wrong",
    ),
    "rds": _score(
        "cosine of position-weighted pooled hidden states to the nearest target example",
        "pooled",
        lambda c: c["rds_similarity"],
        label="RDS: nearness to the target by hidden states",
        source="arXiv 2503.01807",
    ),
    "less": _score(
        "cosine of gradients, candidates' through Adam, to the target's (highest mean over its sources)",
        "gradient",
        lambda c: c["less_similarity"],
        label="LESS: nearness to the target by gradients",
        source="arXiv 2402.04333",
    ),
    "length": _score(
        "length in tokens: a baseline", "", lambda c: c["tokens"].astype(np.float64), label="Length, tokens"
    ),
    "quality": _score(
        "the numeric column `score.quality` of your files",
        "quality",
        lambda c: c["quality"],
        label="Quality, your own column",
    ),
}
"""By name."""

Wish = str | Mapping[str, float]
"""A score, or several with weights: {"nll": 1, "quality": 2}."""


def check(wish: Wish) -> None:
    """Check a score's name, or the names and weights of several.

    Raises:
        SelectionUsageError: an unknown name (the message names the nearest), weights that are not finite or all zero.
    """
    weights = _weights(wish)
    for name in weights:
        if name not in SCORES:
            raise SelectionUsageError(nearest_name("score", name, SCORES))
    values = np.array(list(weights.values()), dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or not values.any():
        raise SelectionUsageError(f"weights of scores: expected finite numbers, not all zero, found {dict(weights)}")


def needs(*wishes: Wish) -> frozenset[str]:
    """The union of the measurements that these scores need."""
    return frozenset().union(*(SCORES[name].needs for wish in wishes for name in _weights(wish)))


def compute(wish: Wish, columns: Columns) -> np.ndarray:
    """(n,) float64: one score, or the weighted mean of the ranks of several.

    Ranks are scaled to 0 … 1 over the examples that have all of the scores; the others get NaN. Ties share their mean rank. Ranks and
    not values are averaged because scores have no common unit.
    """
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
    """A score by its name, a combination as `1 × nll + 2 × quality (ranks)`."""
    if isinstance(wish, str):
        return wish
    return " + ".join(f"{weight:g} × {name}" for name, weight in wish.items()) + " (ranks)"


def computable(columns: Columns, measured: frozenset[str]) -> dict[str, np.ndarray]:
    """Every score whose needs are among `measured`, by name: the scores that a report can show without another measurement."""
    return {name: compute(name, columns) for name, score in SCORES.items() if score.needs <= measured}


def similarity(vectors: np.ndarray, targets: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """(n,) cosine of unit `vectors` (n, d) to unit `targets` (t, d): to the nearest target, or the highest mean over a group.

    `groups` (t,): the target's tasks, as in LESS (arXiv 2402.04333); None: no groups. O(n · t · d) time, in blocks.
    """
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

    A value far from 0 means that ranking by the score is ranking by length. None if fewer than 3 examples are measured or one of the
    two is constant.
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
