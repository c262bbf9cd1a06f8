"""Disagreement is one minus the mean pairwise ROUGE-L; continuations are documents like any other."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import build, table

from trainer.config import GenerateConfig
from trainer.gate.architecture import prepare_attention
from trainer.generate import generate
from trainer.measure import measure
from trainer.uncertainty import continuation_documents, disagreement, longest_common_subsequence, rouge_l

END = (2, 7)
sequences = st.lists(st.integers(0, 5), max_size=12)


def reference_lcs(one, other):
    @lru_cache(None)
    def length(i, j):
        if not i or not j:
            return 0
        if one[i - 1] == other[j - 1]:
            return length(i - 1, j - 1) + 1
        return max(length(i - 1, j), length(i, j - 1))

    return length(len(one), len(other))


@given(sequences, sequences)
def test_the_longest_common_subsequence_is_that_of_the_usual_table(one, other):
    assert longest_common_subsequence(one, other) == reference_lcs(tuple(one), tuple(other))


def test_rouge_l_is_the_f1_of_a_known_pair():
    assert rouge_l([1, 2, 3, 4], [2, 9, 4]) == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert (rouge_l([], []), rouge_l([], [1]), rouge_l([1], [1])) == (1.0, 0.0, 1.0)


@given(st.lists(sequences, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_disagreement_is_symmetric_and_between_0_and_1(answers, random):
    found = disagreement(answers, ())
    random.shuffle(answers)
    assert 0 <= found <= 1 and disagreement(answers, ()) == pytest.approx(found)


def test_equal_answers_agree_and_disjoint_ones_do_not():
    assert disagreement([np.array([3, 4, 5])] * 3, END) == 0
    assert disagreement([[3, 4], [5, 6], [8, 9]], END) == 1
    assert disagreement([[3, 4], [3, 4], [5, 6]], END) == pytest.approx(2 / 3)


def test_end_tokens_are_left_out():
    assert disagreement([[3, 4, 2], [3, 4], [3, 4, 7]], END) == 0
    assert disagreement([[3, 2], [4, 2]], END) == 1


def test_fewer_than_two_answers_say_nothing():
    assert math.isnan(disagreement([], END)) and math.isnan(disagreement([[3]], END))


def test_the_entropy_of_a_continuation_is_that_of_its_own_tokens():
    model, prompts = build("llama"), table([5, 30, 9]).documents
    prepare_attention(model)
    config = GenerateConfig(max_new_tokens=6, samples=0, batch_tokens=64)
    free = generate(model, prompts, config, end_ids=(), seed=0)
    ends = (int(free[0][0][2]),)
    written = [answers[0] for answers in generate(model, prompts, config, end_ids=ends, seed=0)]
    documents = continuation_documents(prompts, written, ends)
    expected = [
        [0] * len(p) + [2 if token in ends else 1 for token in w] for p, w in zip(prompts, written, strict=True)
    ]
    assert [documents.targets(row).tolist() for row in range(3)] == expected
    assert expected[0][-1] == 2 and expected[1][-1] == 1
    found = measure(model, documents, np.arange(3), batch_tokens=64)
    plain = build("llama")
    for row, (prompt, answer) in enumerate(zip(prompts, written, strict=True)):
        with torch.no_grad():
            logits = plain(torch.tensor([*prompt, *answer])[None].long()).logits[0, len(prompt) - 1 : -1]
        log_p = logits.log_softmax(-1)
        assert found.entropy_mean[row] == pytest.approx(-(log_p.exp() * log_p).sum(-1).mean().item(), abs=1e-5)
        assert (found.targets[row], found.targets_no_end[row]) == (len(answer), expected[row].count(1))
