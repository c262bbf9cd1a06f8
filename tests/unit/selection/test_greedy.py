"""Orders that look at what was taken before, against plain versions of them and the best there is on small groups."""

from __future__ import annotations

import time
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from sklearn.cluster import kmeans_plusplus

from selection import turns
from selection.greedy import _draw, k_center, k_means_plus_plus, score_then_filter
from selection.submodular import facility_location, quality_diversity
from selection.turns import round_robin, trajectory_balanced


def drawn(seed=3):
    return np.random.default_rng(seed)


def scores(m):
    """(m,) with ties."""
    return np.random.default_rng(m).integers(0, max(m // 2, 1), m).astype(float)


def aims(d, t=3):
    return np.random.default_rng(d).normal(size=(t, d))


METHODS = {
    "k_center": lambda x, count: k_center(x, count, 0.1),
    "k_means_plus_plus": lambda x, count: k_means_plus_plus(x, count, drawn()),
    "facility_location": facility_location,
    "quality_diversity": lambda x, count: quality_diversity(x, scores(len(x)), count, 0.5),
    "score_then_filter": lambda x, count: score_then_filter(x, scores(len(x)), count, 0.5),
    "trajectory_balanced": lambda x, count: trajectory_balanced(x, count, 4, drawn()),
    "round_robin": lambda x, count: round_robin(x, aims(x.shape[1]), count),
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())

groups = st.builds(
    lambda seed, m, d, copies: np.random.default_rng(seed).normal(size=(m, d))[
        np.random.default_rng(seed + 1).integers(m, size=m) if copies else np.arange(m)
    ],
    st.integers(0, 10_000),
    st.integers(1, 30),
    st.integers(2, 5),
    st.booleans(),
)
"""(m, d) random directions, half of the time with repetitions."""
checked = settings(max_examples=60, deadline=None, derandomize=True)


def cosines(a, b):
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


# What all have in common


@methods
@checked
@given(x=groups, count=st.integers(0, 40))
def test_as_many_distinct_ones_as_asked_for_and_the_beginning_of_a_longer_order(method, x, count):
    m = len(x)
    found, whole = method(x, count), method(x, m)
    assert found.order.dtype == np.int64 and found.value.dtype == np.float64
    assert len(found.order) == len(found.value) == min(count, m)
    assert sorted(whole.order) == list(range(m))
    assert found.order.tolist() == whole.order[:count].tolist()
    np.testing.assert_array_equal(found.value, whole.value[:count])


@methods
@checked
@given(x=groups, data=st.data())
def test_unmeasured_ones_come_last_in_the_given_order_and_change_nothing_before(method, x, data):
    if method in (METHODS["quality_diversity"], METHODS["score_then_filter"]):
        x = np.repeat(x, 2, axis=0)[: len(x)]
    m = len(x)
    gone = np.array(data.draw(st.lists(st.booleans(), min_size=m, max_size=m)))
    holed = x.copy()
    holed[gone] = np.nan
    found = method(holed, m)
    measured = m - gone.sum()
    assert found.order[measured:].tolist() == np.flatnonzero(gone).tolist()
    assert np.isnan(found.value[measured:]).all()
    assert found.target is None or (found.target[measured:] == -1).all()
    assert sorted(found.order[:measured]) == np.flatnonzero(~gone).tolist()
    if method in (METHODS["k_center"], METHODS["facility_location"], METHODS["round_robin"]):
        alone = method(x[~gone], m)
        assert found.order[:measured].tolist() == np.flatnonzero(~gone)[alone.order].tolist()


@methods
def test_one_none_or_nothing_measured(method):
    one = method(np.ones((1, 3)), 5)
    assert one.order.tolist() == [0]
    assert len(method(np.ones((1, 3)), 0).order) == len(method(np.ones((0, 3)), 4).order) == 0
    assert method(np.full((3, 2), np.nan), 2).order.tolist() == [0, 1]


@pytest.mark.parametrize("m", [2, 7, 100, 5000])
def test_equal_vectors_keep_the_given_order(m):
    x = np.tile(np.random.default_rng(m).normal(size=(1, 37)), (m, 1)).astype(np.float16)
    given_order = list(range(20))[:m]
    for found in (
        k_center(x, 20),
        facility_location(x, 20),
        quality_diversity(x, np.ones(m), 20, 0.5),
        score_then_filter(x, np.ones(m), 20),
        trajectory_balanced(x, 20, 4, drawn()),
        round_robin(x, np.random.default_rng(0).normal(size=(3, 37)), 20),
    ):
        assert found.order.tolist() == given_order
    after_the_first = k_means_plus_plus(x, 20, drawn()).order[1:]
    assert (np.diff(after_the_first) > 0).all() and after_the_first[0] <= 1


@methods
def test_memory_mapped_float16_gives_what_its_numbers_give_and_stays_as_it_is(method, tmp_path):
    x = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float16)
    x.tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", dtype=np.float16, mode="r", shape=x.shape)
    assert method(mapped, 30).order.tolist() == method(x.astype(np.float32), 30).order.tolist()


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("k_means_plus_plus", "trajectory_balanced")])
def test_the_length_of_a_vector_does_not_matter(name):
    x = np.random.default_rng(0).normal(size=(200, 8))
    longer = x * 2.0 ** np.random.default_rng(1).integers(-5, 5, size=(200, 1))
    assert METHODS[name](x, 50).order.tolist() == METHODS[name](longer, 50).order.tolist()


LARGE = {
    "k_center": lambda x, s: k_center(x, 200),
    "k_means_plus_plus": lambda x, s: k_means_plus_plus(x, 200, drawn()),
    "facility_location": lambda x, s: facility_location(x[:5000], 200),
    "quality_diversity": lambda x, s: quality_diversity(x[:5000], s[:5000], 200, 0.5),
    "score_then_filter": lambda x, s: score_then_filter(x, s, 200, 0.3),
    "trajectory_balanced": lambda x, s: trajectory_balanced(x[:, :6], 200, 20, drawn()),
    "round_robin": lambda x, s: round_robin(x, x[:2000] + 0.1, 200),
    "round_robin_long": lambda x, s: round_robin(x, x[:2000] + 0.1, 10_000),
}


@pytest.mark.parametrize("method", LARGE.values(), ids=LARGE.keys())
def test_a_large_group_takes_seconds_and_no_square_of_memory(method):
    rng = np.random.default_rng(0)
    x, score = rng.normal(size=(20_000, 64)).astype(np.float16), rng.normal(size=20_000)
    method(x[:50], score[:50])  # imports
    start = time.process_time()
    method(x, score)
    assert time.process_time() - start < 20, "about 2 alone"
    tracemalloc.start()
    method(x, score)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 90e6, "5,000² · 4 bytes are 100 MB, 20,000² are 1.6 GB"


# k_center


def plain_k_center(x, count):
    """Without a trim, on Euclidean distances."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    taken = [int(np.argmin(np.linalg.norm(x - x.mean(axis=0) / np.linalg.norm(x.mean(axis=0)), axis=1)))]
    while len(taken) < count:
        nearest = distance[:, taken].min(axis=1)
        nearest[taken] = -1
        taken.append(int(np.argmax(nearest)))
    return taken


@pytest.mark.parametrize("seed", range(10))
def test_k_center_is_farthest_first(seed):
    x = np.random.default_rng(seed).normal(size=(60, 6))
    found = k_center(x, 60, trim=0)
    assert found.order.tolist() == plain_k_center(x, 60)
    distance = np.sqrt(2 - 2 * np.minimum(cosines(x, x), 1))
    nearest = [distance[i, found.order[:n]].min() for n, i in enumerate(found.order) if n]
    assert np.isnan(found.value[0])
    np.testing.assert_allclose(found.value[1:], nearest, atol=1e-3)


@checked
@given(groups, st.integers(1, 3))
def test_k_center_leaves_nothing_twice_as_far_as_the_best_choice(x, count):
    x = x[:9]
    count = min(count, len(x))
    distance = np.sqrt(2 - 2 * np.clip(cosines(x, x), -1, 1))
    best = min(distance[:, list(s)].min(axis=1).max() for s in combinations(range(len(x)), count))
    assert distance[:, k_center(x, count, trim=0).order].min(axis=1).max() <= 2 * best + 2e-3


def test_k_center_puts_outliers_last_nearest_first():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 4)) * 0.2 + [5, 0, 0, 0]
    x[17], x[60] = [-1, 0.1, 0, 0], [0, 1, 0, 0]
    assert k_center(x, 100, trim=0.02).order[-2:].tolist() == [60, 17]
    assert k_center(x, 100, trim=0.01).order[-1] == 17
    assert k_center(x, 2, trim=0).order[1] == 17, "it chases them without a trim"


@pytest.mark.parametrize(("m", "trim", "last"), [(49, 0.02, 0), (50, 0.02, 1), (100, 0.29, 29), (10, 0.99, 9)])
def test_k_center_trims_whole_examples_rounded_down(m, trim, last):
    x = np.random.default_rng(0).normal(size=(m, 3)) + [2, 0, 0]
    outward = np.argsort(cosines(x, unit_mean(x))[:, 0])
    order = k_center(x, m, trim).order
    assert order[m - last :].tolist() == outward[:last][::-1].tolist()
    assert order[0] == outward[-1]
    if last == 0:
        assert order[-1] != outward[0]


def unit_mean(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).mean(axis=0, keepdims=True)


def test_k_center_ties_go_to_the_lower_index():
    x = np.eye(5)[[0, 1, 2, 0, 3, 4, 2]]
    assert k_center(x, 7, trim=0).order.tolist() == [0, 1, 2, 4, 5, 3, 6]


# k_means_plus_plus

CORNERS = np.array([[0.0, 0], [1, 0], [0, 2], [4, 4], [4, 5]])
DRAWS = 1500


def pair_counts(pairs):
    count = np.zeros((5, 5), dtype=int)
    np.add.at(count, tuple(np.array(pairs).T), 1)
    return count


def our_pairs():
    rng = drawn(0)
    return pair_counts([k_means_plus_plus(CORNERS, 2, rng).order for _ in range(DRAWS)])


def test_k_means_plus_plus_draws_by_squared_distance():
    squared = ((CORNERS[:, None] - CORNERS[None]) ** 2).sum(axis=2)
    expected = DRAWS / 5 * squared / squared.sum(axis=1, keepdims=True)
    found = our_pairs()
    assert (found[expected == 0] == 0).all()
    assert chisquare(found[expected > 0], expected[expected > 0]).pvalue > 0.001


def test_k_means_plus_plus_draws_as_scikit_learn_does():
    theirs = pair_counts([kmeans_plusplus(CORNERS, 2, random_state=s, n_local_trials=1)[1] for s in range(DRAWS)])
    both = np.stack([our_pairs().ravel(), theirs.ravel()])
    assert chi2_contingency(both[:, both.sum(axis=0) > 0]).pvalue > 0.001


def test_k_means_plus_plus_weighs_by_the_nearest_one_taken_and_says_how_far():
    x = np.random.default_rng(0).normal(size=(40, 3))
    found = k_means_plus_plus(x, 40, drawn())
    for step in range(1, 40):
        nearest = ((x[found.order[:step]] - x[found.order[step]]) ** 2).sum(axis=1).min()
        assert found.value[step] == pytest.approx(nearest, rel=1e-4)
    assert np.isnan(found.value[0])


def test_k_means_plus_plus_third_draws_follow_the_nearest_of_two():
    line = np.array([[0.0], [1], [3], [10]])
    third = np.zeros(4, dtype=int)
    rng = drawn(1)
    for _ in range(3000):
        order = k_means_plus_plus(line, 3, rng).order
        if order[:2].tolist() == [0, 3]:
            third[order[2]] += 1
    assert third[[0, 3]].sum() == 0
    assert chisquare(third[[1, 2]], third.sum() * np.array([1, 9]) / 10).pvalue > 0.001


def test_k_means_plus_plus_prefers_long_gradients():
    x = np.random.default_rng(0).normal(size=(200, 16))
    x[:20] *= 10
    share = np.mean([(k_means_plus_plus(x, 10, drawn(s)).order < 20).mean() for s in range(50)])
    assert share > 0.6


@pytest.mark.parametrize("at", [0, 0.5, np.nextafter(1, 0)])
def test_what_has_no_weight_is_never_drawn(at):
    assert _draw(np.array([0, 0.1, 0, 0.2, 0]), at) == (1 if at == 0 else 3)
    assert _draw(np.array([0, 5e-324, 0]), at) == 1, "where the product rounds up to the sum"


def test_k_means_plus_plus_takes_copies_last():
    x = np.array([[1.0, 0], [1, 0], [0, 1], [1, 0], [5, 5]])
    for seed in range(30):
        order = k_means_plus_plus(x, 5, drawn(seed)).order
        assert {2, 4} < set(order[:3]) and order[3] < order[4]


# facility_location and quality_diversity


def covered(similarity, taken):
    """Mean over examples of the similarity to the nearest taken one."""
    return similarity[:, list(taken)].max(axis=1).mean() if len(taken) else 0.0


def plain_greedy(similarity, count, quality, weight):
    """The objective evaluated from scratch for every candidate at every step."""
    taken, value = [], []
    for _ in range(count):
        worth = np.full(len(similarity), -np.inf)
        for i in set(range(len(similarity))) - set(taken):
            gain = covered(similarity, [*taken, i]) - covered(similarity, taken)
            worth[i] = (1 - weight) * gain + weight * quality[i]
        taken.append(int(np.argmax(worth)))
        value.append(worth.max())
    return taken, value


@pytest.mark.parametrize("weight", [0, 0.3, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_is_the_plain_one(seed, weight):
    rng = np.random.default_rng(seed)
    x, score = rng.normal(size=(40, 5)), rng.normal(size=40)
    quality = (np.argsort(np.argsort(score)) + 0.5) / 40
    taken, value = plain_greedy(np.maximum(cosines(x, x), 0), 20, quality, weight)
    found = quality_diversity(x, score, 20, weight)
    assert found.order.tolist() == taken
    np.testing.assert_allclose(found.value, value, atol=1e-5)
    if weight == 0:
        assert facility_location(x, 20).order.tolist() == taken


def check_that_every_step_is_a_best_one(x, found):
    similarity = np.maximum(cosines(x, x), 0)
    nearest = np.zeros(len(x))
    for step, (i, value) in enumerate(zip(found.order, found.value, strict=True)):
        gain = np.maximum(similarity - nearest, 0).mean(axis=1)
        gain[found.order[:step]] = -1
        assert value == pytest.approx(gain[i], abs=1e-5) and gain[i] >= gain.max() - 1e-5
        nearest = np.maximum(nearest, similarity[i])


@checked
@given(groups)
def test_every_step_of_facility_location_is_a_best_one_and_its_gain_is_told(x):
    check_that_every_step_is_a_best_one(x, facility_location(x, len(x)))


@pytest.mark.parametrize("values", [1, 2100, 10**5])
def test_facility_location_with_blocks_smaller_than_the_group(monkeypatch, values):
    monkeypatch.setattr("selection.submodular.BLOCK_VALUES", values)
    x = np.random.default_rng(0).normal(size=(300, 8))
    check_that_every_step_is_a_best_one(x, facility_location(x, 300))


@checked
@given(groups, st.integers(1, 4))
def test_facility_location_reaches_its_share_of_the_optimum(x, count):
    x = x[:10]
    count = min(count, len(x))
    similarity = np.maximum(cosines(x, x), 0)
    optimum = max(covered(similarity, s) for s in combinations(range(len(x)), count))
    reached = covered(similarity, facility_location(x, count).order)
    assert reached >= (1 - (1 - 1 / count) ** count) * optimum - 1e-5


def test_facility_location_takes_one_of_each_kind_the_largest_first():
    kind = np.array([0, 1, 1, 2, 2, 2, 0, 2, 2, 1])
    found = facility_location(np.eye(3)[kind], 10)
    assert found.order.tolist() == [3, 1, 0, 2, 4, 5, 6, 7, 8, 9]
    np.testing.assert_allclose(found.value, [0.5, 0.3, 0.2] + 7 * [0])


def test_quality_alone_is_the_highest_score_first_and_ties_go_to_the_lower_index():
    x = np.random.default_rng(0).normal(size=(30, 4))
    score = scores(30)
    assert quality_diversity(x, score, 30, 1).order.tolist() == np.argsort(-score, kind="stable").tolist()


def test_more_weight_gives_more_quality_and_less_cover():
    rng = np.random.default_rng(0)
    x, score = rng.normal(size=(300, 8)), rng.normal(size=300)
    similarity = np.maximum(cosines(x, x), 0)
    orders = [quality_diversity(x, score, 20, weight).order for weight in (0, 0.003, 0.03, 1)]
    assert (np.diff([score[order].mean() for order in orders]) > 0).all()
    assert (np.diff([covered(similarity, order) for order in orders]) < 0).all()


def test_examples_without_a_score_are_covered_but_come_last():
    x = np.eye(3)[[0, 0, 1, 1, 1, 1, 2]]
    score = np.array([1, 1, 1, np.nan, np.nan, np.nan, 1])
    found = quality_diversity(x, score, 7, 0)
    assert found.order.tolist() == [2, 0, 6, 1, 3, 4, 5], "the second kind is the largest"
    assert np.isnan(found.value[4:]).all() and not np.isnan(found.value[:4]).any()


# score_then_filter


def plain_filter(similarity, score, threshold):
    taken, skipped = [], []
    for i in sorted(range(len(score)), key=lambda i: (-score[i], i)):
        (skipped if any(similarity[i, j] > threshold for j in taken) else taken).append(i)
    return taken + skipped


@pytest.mark.parametrize("threshold", [-0.5, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("m", [30, 1500])
def test_score_then_filter_is_the_plain_one(m, threshold):
    rng = np.random.default_rng(m)
    x, score = rng.normal(size=(m, 6)), rng.integers(0, m // 3, m).astype(float)
    found = score_then_filter(x, score, m, threshold)
    assert found.order.tolist() == plain_filter(cosines(x, x), score, threshold)
    assert found.value.tolist() == score[found.order].tolist()


def test_score_then_filter_passes_over_what_exceeds_the_threshold_only():
    x = np.array([[1.0, 0], [3, 4], [0, 1], [1, 0]])
    score = np.array([4.0, 3, 2, 1])
    assert score_then_filter(x, score, 4, 0.61).order.tolist() == [0, 1, 2, 3]  # 0.8 to 1 is passed over, 3 after it
    assert score_then_filter(x, score, 4, 0.59).order.tolist() == [0, 2, 1, 3]
    copy_second = np.array([4.0, 1, 2, 3])
    assert score_then_filter(x, copy_second, 4, 1.0).order.tolist() == [0, 3, 2, 1], "copies do not exceed 1"
    assert score_then_filter(x, copy_second, 4, 0.99).order.tolist() == [0, 2, 1, 3]


def test_score_then_filter_puts_examples_without_a_score_last():
    score = np.array([np.nan, 1, np.nan, 2])
    found = score_then_filter(np.eye(4), score, 4)
    assert found.order.tolist() == [3, 1, 0, 2] and np.isnan(found.value[2:]).all()


# trajectory_balanced

SIZES = np.array([3, 10, 20, 67])


def four_kinds():
    """Trajectories of four clear kinds in random order, and the kind of each."""
    kind = np.random.default_rng(0).permutation(np.repeat(np.arange(4), SIZES))
    centres = np.array([[0, 0, 0], [9, 9, 9], [9, 5, 0], [0, 5, 9.0]])
    return centres[kind] + 0.1 * np.random.default_rng(1).normal(size=(100, 3)), kind


@pytest.mark.parametrize("count", [1, 4, 12, 13, 20, 33, 43, 60, 100])
def test_trajectory_clusters_share_equally_as_in_s2l(count):
    losses, kind = four_kinds()
    found = trajectory_balanced(losses, count, 4, drawn())
    share, left = np.zeros(4, dtype=int), count
    for k in range(4):  # the paper's: of what is left an equal part to every cluster left, the smallest first
        share[k] = min(SIZES[k], left // (4 - k))
        left -= share[k]
    mine = np.bincount(kind[found.order], minlength=4)
    assert np.abs(mine - share).max() <= 1 and mine.sum() == count
    assert (found.value == SIZES[kind[found.order]]).all()


def test_trajectory_clusters_take_turns_from_the_smallest_and_hold_the_given_order_inside():
    losses, kind = four_kinds()
    order = trajectory_balanced(losses, 100, 4, drawn()).order
    assert kind[order[:14]].tolist() == [0, 1, 2, 3] * 3 + [1, 2]
    assert all((np.diff(order[kind[order] == k]) > 0).all() for k in range(4))


def test_missing_losses_count_as_the_mean_of_their_round():
    losses, _ = four_kinds()
    holed = losses.copy()
    holed[::7, 1] = np.nan
    filled = holed.copy()
    filled[::7, 1] = np.nanmean(holed[:, 1])
    never = np.column_stack([holed, np.full(100, np.nan)])
    expected = trajectory_balanced(filled, 100, 4, drawn()).order.tolist()
    assert trajectory_balanced(holed, 100, 4, drawn()).order.tolist() == expected
    assert trajectory_balanced(never, 100, 4, drawn()).order.tolist() == expected


def test_without_rounds_the_given_random_order_holds():
    found = trajectory_balanced(np.empty((9, 0)), 5, 4, drawn())
    assert found.order.tolist() == list(range(5)) and np.isnan(found.value).all()


# round_robin


def plain_round_robin(similarity, count):
    taken = []
    for step in range(count):
        mine = similarity[:, step % similarity.shape[1]].copy()
        mine[taken] = -np.inf
        taken.append(int(np.argmax(mine)))
    return taken


@pytest.mark.parametrize("t", [1, 3, 40, 200])
@pytest.mark.parametrize("count", [1, 30, 120])
def test_round_robin_is_the_plain_one(t, count):
    rng = np.random.default_rng(t)
    x, wanted = rng.normal(size=(120, 6)), rng.normal(size=(t, 6))
    found = round_robin(x, wanted, count)
    assert found.order.tolist() == plain_round_robin(cosines(x, wanted), count)
    assert found.target.tolist() == [step % t for step in range(count)]
    np.testing.assert_allclose(found.value, cosines(x, wanted)[found.order, found.target], atol=1e-5)


def test_round_robin_makes_lists_anew_when_all_targets_want_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    x, wanted = rng.normal(size=(500, 6)), np.tile(rng.normal(size=(1, 6)), (60, 1))
    made = []
    plain = turns._most_similar
    monkeypatch.setattr(turns, "_most_similar", lambda *a: made.append(len(a[2])) or plain(*a))
    found = round_robin(x, wanted, 500)
    assert found.order.tolist() == np.argsort(-cosines(x, wanted[:1])[:, 0]).tolist()
    assert made[0] == 60 and 1 in made


def test_round_robin_cuts_its_lists_through_ties_at_the_lower_index():
    x = np.tile(np.eye(2)[[1, 0]], (100, 1))
    found = round_robin(x, np.array([[1.0, 0]]), 20)
    assert found.order.tolist() == list(range(1, 41, 2)) and (found.value == 1).all()


def test_round_robin_leaves_no_target_out():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(500, 3)) * 0.05 + [1, 0, 0], rng.normal(size=(20, 3)) * 0.05 + [0, 1, 0]])
    found = round_robin(x, np.array([[1.0, 0, 0], [0, 1, 0]]), 40)
    assert (found.order >= 500).sum() == 20
