"""Holdout metrics and the paired bootstrap. NumPy only.

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


def metrics(measured: Measured, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every metric under one or many weightings of the examples.

    Args:
        weights: (B, n) how often each example counts, or None for once each.

    Returns:
        {name: (B,)}; sources without any weight are left out of a macro mean.
    """
    n = len(measured.nll)
    w = np.ones((1, n)) if weights is None else weights.astype(np.float64)
    sources = int(measured.source.max()) + 1
    membership = np.zeros((n, sources))
    membership[np.arange(n), measured.source] = 1.0
    result = {}
    for suffix, nll, targets, correct in (
        ("", measured.nll, measured.targets, measured.correct),
        ("_no_end", measured.nll_no_end, measured.targets_no_end, measured.correct_no_end),
    ):
        for name, top, bottom in (("nll", nll, targets), ("em", correct, np.ones(n))):
            micro = (w @ top) / np.maximum(w @ bottom, 1e-12)
            upper, lower = w @ (membership * top[:, None]), w @ (membership * bottom[:, None])
            present = lower > 0
            macro = np.where(present, upper / np.maximum(lower, 1e-12), 0.0).sum(1) / np.maximum(present.sum(1), 1)
            result[f"micro_{name}{suffix}"], result[f"macro_{name}{suffix}"] = micro, macro
    return result


def paired_bootstrap(a: Measured, b: Measured, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Difference a − b of every metric with a 95% percentile interval and a two-sided p-value.

    Examples are resampled with replacement, the same draw for both models (Efron and Tibshirani 1993, chapter 8; paired as in
    Koehn 2004). p = 2·min(share of resamples ≤ 0, share ≥ 0), at least 1 / (resamples + 1).

    Returns:
        {metric: {"value", "low", "high", "p"}}.
    """
    rng = np.random.default_rng([seed, 0xB007])
    n, block = len(a.nll), 250
    point_a, point_b = metrics(a), metrics(b)
    draws: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        weights = rng.multinomial(n, np.full(n, 1.0 / n), size=size)
        resampled_a, resampled_b = metrics(a, weights), metrics(b, weights)
        for name in METRICS:
            draws[name].append(resampled_a[name] - resampled_b[name])
    result = {}
    for name in METRICS:
        values = np.concatenate(draws[name])
        low, high = np.quantile(values, [0.025, 0.975])
        p = min(1.0, 2 * min((1 + (values <= 0).sum()) / (resamples + 1), (1 + (values >= 0).sum()) / (resamples + 1)))
        result[name] = {
            "value": float(point_a[name][0] - point_b[name][0]),
            "low": float(low),
            "high": float(high),
            "p": float(p),
        }
    return result
