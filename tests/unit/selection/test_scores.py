"""Scores out of an example's statistics, and whether a score only measures length."""

from __future__ import annotations

import numpy as np
import pytest

from selection.scores import SCORES, length_correlation


def test_each_score_reads_its_statistic():
    statistics = {"nll_mean": np.array([1.0, 2.0]), "entropy_mean": np.array([3.0, 4.0])}
    assert {name: score(statistics).tolist() for name, score in SCORES.items()} == {"nll": [1, 2], "entropy": [3, 4]}


@pytest.mark.parametrize(("score", "expected"), [([1, 2, 4, 80], 1), ([80, 4, 2, 1], -1), ([2, 80, 1, 4], 0)])
def test_the_correlation_is_of_ranks(score, expected):
    assert length_correlation(np.array(score, float), np.array([10, 20, 30, 40])) == pytest.approx(expected)


def test_unmeasured_examples_do_not_count():
    assert length_correlation(np.array([1, np.nan, 2, 3, np.nan]), np.array([10, 9000, 20, 30, 1])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("score", "tokens"), [([1, 2, np.nan], [1, 2, 3]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [5, 5, 5]), ([], [])]
)
def test_there_is_none_where_it_would_say_nothing(score, tokens):
    assert length_correlation(np.array(score, float), np.array(tokens)) is None
