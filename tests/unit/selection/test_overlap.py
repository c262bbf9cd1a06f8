"""Passages that templates share."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selection import words
from selection.overlap import RUN, Counted, compare_passages, shares_passages

INSTRUCTION = "read the following passage with great care and then answer the question that comes after it in one word only please "


def passage(number: int, words: int = 40) -> str:
    rng = random.Random(number)
    return " ".join(rng.choice("abcdefghijklmnop") + str(rng.randrange(500)) for _ in range(words))


def shared(texts, held, sources=None, threshold=0.5):
    sources = np.array(sources if sources is not None else ["s"] * len(texts))
    return np.flatnonzero(shares_passages(texts, sources, np.array(held), threshold)).tolist()


def test_trap_24_the_same_text_in_another_template_is_found():
    texts = [f"Summarise: {passage(0)}", f"{passage(0)} What is the topic of this?", f"Summarise: {passage(1)}"]
    assert shared(texts, [0]) == [1]


def test_trap_24_instructions_of_a_task_are_no_passage():
    texts = [2 * INSTRUCTION + passage(i, words=16) for i in range(40)]
    assert shared(texts, [0, 1, 2]) == []
    assert shared([*texts, "another frame " + passage(0, words=16)], [0], ["s"] * 40 + ["t"]) == [40]


def test_trap_24_real_templates_leak_and_are_cleaned(shared_data):
    """P3: the same passages stand in many templates."""
    texts, sources = shared_data
    rng = np.random.default_rng(0)
    held = np.sort(rng.choice(len(texts), 150, replace=False))
    found = shares_passages(texts, sources, held, 0.5)
    assert found.sum() > 150
    rest = np.flatnonzero(~found)
    again = shares_passages([texts[r] for r in rest], sources[rest], np.searchsorted(rest, held), 0.5)
    assert again.sum() < 0.05 * found.sum()


@pytest.fixture
def shared_data():
    import gzip
    import json
    from pathlib import Path

    path = Path(__file__).resolve().parents[4] / "shared/data/p3_t0_train_50k.jsonl.gz"
    if not path.exists():
        pytest.skip("the P3 sample is not next to this checkout")
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        rows = [json.loads(line) for number, line in enumerate(handle) if number % 4 == 0]
    return [row["prompt"] for row in rows], np.array([row["template"] for row in rows])


def test_half_of_the_shorter_text_is_enough_and_less_is_not():
    half = " ".join(passage(0, 60).split()[:36])
    third = " ".join(passage(0, 60).split()[:20] + passage(5, 40).split())
    assert shared([passage(0, 60), half, third], [0]) == [1]


def test_held_out_rows_and_short_texts_are_never_marked():
    assert shared([passage(0), passage(0), "short text"], [0, 1]) == []
    assert shared([passage(0, RUN - 1)] * 2, [0]) == [] and shared([passage(0, RUN)] * 2, [0]) == [1]


def test_case_and_punctuation_do_not_matter():
    text = passage(3)
    assert shared([text, text.upper().replace(" ", ", "), passage(4)], [0]) == [1]


def test_a_threshold_of_one_looks_for_nothing():
    assert shared([passage(0), passage(0)], [0], threshold=1.0) == []


@pytest.mark.parametrize("copies", [1, 3, 6])
def test_a_small_targets_passage_is_found_however_many_pool_examples_ask_about_it(copies):
    target = [f"question {i} about: {passage(i, 60)}" for i in range(4)]
    asked = [f"{i} say what this is, {passage(0, 60)}" for i in range(copies)]
    texts = [*target, *asked, *(f"other {passage(i, 60)}" for i in range(4, 9))]
    sources = np.array(["target"] * 4 + ["pool"] * (len(texts) - 4))
    found = shares_passages(texts, sources, np.arange(4), 0.5, apart=True)
    assert np.flatnonzero(found).tolist() == list(range(4, 4 + copies))


def test_what_all_of_a_target_begin_with_is_no_passage():
    texts = [f"{2 * INSTRUCTION} {passage(i, 16)}" for i in range(40)]
    sources = np.array(["target"] * 8 + ["pool"] * 32)
    assert not shares_passages(texts, sources, np.arange(8), 0.5, apart=True).any()


def plain(texts, held, threshold):
    """`shares_passages` for texts of one source, run by run, without what is common."""
    runs = []
    for text in texts:
        found = re.findall(r"\w+", text.lower())
        runs.append({tuple(found[i : i + 13]) for i in range(len(found) - 12)})
    seen = Counter(run for found in runs for run in found)
    telling = [{run for run in runs[row] if seen[run] <= max(2, 0.25 * len(texts))} for row in held]
    return [
        row not in held
        and any(len(runs[row] & own) > threshold * min(len(own), len(runs[row])) for own in telling if own)
        for row in range(len(texts))
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 0.8]), st.sampled_from([1, 200, 2**18]))
def test_blocks_of_texts_give_what_comparing_run_by_run_gives(seed, threshold, size):
    rng = random.Random(seed)
    parts = [passage(seed + i, words=rng.randrange(4, 20)) for i in range(6)]
    texts = [rng.choice([" ", ", ", "\n"]).join(rng.choices(parts, k=rng.randrange(0, 5))) for _ in range(12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "BLOCK_CHARACTERS", size)
        assert shared(texts, [0, 5], threshold=threshold) == np.flatnonzero(plain(texts, [0, 5], threshold)).tolist()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5))
def test_words_are_those_of_a_regular_expression_in_any_script(texts):
    expected = [(word, place) for place, text in enumerate(texts) for word in re.findall(r"\w+", text.lower())]
    hashed, of = words.hashed_words([*texts, "ΣΑΣ naïve—dash ٣٤ 漢字 x_1"])
    assert of[: len(expected)].tolist() == [place for _, place in expected]
    assert len(hashed) == len(expected) + 6
    same = {}
    for value, (word, _) in zip(hashed.tolist(), expected, strict=False):
        assert same.setdefault(word, value) == value
    assert len(set(same.values())) == len(same)


def test_progress_counts_every_text_twice():
    counts = []
    texts = [passage(i) for i in range(5)] + [passage(0)]
    shares_passages(texts, np.array(["s"] * 6), np.array([0]), 0.5, counts.append)
    assert sum(counts) == 12


def test_of_a_grown_pool_only_new_texts_are_read_and_compared_as_all_would_be():
    texts = [passage(0), passage(1), f"early {passage(0)}", f"late {passage(0)}", passage(2), f"late {passage(1)}"]
    texts += ["far away"] * 200
    sources, held, old = np.array(["s"] * 206), np.array([0]), np.ones(206, dtype=bool)
    old[3:6] = False
    whole, counted = compare_passages(texts, sources, held, 0.5)
    _, before = compare_passages([text for text, o in zip(texts, old, strict=True) if o], sources[old], held, 0.5)

    class Watched(list):
        read: list[int] = []

        def __iter__(self):
            raise AssertionError("every text is read")

        def __getitem__(self, row):
            self.read.append(row)
            return super().__getitem__(row)

    counts, many = [], Watched(texts)
    before = Counted(before.runs, before.seen, old)
    found, grown = compare_passages(many, sources, held, 0.5, counts.append, before=before)
    assert np.flatnonzero(whole).tolist() == [2, 3] and np.flatnonzero(found).tolist() == [3]
    assert set(many.read) == {0, 3, 4, 5} and sum(counts) == 412
    assert (grown.runs == counted.runs).all() and (grown.seen == counted.seen).all() and grown.rows.all()


def test_another_holdout_is_compared_with_every_text_again():
    texts = [passage(0), passage(1), f"early {passage(1)}", "late"]
    _, before = compare_passages(texts[:3], np.array(["s"] * 3), np.array([0]), 0.5)
    before = Counted(before.runs, before.seen, np.array([True, True, True, False]))
    found, _ = compare_passages(texts, np.array(["s"] * 4), np.array([0, 1]), 0.5, before=before)
    assert np.flatnonzero(found).tolist() == [2]
