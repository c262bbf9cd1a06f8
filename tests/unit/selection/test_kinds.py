"""Kinds of prompt: tasks are found whatever their texts are about, and sources are split only where they hold several."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from selection.config import KindsConfig
from selection.kinds import find_kinds, split_sources

ASKED = (
    "Translate the sentence that follows into French and keep its tone : {}",
    "Is this review of a product positive or negative ? Review : {} Answer :",
    "Read the passage and name who did it in at most three words . {}",
    "Write a short poem of four lines , in rhyme , about {}",
    "Sort the words below by the alphabet , one on each line : {}",
    "Correct all spelling mistakes that you find between the signs < {} >",
)
WORDS = [f"w{i}" for i in range(3000)]
ONE_SEED = KindsConfig(least_share=0.01)


def prompts(sizes: list[int], seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Prompts of as many tasks, about anything, in random order; and their tasks."""
    rng = np.random.default_rng(seed)
    task = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    words = [" ".join(rng.choice(WORDS, 5)) for _ in task]
    return [ASKED[t].format(text) for t, text in zip(task, words, strict=True)], task


def test_kinds_are_tasks():
    texts, task = prompts([400, 150, 60, 60, 40, 30])
    found = find_kinds(texts, ONE_SEED, seed=0)
    assert adjusted_mutual_info_score(task, found) > 0.8
    assert found[0] == 0 and len(np.unique(found)) == found.max() + 1


def test_the_same_prompts_have_the_same_kinds():
    texts, _ = prompts([100, 80, 60])
    first, second = (find_kinds(texts, ONE_SEED, seed=3) for _ in range(2))
    assert (first == second).all()


def test_as_many_kinds_as_are_asked_for():
    texts, _ = prompts([100, 80, 60, 50])
    assert find_kinds(texts, KindsConfig(k=3, least_share=0.01), seed=0).max() == 2


@pytest.mark.parametrize(
    "texts", [["one"], [""] * 40, [f"word{i}" for i in range(60)]], ids=["single", "empty", "unlike"]
)
def test_prompts_with_nothing_in_common_are_one_kind(texts):
    assert find_kinds(texts, KindsConfig(), seed=0).tolist() == [0] * len(texts)


def test_kinds_further_apart_are_fewer():
    texts, _ = prompts([100, 80, 60, 50])
    near, far = (find_kinds(texts, KindsConfig(apart=apart, least_share=0.01), seed=0).max() for apart in (0.1, 1.2))
    assert near > far


def test_a_large_task_of_free_questions_stays_one_kind():
    rng = np.random.default_rng(1)
    free = [" ".join(rng.choice(WORDS, 12)) for _ in range(600)]
    asked, _ = prompts([60, 60])
    found = find_kinds(free + asked, ONE_SEED, seed=0)
    assert np.bincount(found[:600]).max() > 500 and not set(found[:600]) & set(found[600:])


def test_sources_that_are_tasks_are_not_split():
    source = np.repeat([0, 1, 2, 3], 50)
    kind = source.copy()
    kind[:2] = 3  # strays
    groups, per_source = split_sources(source, kind)
    assert (groups == source).all() and per_source == pytest.approx(1.0)


def test_a_source_that_holds_many_tasks_is_split_and_its_strays_follow_the_rest():
    source = np.repeat([0, 1], [300, 40])
    kind = np.concatenate([np.repeat([0, 1, 2, 3, 4, 5], 50), np.repeat([6, 0], [38, 2])])
    groups, per_source = split_sources(source, kind)
    assert per_source > 2 and len(np.unique(groups)) == 7
    assert len(np.unique(groups[300:])) == 1, "two stray rows of the second source are no group of their own"


def test_without_a_source_the_groups_are_the_kinds():
    kind = np.repeat([0, 1, 2, 3], 30)
    groups, _ = split_sources(np.zeros(120, dtype=int), kind)
    assert (groups == kind).all()
