"""Mean loss of each cluster, estimated from a sample; small samples are shrunk more towards the mean of all clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selection.candidates import Candidates

PRIOR_DEGREES = 4.0
"""Weight of the variance pooled over clusters, in observations: with 8 measured a cluster's own variance counts 7 to 4."""


@dataclass(frozen=True)
class ClusterLosses:
    """Estimates for each cluster; arrays (k,), losses in nats per response token.

    `size`: candidates that are not held back. `measured`: how many of them have a loss. `mean`, `stderr`: of the measured losses, NaN
    where unknown. `expected`: the mean after shrinkage, NaN only if the whole pool has no measurement. `pool_mean`: mean of
    `expected`, weighted by `size`.
    """

    size: np.ndarray
    measured: np.ndarray
    mean: np.ndarray
    stderr: np.ndarray
    expected: np.ndarray
    pool_mean: float


def cluster_losses(candidates: Candidates) -> ClusterLosses:
    """Empirical Bayes estimate of each cluster's mean loss; see `cluster_means`."""
    return cluster_means(candidates, candidates.loss)


def cluster_means(candidates: Candidates, values: np.ndarray) -> ClusterLosses:
    """Empirical Bayes estimate of each cluster's mean of `values` (n,), NaN where not measured.

    With y the mean of m measured out of N candidates of a cluster:

        v  = s² / m · (1 - m / N)                 sampling variance; 0 if the whole cluster is measured (Cochran 1977, ch. 2)
        s² = (4 s_pooled² + (m - 1) s_own²) / (4 + m - 1)         own variance moderated by the pooled one (Smyth 2004)
        τ² = max(0, variance of y over clusters - mean of v)      spread of the true means (Hedges & Olkin 1985, ch. 9)
        μ  = Σ y / (v + τ²) / Σ 1 / (v + τ²)
        expected = B μ + (1 - B) y,   B = v / (v + τ²)            (Efron & Morris 1975, unequal variances: Casella 1985)

    A cluster without measurements gets μ. If no cluster has two measurements, the sampling variance is unknown, and every cluster
    gets the mean of all measurements.
    """
    trusted = candidates.trusted
    size = np.bincount(candidates.cluster[trusted], minlength=candidates.clusters)
    return grouped_means(candidates.cluster, np.where(trusted, values, np.nan), size)


def grouped_means(cluster: np.ndarray, values: np.ndarray, size: np.ndarray) -> ClusterLosses:
    """As `cluster_means`, for `values` (m,) of examples in clusters `cluster` (m,); `size` (k,): all examples of each cluster."""
    k, known = len(size), ~np.isnan(values)
    cluster, values = cluster[known], values[known]
    measured = np.bincount(cluster, minlength=k)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(cluster, weights=values, minlength=k) / measured
    variance = _sampling_variance(cluster, values, mean, measured, np.maximum(size, measured))
    expected = _shrink(mean, variance, measured)
    pool_mean = float(np.average(expected, weights=np.maximum(size, 1e-9)))
    return ClusterLosses(size, measured, mean, np.sqrt(variance), expected, pool_mean)


def _sampling_variance(
    cluster: np.ndarray, loss: np.ndarray, mean: np.ndarray, measured: np.ndarray, size: np.ndarray
) -> np.ndarray:
    squares = np.bincount(cluster, weights=(loss - mean[cluster]) ** 2, minlength=len(size))
    degrees = np.maximum(measured - 1, 0)
    if degrees.sum() == 0:
        return np.full(len(size), np.nan)
    pooled = squares.sum() / degrees.sum()
    moderated = (PRIOR_DEGREES * pooled + squares) / (PRIOR_DEGREES + degrees)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(measured > 0, moderated / measured * (1 - measured / size), np.nan)


def _shrink(mean: np.ndarray, variance: np.ndarray, measured: np.ndarray) -> np.ndarray:
    seen = measured > 0
    if not seen.any():
        return np.full(len(mean), np.nan)
    y, v = mean[seen], variance[seen]
    if np.isnan(v).any():
        return np.full(len(mean), np.average(y, weights=measured[seen]))
    spread = max(0.0, float(np.var(y, ddof=1) - v.mean())) if len(y) > 1 else 0.0
    floor = 1e-12 * (1.0 + float(np.square(y).mean()))
    prior = float(np.average(y, weights=1 / np.maximum(v + spread, floor)))
    result = np.full(len(mean), prior)
    result[seen] = y + v / np.maximum(v + spread, floor) * (prior - y)
    return result
