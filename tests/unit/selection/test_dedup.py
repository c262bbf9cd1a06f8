"""Near-duplicate groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selection import dedup
from selection.dedup import Groups, grow_groups, near, near_duplicate_groups
from selection.vectors import unit


def made(n=300, d=16, copies=60, noise=0.02, seed=0):
    """Random directions, and slightly moved copies of the first of them."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, d))
    near_copies = base[:copies] + noise * rng.normal(size=(copies, d))
    return unit(np.concatenate([base, near_copies])).astype(np.float16)


def groups(vectors, threshold=0.98, preference=None):
    preference = np.zeros(len(vectors), dtype=int) if preference is None else preference
    return near_duplicate_groups(vectors, preference, threshold, neighbours=16)


def test_copies_join_their_original_and_nothing_else():
    found = groups(made())
    assert (found.representative[:300] == np.arange(300)).all()
    assert (found.representative[300:] == np.arange(60)).all()


def test_a_lower_preference_leads():
    preference = np.r_[np.ones(300, int), np.zeros(60, int)]
    found = groups(made(), preference=preference)
    assert (found.representative[:60] == np.arange(300, 360)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 0.99))
def test_every_member_is_near_its_leader_and_no_two_leaders_are_near(seed, threshold):
    vectors = made(n=60, d=4, copies=30, noise=0.2, seed=seed)
    found = groups(vectors, threshold)
    exact = unit(vectors) @ unit(vectors).T
    leaders = np.flatnonzero(found.representative == np.arange(len(vectors)))
    assert (found.representative[found.representative] == found.representative).all(), "groups never chain"
    assert (exact[np.arange(len(vectors)), found.representative] >= threshold - 1e-4).all()
    between = exact[np.ix_(leaders, leaders)] - 2 * np.eye(len(leaders))
    assert (between < threshold + 1e-4).all()
    assert np.allclose(found.cosine, exact[np.arange(len(vectors)), found.representative], atol=1e-3)


def test_blocks_change_nothing(monkeypatch):
    whole = groups(made(seed=3))
    monkeypatch.setattr(dedup, "IN_BLOCK", 17)
    assert (groups(made(seed=3)).representative == whole.representative).all()


def test_the_index_gives_the_same_however_many_examples_are_placed_at_once(monkeypatch):
    monkeypatch.setattr(dedup, "EXACT_UP_TO", 100)
    vectors, preference = made(n=1500, copies=700, noise=0.1), np.arange(2200) % 3
    whole = groups(vectors, preference=preference)
    monkeypatch.setattr(dedup, "PLACED", 3 * dedup.IN_BLOCK)
    parts = groups(vectors, preference=preference)
    assert (whole.representative != np.arange(2200)).sum() > 300
    assert (parts.representative == whole.representative).all() and np.allclose(parts.cosine, whole.cosine, atol=1e-6)


def test_many_equal_examples_make_one_group_in_little_memory():
    vectors = np.tile(made(n=1, copies=0), (20_000, 1))
    found = groups(vectors)
    assert (found.representative == 0).all()


def test_the_index_for_large_pools_finds_nearly_all(monkeypatch):
    vectors = made(n=6000, d=24, copies=1500, noise=0.01)
    monkeypatch.setattr(dedup, "EXACT_UP_TO", 100)
    found = groups(vectors)
    assert (found.representative[6000:] == np.arange(1500)).mean() > 0.97
    assert (found.representative[:6000] == np.arange(6000)).all()


def test_a_threshold_of_one_still_joins_equal_vectors():
    vectors = np.repeat(made(n=50, copies=0), 2, axis=0)
    assert (groups(vectors, threshold=1.0 - 1e-6).representative == np.arange(100) // 2 * 2).all()


def test_trap_20_the_nearest_of_a_held_out_set_is_exact():
    vectors = made()
    at, cosine = near(vectors[:300], vectors[300:])
    exact = unit(vectors[:300]) @ unit(vectors[300:]).T
    assert (at == exact.argmax(1)).all() and np.allclose(cosine, exact.max(1), atol=1e-5)


def test_progress_counts_every_example():
    counts = []
    near_duplicate_groups(made(), np.zeros(360, int), 0.98, 16, counts.append)
    assert sum(counts) == 360


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_pools(n):
    assert len(groups(made(n=n, copies=0)).representative) == n


def test_the_index_joins_what_comparing_all_leaders_joins(monkeypatch):
    """Power-law clusters, 60% of their directions outside the principal components that the index has."""
    rng = np.random.default_rng(1)
    topic = rng.choice(40, size=5000, p=(1 / np.arange(1, 41)) / (1 / np.arange(1, 41)).sum())
    vectors = unit(unit(rng.normal(size=(40, 96)))[topic] + 0.06 * rng.normal(size=(5000, 96)))
    copies = rng.permutation(5000)[:1500]
    vectors[copies] = unit(vectors[rng.integers(0, 5000, 1500)] + 0.02 * rng.normal(size=(1500, 96)))
    exact = groups(vectors.astype(np.float16), 0.95)
    monkeypatch.setattr(dedup, "EXACT_UP_TO", 100)
    monkeypatch.setattr(dedup, "PROJECTED", 48)
    counts = []
    found = near_duplicate_groups(vectors.astype(np.float16), np.zeros(5000, int), 0.95, 16, counts.append)
    assert (exact.representative != np.arange(5000)).sum() > 1000
    assert (found.representative == exact.representative).mean() > 0.99
    assert sum(counts) == 5000 and min(counts) >= 0 and sum(counts[:20]) < 2500
    own = np.einsum("nd,nd->n", vectors, vectors[found.representative])
    assert (own[found.representative != np.arange(5000)] > 0.949).all(), "the full vectors decide"


def in_rows_of_all(groups, old, n):
    """Groups of the rows `old` as groups of n rows, -1 for the others."""
    representative, cosine = np.full(n, -1), np.zeros(n, dtype=np.float32)
    representative[old], cosine[old] = old[groups.representative], groups.cosine
    return Groups(representative, cosine)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.3, 0.95),
    st.sampled_from([0.02, 0.1, 0.5]),
    st.sampled_from([0, 3]),
    st.booleans(),
)
def test_a_grown_pool_has_the_groups_of_comparing_everything(seed, threshold, share, tiers, small):
    """Also where a new example comes before an earlier leader: one without a response does not stand for one with a response."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(120, 4))).astype(np.float16)
    new = rng.random(120) < share
    tier = rng.integers(0, tiers, 120) if tiers else np.zeros(120, int)
    preference = np.where(tier == 0, new.astype(int), tier + 1)
    old = np.flatnonzero(~new)
    whole, before = groups(vectors, threshold, preference), groups(vectors[old], threshold, preference[old])
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(dedup, "IN_BLOCK", 7)
            patch.setattr(dedup, "BLOCK", 11)
        found = grow_groups(vectors, preference, threshold, in_rows_of_all(before, old, 120))
    assert (found.representative == whole.representative).all()
    assert np.allclose(found.cosine, whole.cosine, atol=1e-5)


def test_only_new_examples_are_compared_when_a_pool_grows(monkeypatch):
    vectors, n = made(), 360
    old = np.setdiff1d(np.arange(n), [5, 100, 320])
    known, compared = in_rows_of_all(groups(vectors[old]), old, n), []
    plain = dedup._nearest_before

    def watched(embeddings, rows, leaders, position):
        compared.append(len(rows) if len(leaders) else 0)
        return plain(embeddings, rows, leaders, position)

    monkeypatch.setattr(dedup, "_nearest_before", watched)
    counted = []
    preference = np.where(np.isin(np.arange(n), old), 0, 1)
    found = grow_groups(vectors, preference, 0.98, known, counted.append)
    assert (found.representative == groups(vectors, preference=preference).representative).all()
    assert sum(compared) == 3 == sum(counted)


def test_many_new_examples_of_a_large_pool_are_left_to_grouping_all(monkeypatch):
    monkeypatch.setattr(dedup, "GROWN_UP_TO", 10)
    vectors, old = made(), np.arange(340)
    known = in_rows_of_all(groups(vectors[old]), old, 360)
    assert grow_groups(vectors, np.zeros(360, int), 0.98, known) is not None
    monkeypatch.setattr(dedup, "EXACT_UP_TO", 300)
    assert grow_groups(vectors, np.zeros(360, int), 0.98, known) is None
