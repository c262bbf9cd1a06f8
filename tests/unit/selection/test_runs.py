"""Common runs of words are those of scikit-learn, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from selection.runs import CommonRuns

WORDS = ["the", "The", "cat", "sat", "on", "a", "mat", "?", "###", "É", "café", "x_1", "3.5", "\n", "—"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join), min_size=4, max_size=30)


def same(found, expected):
    """Whether two sparse matrices hold the same bytes."""
    return all(
        np.array_equal(getattr(found, part), getattr(expected, part)) for part in ("data", "indices", "indptr")
    ) and (
        found.shape,
        found.dtype,
    ) == (expected.shape, expected.dtype)


@settings(max_examples=60, deadline=None)
@given(
    texts=TEXTS, more=TEXTS, longest=st.integers(1, 4), least=st.integers(1, 3), most=st.sampled_from([3, 12, 10_000])
)
def test_runs_and_matrices_are_those_of_count_vectorizer(texts, more, longest, least, most):
    counter = CountVectorizer(
        ngram_range=(1, longest),
        token_pattern=r"(?u)\w+|[^\w\s]",
        binary=True,
        min_df=least,
        max_features=most,
        dtype=np.float32,
    )
    runs = CommonRuns.of(texts, longest, least, most)
    try:
        expected = counter.fit_transform(texts)
    except ValueError:  # no run is common enough
        assert not runs.column
        return
    assert runs.column == counter.vocabulary_
    assert same(runs.held_by(texts, as_fitted=True), expected)
    assert same(runs.held_by(iter(more)), counter.transform(more))


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_texts_without_words_have_no_runs(texts):
    runs = CommonRuns.of(texts, 3, 1, 10)
    assert not runs.column and runs.held_by(texts).shape == (len(texts), 0)
