"""Intervals of macro metrics: every source in every resample, honest widths for sources of one or a few examples."""

from __future__ import annotations

import numpy as np
import pytest

from al.evaluation.bootstrap import Strata, draw, interval, paired_bootstrap, paired_differences
from al.evaluation.metrics import METRICS, Measured, metrics

FEW = np.array([1, 1, 1, 2, 3, 8])
"""Examples of each source, most of them few."""


def pair(seed: int, sizes: np.ndarray, effect: np.ndarray, spread: float = 0.4) -> tuple[Measured, Measured]:
    """Two models on sources of these sizes; per token, a is worse than b by `effect` of its source, give or take `spread`."""
    rng = np.random.default_rng([9, seed])
    source = np.repeat(np.arange(len(sizes)), sizes)
    n = len(source)
    tokens, level = rng.integers(3, 30, n).astype(float), rng.normal(2, 0.5, n)
    worse = effect[source] + spread * rng.standard_normal(n)
    return tuple(
        Measured(tokens * nll, tokens, (nll < 2).astype(float), tokens * nll, tokens, np.zeros(n), source)
        for nll in (level + worse, level)
    )


def test_every_source_is_in_every_resample():
    strata = Strata.of(np.repeat(np.arange(len(FEW)), FEW))
    for drawn in draw(strata, 300, seed=0):
        counts = np.add.reduceat(drawn.within, strata.start, axis=1)
        assert (counts == np.maximum(FEW - 1, 1)).all()


def test_a_source_of_one_example_is_lent_to_by_sources_of_more_alike():
    strata = Strata.of(np.repeat(np.arange(4), [1, 2, 8, 1]))
    lending = strata.lending()
    assert lending == pytest.approx([0, *[1 / 4] * 2, *[1 / 16] * 8, 0])
    assert strata.alone.tolist() == [0, 3]


def test_the_order_of_the_examples_does_not_matter():
    a, b = pair(0, FEW, np.zeros(len(FEW)))
    order = np.random.default_rng(1).permutation(len(a.nll))
    mixed = [Measured(**{name: values[order] for name, values in vars(m).items()}) for m in (a, b)]
    found, again = paired_differences(a, b, 50, 0), paired_differences(*mixed, 50, 0)
    assert found.value == pytest.approx(again.value)
    assert found.at_source["nll"] == pytest.approx(again.at_source["nll"])


def test_values_are_those_of_the_metrics():
    a, b = pair(1, FEW, np.full(len(FEW), 0.2))
    found, first, second = paired_bootstrap(a, b, 100, 0), metrics(a), metrics(b)
    for name in METRICS:
        assert found[name]["value"] == pytest.approx(first[name][0] - second[name][0]), name


@pytest.mark.parametrize("sizes", [np.array([1] * 30 + [2] * 10 + [6] * 5), np.array([2] * 25), np.array([1] * 40)])
def test_the_interval_of_a_macro_mean_covers_the_truth_about_95_times_in_100(sizes: np.ndarray):
    effect = np.random.default_rng(4).normal(-0.1, 0.25, len(sizes)) - 0.2 * (sizes == 1)
    covered = 0
    for seed in range(60):
        found = paired_differences(*pair(seed, sizes, effect), 200, seed).intervals()["macro_nll"]
        covered += found["low"] <= effect.mean() <= found["high"]
    assert covered >= 53  # 95 in 100 fall below it once in 50


def test_sources_of_one_example_do_not_make_the_interval_lean():
    """Drawn from all examples at once, a third of the small sources are missing in each resample: 86 in 100 are covered, and the
    truth lies four times as often on one side as on the other."""
    sizes = np.array([1] * 40 + [20] * 3)
    effect = np.where(sizes == 1, -0.3, 0.0)
    below = above = 0
    for seed in range(60):
        found = paired_differences(*pair(seed, sizes, effect), 200, seed).intervals()["macro_nll"]
        below += effect.mean() < found["low"]
        above += effect.mean() > found["high"]
    assert below <= 6 and above <= 6


def test_few_examples_widen_the_interval_as_students_t_does():
    resampled = np.random.default_rng(0).standard_normal(20_000)
    assert interval(0.0, resampled)["high"] == pytest.approx(1.96, abs=0.05)
    assert interval(0.0, resampled, freedom=4)["high"] == pytest.approx(2.776, abs=0.15)
    assert interval(0.0, resampled, freedom=1e6)["high"] == pytest.approx(1.96, abs=0.05)


def test_the_p_value_is_five_percent_where_the_interval_ends_at_zero():
    resampled = np.random.default_rng(0).standard_normal(20_000)
    for freedom in (4.0, 30.0, np.inf):
        end = interval(0.0, resampled, freedom)["high"]
        assert interval(0.0, resampled - end, freedom)["p"] == pytest.approx(0.05, abs=0.01)


def test_one_example_in_all_gives_a_point():
    a, b = pair(0, np.array([1]), np.zeros(1))
    found = paired_bootstrap(a, b, 100, 0)["macro_nll"]
    assert found["low"] == found["value"] == found["high"]
