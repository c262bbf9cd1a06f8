"""Holdout metrics and the paired bootstrap against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from al.evaluation.bootstrap import paired_bootstrap
from al.evaluation.metrics import METRICS, Measured, metrics


def measured(rng, n=60, sources=4, shift=0.0):
    targets = rng.integers(2, 20, n).astype(float)
    nll = targets * (1.5 + shift + 0.3 * rng.standard_normal(n))
    correct = (rng.random(n) < 0.3).astype(float)
    return Measured(nll, targets, correct, nll * 0.9, targets - 1, correct, np.arange(n) % sources)


def test_micro_weighs_tokens_and_macro_weighs_sources():
    m = Measured(
        np.array([2.0, 4.0, 30.0]),
        np.array([1.0, 1.0, 10.0]),
        np.array([1.0, 0.0, 0.0]),
        np.array([1.0, 1.0, 9.0]),
        np.array([1.0, 1.0, 9.0]),
        np.array([1.0, 1.0, 0.0]),
        np.array([0, 0, 1]),
    )
    values = {name: float(v[0]) for name, v in metrics(m).items()}
    assert values["micro_nll"] == pytest.approx(36 / 12)
    assert values["macro_nll"] == pytest.approx((6 / 2 + 30 / 10) / 2)
    assert values["micro_em"] == pytest.approx(1 / 3)
    assert values["macro_em"] == pytest.approx((0.5 + 0) / 2)
    assert values["micro_nll_no_end"] == pytest.approx(11 / 11)
    assert values["macro_em_no_end"] == pytest.approx((1 + 0) / 2)


def test_weights_count_examples_more_than_once():
    rng = np.random.default_rng(0)
    m = measured(rng, n=10, sources=2)
    weights = np.zeros((1, 10))
    weights[0, [0, 1, 2]] = [2, 1, 1]
    rows = np.array([0, 0, 1, 2])
    repeated = Measured(
        *(
            getattr(m, f)[rows]
            for f in ("nll", "targets", "correct", "nll_no_end", "targets_no_end", "correct_no_end", "source")
        )
    )
    for name in METRICS:
        assert metrics(m, weights)[name][0] == pytest.approx(metrics(repeated)[name][0]), name


def test_the_paired_bootstrap_sees_a_small_steady_difference_that_unpaired_intervals_would_miss():
    rng = np.random.default_rng(1)
    a = measured(rng)
    b = Measured(
        a.nll + 0.05 * a.targets,
        *(getattr(a, f) for f in ("targets", "correct", "nll_no_end", "targets_no_end", "correct_no_end", "source")),
    )
    difference = paired_bootstrap(a, b, 500, seed=0)["macro_nll"]
    assert difference["value"] == pytest.approx(-0.05, abs=1e-6)
    assert difference["high"] < 0 and difference["p"] < 0.01


def test_equal_models_give_an_interval_at_zero_and_no_evidence():
    rng = np.random.default_rng(2)
    a = measured(rng)
    for name, difference in paired_bootstrap(a, a, 200, seed=0).items():
        assert difference["value"] == 0 and difference["low"] <= 0 <= difference["high"] and difference["p"] == 1.0, (
            name
        )


def test_the_interval_covers_the_true_difference_about_95_times_in_100():
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng([3, seed])
        n = 80
        targets = np.full(n, 10.0)
        a, b = (
            Measured(
                10 * (2 + rng.standard_normal(n) * 0.5),
                targets,
                np.zeros(n),
                np.zeros(n),
                targets,
                np.zeros(n),
                np.zeros(n, int),
            )
            for _ in range(2)
        )
        interval = paired_bootstrap(a, b, 400, seed)["micro_nll"]
        covered += interval["low"] <= 0 <= interval["high"]
    assert 50 <= covered <= 60


def test_the_same_seed_gives_the_same_interval():
    a, b = (measured(np.random.default_rng(s)) for s in (4, 5))
    assert paired_bootstrap(a, b, 300, 7) == paired_bootstrap(a, b, 300, 7)
    assert paired_bootstrap(a, b, 300, 7) != paired_bootstrap(a, b, 300, 8)
