"""Scores out of what was measured of examples, their combinations, and whether a score only measures length."""

from __future__ import annotations

import numpy as np
import pytest

from selection import scores
from selection.errors import SelectionUsageError
from selection.scores import MEASUREMENTS, SCORES, length_correlation

NAN = np.nan
MEASURED = {
    "nll_mean": np.array([1.0, 2.0, NAN]),
    "entropy_mean": np.array([3.0, 4.0, NAN]),
    "top_mean": np.array([0.9, 0.25, NAN]),
    "margin_mean": np.array([0.875, 0.125, NAN]),
    "nll_unprompted_mean": np.array([2.0, 0.0, NAN]),
    "nll_reference_mean": np.array([0.25, 2.5, NAN]),
    "nll_before": np.array([0.5, NAN, NAN]),
    "rds_similarity": np.array([0.1, 0.2, NAN]),
    "less_similarity": np.array([-0.1, 0.3, NAN]),
    "quality": np.array([5.0, NAN, 1.0]),
    "tokens": np.array([10, 20, 30]),
}
EXPECTED = {
    "nll": [1, 2, NAN],
    "entropy": [3, 4, NAN],
    "margin": [0.125, 0.875, NAN],
    "least_confidence": [0.1, 0.75, NAN],
    "ifd": [0.5, NAN, NAN],  # a response of no loss without its prompt has no ratio
    "learnability": [0.75, -0.5, NAN],
    "forgetting": [0.5, NAN, NAN],
    "rds": [0.1, 0.2, NAN],
    "less": [-0.1, 0.3, NAN],
    "length": [10, 20, 30],
    "quality": [5, NAN, 1],
}


@pytest.mark.parametrize("name", SCORES)
def test_each_score_is_what_it_says(name):
    np.testing.assert_allclose(scores.compute(name, MEASURED), EXPECTED[name])


def test_no_score_is_without_expected_values_or_words():
    assert set(EXPECTED) == set(SCORES)
    assert [name for name, score in SCORES.items() if not score.about.strip()] == []


def test_each_score_reads_only_what_it_needs():
    given = {
        "response": ("nll_mean", "entropy_mean", "top_mean", "margin_mean"),
        "unprompted": ("nll_unprompted_mean",),
        "reference": ("nll_reference_mean",),
        "history": ("nll_before",),
        "pooled": ("rds_similarity",),
        "gradient": ("less_similarity",),
        "quality": ("quality",),
    }
    assert set(given) == set(MEASUREMENTS)
    assert sorted(name for columns in given.values() for name in columns) == sorted(set(MEASURED) - {"tokens"})
    for name, score in SCORES.items():
        columns = {column: MEASURED[column] for need in score.needs for column in given[need]}
        score.compute(columns | {"tokens": MEASURED["tokens"]})
        for needed in score.needs:
            assert name not in scores.computable(MEASURED, score.needs - {needed})


def test_what_is_needed_is_the_union():
    assert scores.needs("length") == frozenset()
    assert scores.needs("nll", {"ifd": 1, "rds": 2}) == {"response", "unprompted", "pooled"}


def test_a_combination_averages_ranks_of_those_that_have_all():
    columns = {"nll_mean": np.array([5.0, 1.0, NAN, 3.0, 3.0]), "tokens": np.array([1, 2, 3, 4, 5])}
    nll, length = np.array([3.5, 0.5, NAN, 2, 2]) / 4, np.array([0.5, 1.5, NAN, 2.5, 3.5]) / 4
    np.testing.assert_allclose(scores.compute({"nll": 1, "length": 3}, columns), (nll + 3 * length) / 4)
    np.testing.assert_allclose(scores.compute({"nll": 1, "length": -1}, columns), (nll - length) / 2)
    np.testing.assert_allclose(scores.compute({"nll": 1.0}, columns), columns["nll_mean"])


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("nnl", "Did you mean 'nll'"),
        ({"nll": 1, "lenght": 1}, "Did you mean 'length'"),
        ({"nll": 0.0}, "not all zero"),
        ({"nll": NAN}, "finite"),
        ({}, "not all zero"),
    ],
)
def test_wishes_that_cannot_be_are_refused(wish, message):
    with pytest.raises(SelectionUsageError, match=message):
        scores.check(wish)


def test_scores_in_words():
    assert scores.describe("ifd") == "ifd"
    assert scores.describe({"nll": 1.0, "quality": 0.5}) == "1 × nll + 0.5 × quality (ranks)"


def test_similarity_to_the_nearest_target_and_to_the_nearest_group_of_them():
    rng = np.random.default_rng(0)
    vectors, targets = rng.normal(size=(5000, 6)), rng.normal(size=(9, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    cosines = vectors @ targets.T
    np.testing.assert_allclose(scores.similarity(vectors, targets, None), cosines.max(axis=1), atol=1e-6)
    groups = np.array(list("aabbbcccc"))
    means = np.stack([cosines[:, groups == name].mean(axis=1) for name in "abc"])
    np.testing.assert_allclose(scores.similarity(vectors, targets, groups), means.max(axis=0), atol=1e-6)


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
