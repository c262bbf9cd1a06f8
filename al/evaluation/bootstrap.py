"""Paired bootstrap of differences between two models on the same held-out examples. NumPy only.

Two ways of resampling, because the two kinds of mean answer two questions:

*Micro* metrics weigh examples or tokens alike, so examples are drawn from the whole split (Efron and Tibshirani 1993, chapter 8).

*Macro* metrics are means over sources, so each source is resampled by itself (a stratified bootstrap, Davison and Hinkley 1997,
section 3.2): drawn from the whole split, a source of one example would be missing from a third of the resamples, one of two from an
eighth, and the mean would be that of other sources. Of n examples of a source n - 1 are drawn, which makes the variance of small
sources unbiased (Rao and Wu 1988; the plain bootstrap's is (n - 1) / n of it). One example does not show its source's spread:
such a source is given that of the others on average (survey statistics' "average" rule for strata with a single unit, Lumley 2010),
as the residual of an example drawn from a source drawn at random. If every source has one example, their spread about their
common mean is taken.

Few examples make percentile intervals too narrow (Hesterberg 2015, section 3): their ends are moved outwards as Student's t is wider
than the normal distribution, with the degrees of freedom of the sources' variances (Satterthwaite 1946).

Both models see the same draws (Koehn 2004). Shapes: B resamples, n examples sorted by source, S sources, J sources of one example.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from al.evaluation.metrics import Measured, Scores, metrics, sums

BLOCK_NUMBERS = 2_000_000
"""Weights that are held at once: 16 MB."""

Interval = dict[str, float]


@dataclass(frozen=True)
class Strata:
    """Examples by source: `order` (n,) sorts them, `start` and `size` (S,) say where each source begins and how many it has."""

    order: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, source: np.ndarray) -> Strata:
        """Strata of examples with these integer codes (n,); no code below the highest is missing."""
        size = np.bincount(source)
        return cls(np.argsort(source, kind="stable"), np.cumsum(size) - size, size)

    @property
    def alone(self) -> np.ndarray:
        """(J,) the sources of one example."""
        return np.flatnonzero(self.size == 1)

    def lending(self) -> np.ndarray:
        """(n,) how likely an example is to lend its residual: every source of two or more alike, else every example alike."""
        share = np.where(self.size > 1, 1.0 / self.size, 0.0)
        share = share if share.any() else np.ones(len(share))
        each = np.repeat(share, self.size)
        return each / each.sum()


@dataclass(frozen=True)
class Draws:
    """A block of resamples: how often each example counts when drawn from all (`overall`) and inside its source (`within`), both
    (B, n), and which example lends its residual to each source of one example (`lent`, (B, J))."""

    overall: np.ndarray
    within: np.ndarray
    lent: np.ndarray


def draw(strata: Strata, resamples: int, seed: int) -> Iterator[Draws]:
    """`resamples` resamples in blocks that take little memory."""
    rng = np.random.default_rng([seed, 0xB007])
    n = len(strata.order)
    block = int(np.clip(BLOCK_NUMBERS // n, 1, 250))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        overall = rng.multinomial(n, np.full(n, 1.0 / n), size=count)
        within = [rng.multinomial(max(size - 1, 1), np.full(size, 1.0 / size), size=count) for size in strata.size]
        lent = rng.choice(n, size=(count, len(strata.alone)), p=strata.lending())
        yield Draws(overall, np.concatenate(within, axis=1), lent)


@dataclass(frozen=True)
class Differences:
    """One model minus another. `value` {metric: number} and `micro` {micro metric: (B,)}; `by_source` {measure of `sums`: (B, S)} in every
    resample, `at_source` (S,) as measured; `size` (S,) examples of each source."""

    size: np.ndarray
    value: dict[str, float]
    micro: dict[str, np.ndarray]
    by_source: dict[str, np.ndarray]
    at_source: dict[str, np.ndarray]

    def intervals(self) -> dict[str, Interval]:
        """{metric: {"value", "low", "high", "p"}}."""
        every = np.arange(len(self.size))
        found = {metric: interval(self.value[metric], resampled) for metric, resampled in self.micro.items()}
        found |= {f"macro_{measure}": self.of_sources(every, measure) for measure in self.by_source}
        return {metric: found[metric] for metric in self.value}

    def of_sources(self, sources: np.ndarray, measure: str) -> Interval:
        """The same for the mean of a measure over some sources (codes)."""
        resampled, value = self.by_source[measure][:, sources], float(self.at_source[measure][sources].mean())
        return interval(value, resampled.mean(1), _freedom(resampled.var(0), self.size[sources], self.size))


def paired_differences(a: Measured | Scores, b: Measured | Scores, resamples: int, seed: int) -> Differences:
    """Differences a − b of two models measured on the same examples, with `resamples` resamples of them."""
    strata = Strata.of(a.source)
    first, second = (_sorted(measured, strata.order) for measured in (a, b))
    spread = [_residuals(measured, strata) for measured in (first, second)]
    micro: dict[str, list[np.ndarray]] = {}
    by_source: dict[str, list[np.ndarray]] = {}
    for drawn in draw(strata, resamples, seed):
        for name, (top, bottom) in sums(first).items():
            other_top, other_bottom = sums(second)[name]
            one, two = (
                _ratio(drawn.overall @ top, drawn.overall @ bottom),
                _ratio(drawn.overall @ other_top, drawn.overall @ other_bottom),
            )
            micro.setdefault(f"micro_{name}", []).append(one - two)
            values = [_of_sources(drawn.within, *pair, strata) for pair in ((top, bottom), (other_top, other_bottom))]
            difference = values[0] - values[1]
            difference[:, strata.alone] += (spread[0][name] - spread[1][name])[drawn.lent]
            by_source.setdefault(name, []).append(difference)
    point_a, point_b = metrics(a), metrics(b)
    ones = np.ones((1, len(a.source)))
    return Differences(
        strata.size,
        {name: float(point_a[name][0] - point_b[name][0]) for name in point_a},
        {name: np.concatenate(parts) for name, parts in micro.items()},
        {name: np.concatenate(parts) for name, parts in by_source.items()},
        {
            name: (_of_sources(ones, *pair, strata) - _of_sources(ones, *sums(second)[name], strata))[0]
            for name, pair in sums(first).items()
        },
    )


def paired_bootstrap(a: Measured, b: Measured, resamples: int, seed: int) -> dict[str, Interval]:
    """Difference a − b of every metric with a 95% percentile interval and a two-sided p-value: {metric: {"value", "low", "high", "p"}}."""
    return paired_differences(a, b, resamples, seed).intervals()


def interval(value: float, resampled: np.ndarray, freedom: float = np.inf) -> Interval:
    """A value with the ends of its 95% interval and a two-sided p-value, from its resamples (B,).

    With infinite degrees of freedom the ends are the 2.5% and 97.5% quantiles, and p is twice the lesser of the shares of resamples on
    either side of 0, at least 2 / (B + 1).
    """
    from scipy.special import ndtr, ndtri, stdtr, stdtrit

    tail = ndtr(stdtrit(freedom, 0.025)) if np.isfinite(freedom) else 0.025
    low, high = np.quantile(resampled, [tail, 1 - tail])
    beyond = 1 + min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    share = min(0.5, beyond / (len(resampled) + 1))
    p = 2 * (stdtr(freedom, ndtri(share)) if np.isfinite(freedom) else share)
    return {"value": value, "low": float(low), "high": float(high), "p": float(p)}


def _freedom(variance: np.ndarray, size: np.ndarray, every_size: np.ndarray) -> float:
    """Degrees of freedom of a sum of independent variances (Satterthwaite 1946); a source of one example has those of what it was lent."""
    lent = float((every_size - 1).sum()) or float(len(every_size) - 1)
    each = np.where(size > 1, size - 1, lent)
    scale = variance.sum()
    if not scale > 0 or lent == 0:
        return np.inf
    return float(1 / ((variance / scale) ** 2 / each).sum())


def _sorted(measured: Measured | Scores, order: np.ndarray) -> Measured | Scores:
    return type(measured)(**{name: values[order] for name, values in vars(measured).items()})


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return top / np.maximum(bottom, 1e-12)


def _of_sources(weights: np.ndarray, top: np.ndarray, bottom: np.ndarray, strata: Strata) -> np.ndarray:
    """(B, S) ratio of the weighted sums inside each source."""
    return _ratio(
        np.add.reduceat(weights * top, strata.start, axis=1), np.add.reduceat(weights * bottom, strata.start, axis=1)
    )


def _residuals(measured: Measured | Scores, strata: Strata) -> dict[str, np.ndarray]:
    """{measure: (n,)} how far each example is from the ratio of its source, to first order, scaled to the variance of one example."""
    found = {}
    for name, (top, bottom) in sums(measured).items():
        value = _of_sources(np.ones((1, len(top))), top, bottom, strata)[0]
        if (strata.size == 1).all():
            count = len(value)
            found[name] = (value - value.mean()) * np.sqrt(count / max(count - 1, 1))
            continue
        size = np.repeat(strata.size, strata.size)
        mean_bottom = np.repeat(np.add.reduceat(bottom, strata.start) / strata.size, strata.size)
        found[name] = _ratio(top - np.repeat(value, strata.size) * bottom, mean_bottom) * np.sqrt(
            size / np.maximum(size - 1, 1)
        )
    return found
