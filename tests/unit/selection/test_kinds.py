"""Kinds of prompt: tasks are found whatever their texts are about, and sources are split only where they hold several."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from selection.config import KindsConfig
from selection.kinds import (
    AGREED,
    Kinds,
    find_kinds,
    most_alike,
    open_kinds,
    shared_wording,
    sources_agree,
    split_sources,
    unevenness,
)

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
    found = find_kinds(texts, ONE_SEED, seed=0).of
    assert adjusted_mutual_info_score(task, found) > 0.8
    assert found[0] == 0 and len(np.unique(found)) == found.max() + 1


def test_the_same_prompts_have_the_same_kinds():
    texts, _ = prompts([100, 80, 60])
    first, second = (find_kinds(texts, ONE_SEED, seed=3).of for _ in range(2))
    assert (first == second).all()


def test_as_many_kinds_as_are_asked_for():
    texts, _ = prompts([100, 80, 60, 50])
    assert find_kinds(texts, KindsConfig(k=3, least_share=0.01), seed=0).of.max() == 2


@pytest.mark.parametrize(
    "texts", [["one"], [""] * 40, [f"word{i}" for i in range(60)]], ids=["single", "empty", "unlike"]
)
def test_prompts_with_nothing_in_common_are_one_kind(texts):
    assert find_kinds(texts, KindsConfig(), seed=0).of.tolist() == [0] * len(texts)


def test_kinds_further_apart_are_fewer():
    texts, _ = prompts([100, 80, 60, 50])
    once = KindsConfig(least_share=0.01, shared=2)
    near, far = (find_kinds(texts, once.model_copy(update={"apart": apart}), seed=0).of.max() for apart in (0.1, 1.2))
    assert near > far


def test_a_large_task_of_free_questions_stays_one_kind():
    rng = np.random.default_rng(1)
    free = [" ".join(rng.choice(WORDS, 12)) for _ in range(600)]
    asked, _ = prompts([60, 60])
    found = find_kinds(free + asked, ONE_SEED, seed=0).of
    assert np.bincount(found[:600]).max() > 500 and not set(found[:600]) & set(found[600:])


def test_rare_tasks_are_found_when_a_kind_is_searched_again():
    texts, task = prompts([2000, 2000, 12, 12, 12, 12])
    rare = KindsConfig(least_share=0.02, apart=1.3)  # no run of a rare task is common in the pool, and all is one kind
    once, again = (find_kinds(texts, rare.model_copy(update={"shared": shared}), seed=0).of for shared in (2, 0.2))
    assert once.max() == 0
    assert adjusted_mutual_info_score(task, again) > 0.8


def test_what_a_kind_of_free_questions_is_cut_into_is_no_kind():
    rng = np.random.default_rng(2)
    topics = [rng.choice(WORDS, 15, replace=False) for _ in range(5)]
    free = [
        " ".join(rng.permutation(np.append(rng.choice(topics[i % 5], 4), rng.choice(WORDS, 8)))) for i in range(900)
    ]
    one = KindsConfig(least_share=0.01, apart=1.3)
    cut, kept = (find_kinds(free, one.model_copy(update={"shared": shared}), seed=0).of for shared in (0.0, 0.6))
    assert cut.max() > 0 and kept.max() == 0


def test_prompts_of_a_template_share_their_wording_and_free_ones_do_not():
    rng = np.random.default_rng(3)
    free = [" ".join(rng.choice(WORDS, 12)) for _ in range(100)]
    asked, _ = prompts([100])
    shared = shared_wording([*free, *asked, "alone"], np.repeat([0, 1, 2], [100, 100, 1]), seed=0)
    assert shared[0] < 0.05 < 0.5 < shared[1] and shared[2] == 1


def alike(kind: np.ndarray, free: tuple[int, ...] = ()) -> Kinds:
    """Kinds with templates, but for those named `free`."""
    shared = np.where(np.isin(np.arange(kind.max() + 1), free), 0.05, 0.8)
    return Kinds(kind.astype(np.int32), shared, np.zeros(len(shared), dtype=bool))


def test_sources_that_are_tasks_are_not_split():
    source = np.repeat([0, 1, 2, 3], 50)
    kind = source.copy()
    kind[:2] = 3  # strays
    groups, per_source = split_sources(source, alike(kind))
    assert (groups == source).all() and per_source == pytest.approx(1.0)


def test_a_source_that_holds_many_tasks_is_split_and_its_strays_follow_the_rest():
    source = np.repeat([0, 1], [300, 40])
    kind = np.concatenate([np.repeat([0, 1, 2, 3, 4, 5], 50), np.repeat([6, 0], [38, 2])])
    groups, per_source = split_sources(source, alike(kind))
    assert per_source > 2 and len(np.unique(groups)) == 7
    assert len(np.unique(groups[300:])) == 1, "two stray rows of the second source are no group of their own"


def test_without_a_source_the_groups_are_the_kinds():
    kind = np.repeat([0, 1, 2, 3], 30)
    groups, _ = split_sources(np.zeros(120, dtype=int), alike(kind))
    assert (groups == kind).all()


def test_free_questions_of_a_source_are_one_group_whatever_their_topics():
    source = np.repeat([0, 1], [250, 100])
    kind = np.concatenate([np.repeat([0, 1, 2, 3, 4], 50), np.repeat([5, 6], 50)])
    groups, _ = split_sources(source, alike(kind, free=(5, 6)))
    assert len(np.unique(groups[:250])) == 5 and len(np.unique(groups[250:])) == 1


def chat(count: int, words: int, seed: int = 5) -> list[str]:
    """Answers with nothing in common, of about so many words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, words + i % 3)) for i in range(count)]


def test_kinds_with_long_answers_that_share_nothing_are_open_conversation():
    kind = np.repeat([0, 1, 2, 3, 4], 40)
    steps = [
        f"First we write down what is asked , then we add {i} and {i + 1} . The result is {2 * i + 1} . Done so ."
        for i in range(40)
    ]
    answers = [*chat(40, 30), *(["yes", "no"] * 20), *steps, *chat(40, 6), *chat(40, 60, seed=6)]
    assert open_kinds(answers, kind, KindsConfig(), seed=0).tolist() == [True, False, False, False, True]
    assert not open_kinds(answers, kind, KindsConfig(open_shared=0), seed=0).any()
    assert open_kinds(answers, kind, KindsConfig(open_words=5), seed=0).tolist() == [True, False, False, True, True]


def test_rows_without_an_answer_do_not_decide_whether_a_kind_is_open():
    kind = np.repeat([0, 1], [100, 20])
    answers = [*chat(30, 30), *([""] * 70), *([""] * 20)]
    answered = np.array([bool(text) for text in answers])
    assert open_kinds(answers, kind, KindsConfig(), 0, answered).tolist() == [True, False]
    assert not open_kinds(answers, kind, KindsConfig(), 0, np.zeros(120, dtype=bool)).any()


def test_open_kinds_are_one_group_and_the_others_stay():
    kinds = Kinds(
        np.array([0, 1, 2, 3, 1, 4], dtype=np.int32), np.full(5, 0.8), np.array([False, True, False, True, True])
    )
    assert kinds.groups.tolist() == [0, 1, 2, 1, 1, 1]
    assert Kinds(kinds.of, kinds.shared, np.zeros(5, dtype=bool)).groups is kinds.of


def test_topics_of_conversation_take_one_share_beside_tasks():
    asked, task = prompts([80, 60, 60])
    personas = [
        f"You are {name} and you answer as {name} would , in full : "
        for name in ("a smith", "a poet", "a judge", "a cook")
    ]
    talk = [personas[i % 4] + text for i, text in enumerate(chat(400, 8))]
    texts, answers = talk + asked, chat(400, 40, seed=7) + [f"t{t}" for t in task]
    apart = find_kinds(texts, ONE_SEED, seed=0)
    joined = find_kinds(texts, ONE_SEED, seed=0, responses=answers)
    assert (apart.of == joined.of).all() and not apart.open.any()
    assert len(np.unique(apart.of[:400])) == 4 and len(np.unique(joined.groups[:400])) == 1
    assert not set(joined.groups[:400]) & set(joined.groups[400:])


def test_open_kinds_of_a_source_are_one_group():
    source = np.repeat([0, 1], [250, 100])
    kind = np.concatenate([np.repeat([0, 1, 2, 3, 4], 50), np.repeat([5, 6], 50)])
    kinds = Kinds(kind.astype(np.int32), np.full(7, 0.8), np.isin(np.arange(7), (5, 6)))
    groups, _ = split_sources(source, kinds)
    assert len(np.unique(groups[:250])) == 5 and len(np.unique(groups[250:])) == 1


def test_parts_of_one_data_set_say_nothing_of_kinds_and_sources_do():
    texts, task = prompts([100, 80, 60, 60])
    kinds = find_kinds(texts, ONE_SEED, seed=0)
    parts = np.arange(len(texts)) // 75
    assert sources_agree(parts, kinds, seed=0) < AGREED < 0.3 < sources_agree(task // 2, kinds, seed=0)


def test_unevenness_is_zero_for_groups_of_one_size_and_grows_as_one_takes_all():
    assert unevenness(np.repeat([0, 1, 2, 5], 25)) == pytest.approx(0.0, abs=1e-12)
    assert unevenness(np.zeros(9, dtype=int)) == 0.0
    half = np.repeat([0, 1], [75, 25])
    assert unevenness(half) == pytest.approx(np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert (
        unevenness(np.repeat(np.arange(4), [200, 8, 8, 8]))
        > KindsConfig().uneven
        > unevenness(np.repeat(np.arange(4), [40, 30, 20, 10]))
    )


def test_new_prompts_join_the_kind_that_is_worded_most_alike():
    texts, task = prompts([300, 120, 60, 60])
    kinds = find_kinds(texts, ONE_SEED, seed=0)
    new = np.arange(0, 540, 9)
    group = kinds.of.copy()
    group[new] = -1
    found, unlike = most_alike(texts, group, new, seed=0)
    assert (found == kinds.of[new]).mean() > 0.95 and not unlike.any()
    only = np.where(kinds.of == kinds.of[1], kinds.of, -1)
    assert set(most_alike(texts, only, new, seed=0)[0]) == {kinds.of[1]}


def test_a_prompt_that_shares_no_wording_is_unlike_and_joins_the_largest_kind():
    texts, task = prompts([60, 200, 40])
    strange = ["Напиши стихи про осень", "写一首关于春天的诗", texts[int(np.flatnonzero(task == 2)[0])]]
    kind, new = np.append(task, [-1, -1, -1]), np.arange(300, 303)
    found, unlike = most_alike([*texts, *strange], kind, new, seed=0)
    assert found.tolist() == [1, 1, 2] and unlike.tolist() == [True, True, False]


@pytest.mark.filterwarnings("error")
def test_prompts_without_a_word_are_alike():
    texts, kind = ["name the river", "name the stone", "", " ", "\n", "", "name it"], np.array([0, 0, 1, 1, 1, -1, -1])
    found, unlike = most_alike(texts, kind, np.array([5, 6]), seed=0)
    assert found.tolist() == [1, 0] and not unlike.any()
