"""Estimates from earlier rounds: how fast each cluster's loss falls per amount spent on it, with errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selection.candidates import PastRound
from selection.losses import ClusterLosses

LEAST, MOST = 0.25, 4.0
"""Limits of a cluster's speed, relative to the mean."""


@dataclass(frozen=True)
class Evidence:
    """Estimates for each cluster; arrays (k,).

    `spent`: the size of all earlier picks, in the budget's unit. `fall`: share of the loss that goes with each doubling of `spent`,
    shrunk towards the mean, NaN without evidence. `fall_error`: its standard error. `relative_fall`: `fall` over the mean, between
    LEAST and MOST, 1 without evidence. `gain`, `gain_error`: `fall` in nats of the present loss, and its error.
    """

    spent: np.ndarray
    fall: np.ndarray
    fall_error: np.ndarray
    relative_fall: np.ndarray
    gain: np.ndarray
    gain_error: np.ndarray


def gather(past: Sequence[PastRound], now: ClusterLosses) -> Evidence:
    """Estimate how fast every cluster's loss falls.

    Between two measurements the total picked from a cluster goes from m to n, and its loss from a to b. Then

        y = log(a / b) = β + α · x + error,   x = log2((n + 1) / (m + 1))

    β is the fall of a round without any pick from the cluster, the same for all clusters. One is added to m and n because a cluster also
    learns from the others. The error of y follows from the standard errors of a and b. A cluster's α is the mean α plus a
    deviation, shrunk by the ratio of its variance to that of the estimate (empirical Bayes, as in `selection.losses`).

    Args:
        past: earlier rounds, oldest first; at least one.
        now: the losses of the present round.
    """
    k = len(now.size)
    spent = np.cumsum([_fit(entry.spent, k, 0.0) for entry in past], axis=0)
    losses = [_fit(entry.loss, k) for entry in past] + [now.mean]
    errors = [_fit(entry.stderr, k) for entry in past] + [now.stderr]
    x, y, v = [], [], []
    for r in range(len(past)):
        before = spent[r - 1] if r else np.zeros(k)
        a, b = np.maximum(losses[r], 1e-3), np.maximum(losses[r + 1], 1e-3)
        x.append(np.log2((spent[r] + 1) / (before + 1)))
        y.append(np.log(a / b))
        v.append((errors[r] / a) ** 2 + (errors[r + 1] / b) ** 2 + 1e-4)
    fall, error, mean = _slopes(np.array(x), np.array(y), np.array(v))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(np.isnan(fall) | (not mean > 0), 1.0, np.clip(fall / mean, LEAST, MOST))
    level = np.nan_to_num(now.expected, nan=1.0)
    rate, unsure = np.where(np.isnan(fall), max(mean, 0.0), fall), np.where(np.isnan(error), abs(mean), error)
    return Evidence(spent[-1], fall, error, relative, level * rate, level * unsure)


def _slopes(x: np.ndarray, y: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Shrunk α of each cluster (k,), its standard error (k,), and the mean α. Inputs are (rounds, k), NaN where not measured."""
    k = x.shape[1]
    nothing = np.full(k, np.nan), np.full(k, np.nan), 0.0
    known = np.isfinite(y) & np.isfinite(v)
    if known.sum() < 3 or np.ptp(x[known]) == 0:
        return nothing
    weight = np.where(known, 1 / np.where(known, v, 1.0), 0.0)
    beta, mean = _line(x[known], y[known], weight[known])
    information = (weight * x**2).sum(0)
    seen = information > 0
    own = np.where(
        seen, (weight * x * np.where(known, y - beta, 0.0)).sum(0) / np.where(seen, information, 1.0), np.nan
    )
    variance = np.where(seen, 1 / np.where(seen, information, 1.0), np.nan)
    spread = max(0.0, float(np.average((own[seen] - mean) ** 2 - variance[seen], weights=1 / variance[seen])))
    kept = spread / (spread + variance) if spread > 0 else np.where(seen, 0.0, np.nan)
    fall = np.where(seen, mean + kept * (own - mean), np.nan)
    return fall, np.where(seen, np.sqrt(kept * variance + 1e-8), np.nan), mean


def _line(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of the weighted least-squares line."""
    centre_x, centre_y = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = float((weight * (x - centre_x) ** 2).sum())
    slope = float((weight * (x - centre_x) * (y - centre_y)).sum()) / spread if spread > 0 else 0.0
    return float(centre_y - slope * centre_x), slope


def _fit(values: np.ndarray, k: int, fill: float = np.nan) -> np.ndarray:
    """(k,) the first k of `values`, padded with `fill`."""
    return np.r_[np.asarray(values, dtype=np.float64)[:k], np.full(max(0, k - len(values)), fill)]
