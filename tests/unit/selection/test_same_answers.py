"""Near-duplicates answer alike where answers are short."""

from __future__ import annotations

import numpy as np
import pytest

from selection.answers import COLUMNS, LONG, Answered, answer_codes, directions, joint_cosine, own_cosine
from selection.dedup import Groups, grow_groups, near_duplicate_groups
from selection.vectors import unit

WORDS = [f"{a}{b}" for a in ("red", "blue", "old", "new") for b in ("fox", "owl", "elk", "hen", "cod")]


def test_codes_are_of_the_words_of_short_answers():
    codes = answer_codes(
        ["Yes.", " yes", "YES!", "No", "", "word " * 11, "other " * 30, "«»", "12", "1 2", "да", "нет"]
    )
    assert codes[0] == codes[1] == codes[2] != codes[3]
    assert codes[4] == codes[5] == codes[6] == LONG and codes.dtype == np.uint64
    assert len(set(codes[[0, 3, 7, 8, 9, 10, 11]])) == 7 and LONG not in codes[[0, 3, 7, 8, 9, 10, 11]]


def test_cosines_of_embeddings_come_back():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 24)).astype(np.float16)
    codes = answer_codes([WORDS[i % 5] for i in range(40)])
    joint, own = Answered(vectors, codes)[np.arange(40)], unit(vectors) @ unit(vectors).T
    same = codes[:, None] == codes
    np.testing.assert_allclose(own_cosine(joint @ joint.T)[same], own[same], atol=1e-5)
    assert own_cosine(joint_cosine(0.95)) == pytest.approx(0.95)
    assert Answered(vectors, codes).shape == (40, 24 + COLUMNS) and len(Answered(vectors, codes)) == 40


def test_two_answers_are_hardly_ever_near():
    codes = answer_codes([f"{a} {b}" for a in WORDS for b in WORDS])
    cosines = directions(codes) @ directions(codes).T
    apart = cosines[~np.eye(len(codes), dtype=bool)]
    assert (apart > 0.8).mean() < 0.001 and (apart < 0.8).any()


def test_a_row_without_an_embedding_is_near_nothing():
    vectors = np.zeros((3, 8), dtype=np.float16)
    found = near_duplicate_groups(vectors, np.zeros(3, int), 0.95, 16, answers=answer_codes(["a", "a", "b"]))
    assert found.representative.tolist() == [0, 1, 2]


def template(rows: int, answers: int, seed: int = 0, apart: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of questions of one template, all near each other, and the codes of their answers."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=32) + apart * rng.normal(size=(rows, 32))
    return vectors.astype(np.float16), answer_codes([WORDS[i % answers] for i in range(rows)])


def test_questions_of_one_template_are_not_one_example():
    vectors, codes = template(120, 20)
    zeros = np.zeros(120, dtype=int)
    assert len(np.unique(near_duplicate_groups(vectors, zeros, 0.95, 16).representative)) == 1
    found = near_duplicate_groups(vectors, zeros, 0.95, 16, answers=codes)
    assert len(np.unique(found.representative)) == 20
    assert (codes[found.representative] == codes).all()
    assert (found.cosine >= 0.95 - 1e-5).all() and (found.cosine <= 1).all()


def test_copies_with_the_same_answer_and_long_answers_are_found_as_before():
    rng = np.random.default_rng(3)
    base = rng.normal(size=(60, 32))
    vectors = np.concatenate([base, base + 0.03 * rng.normal(size=(60, 32))]).astype(np.float16)
    zeros = np.zeros(120, dtype=int)
    before = near_duplicate_groups(vectors, zeros, 0.95, 16)
    same = answer_codes([WORDS[i % 20] for i in range(60)] * 2)
    for codes in (same, answer_codes(["so many words " * 9] * 120), answer_codes([""] * 120)):
        found = near_duplicate_groups(vectors, zeros, 0.95, 16, answers=codes)
        assert found.representative.tolist() == before.representative.tolist() == [*range(60)] * 2
        np.testing.assert_allclose(found.cosine, before.cosine, atol=1e-5)


def test_a_short_answer_and_a_long_one_are_apart():
    vectors, _ = template(2, 1)
    found = near_duplicate_groups(vectors, np.zeros(2, int), 0.95, 16, answers=answer_codes(["7", "because " * 20]))
    assert found.representative.tolist() == [0, 1]


def test_a_grown_pool_has_the_groups_of_a_whole_one():
    vectors, codes = template(200, 15, seed=2, apart=0.15)
    preference = np.repeat([0, 1], 100)
    whole = near_duplicate_groups(vectors, preference, 0.97, 16, answers=codes)
    first = near_duplicate_groups(vectors[:100], preference[:100], 0.97, 16, answers=codes[:100])
    known = Groups(
        np.concatenate([first.representative, np.full(100, -1)]),
        np.concatenate([first.cosine, np.zeros(100, np.float32)]),
    )
    grown = grow_groups(vectors, preference, 0.97, known, answers=codes)
    assert grown.representative.tolist() == whole.representative.tolist()
    np.testing.assert_allclose(grown.cosine, whole.cosine, atol=1e-5)
    assert len(np.unique(whole.representative)) > 15
