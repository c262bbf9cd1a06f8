"""ROUGE-L against values worked out by hand, and against the rouge-score package where it is installed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al.evaluation.rouge import rouge_l

TEXTS = st.text(alphabet="ab c-.DE1_", max_size=40)


@pytest.mark.parametrize(
    ("written", "reference", "value"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("the cat sat", "a dog ran", 0.0),
        ("", "a dog ran", 0.0),
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin 2004, section 3.1: S1 and S2
        ("the gunman kill police", "police kill the gunman", 2 / 4),  # S3
        ("a b c d e f", "a c", 2 * 2 / (6 + 2)),
        ("Red-blue!", "red blue", 1.0),
        ("猫が好き", "猫は好き", 3 / 4),
        ("Zoë été", "zoë ete", 1 / 2),
    ],
)
def test_the_share_of_the_longest_common_subsequence(written, reference, value):
    assert rouge_l(written, reference) == pytest.approx(value)


@given(TEXTS, TEXTS)
def test_it_is_symmetric_and_between_0_and_1(first, second):
    assert rouge_l(first, second) == rouge_l(second, first)
    assert 0.0 <= rouge_l(first, second) <= 1.0


def test_it_is_that_of_the_rouge_score_package():
    scorers = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed (extra lm-eval)")
    scorer = scorers.RougeScorer(["rougeL"], use_stemmer=False)

    @given(TEXTS, TEXTS)
    def same(first, second):
        assert rouge_l(first, second) == pytest.approx(scorer.score(second, first)["rougeL"].fmeasure)

    same()
