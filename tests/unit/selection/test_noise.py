"""Suspected noise: what the prompt takes off the loss of a response."""

from __future__ import annotations

import numpy as np

from selection.noise import LEAST_OF_A_GROUP, suspected_noise


def made(n=2000, wrong=0.1, seed=0):
    """Responses of which the prompt takes off 1 to 30 nats, from easy to hard; of a share that belongs elsewhere it adds up to 8."""
    rng = np.random.default_rng(seed)
    planted = rng.random(n) < wrong
    with_prompt = rng.gamma(2, 10, n)
    gain = np.where(planted, rng.uniform(-8, -0.5, n), rng.uniform(1, 30, n))
    return with_prompt, with_prompt + gain, planted


def test_what_its_prompt_makes_less_likely_is_suspected_however_high_the_loss():
    with_prompt, without, planted = made()
    found = suspected_noise(with_prompt, without)
    assert (found.suspect == planted).all()
    assert not found.suspect[np.argmax(np.where(planted, 0, with_prompt))]
    np.testing.assert_allclose(found.gain, without - with_prompt)


def test_a_prompt_that_changes_nothing_but_by_rounding_is_no_ground_for_suspicion():
    assert suspected_noise(np.full(3, 3.0), np.array([3.0, 2.95, 2.85])).suspect.tolist() == [False, False, True]


def test_what_was_not_measured_both_ways_is_not_suspected():
    found = suspected_noise(np.array([np.nan, 5.0, 5.0]), np.array([1.0, np.nan, 1.0]))
    assert found.suspect.tolist() == [False, False, True]
    assert np.isnan(found.gain).tolist() == [True, True, False]


def test_where_prompts_do_not_help_nothing_is_suspected_and_elsewhere_all_the_same():
    with_prompt, without, planted = made()
    source = np.arange(2000) % 4
    deaf = source == 2
    without[deaf] = with_prompt[deaf] + np.random.default_rng(1).normal(0, 0.3, deaf.sum())  # plain text, say
    found = suspected_noise(with_prompt, without, [source])
    assert not found.suspect[deaf].any() and (found.suspect == planted)[~deaf].all()
    assert found.gain[deaf].min() < 0


def test_a_group_is_cleared_by_any_way_to_group_it():
    with_prompt, without = np.full(20, 5.0), np.full(20, 9.0)
    without[:10] = 4.0
    cluster, source = np.repeat([0, 1], 10), np.zeros(20, dtype=int)
    assert not suspected_noise(with_prompt, without, [source]).suspect.any()
    assert not suspected_noise(with_prompt, without, [np.arange(20), cluster]).suspect.any()
    assert suspected_noise(with_prompt, without, [np.arange(20)]).suspect.sum() == 10


def test_a_few_of_a_group_clear_nobody():
    n = LEAST_OF_A_GROUP - 1
    with_prompt, without = np.full(n + 1, 5.0), np.full(n + 1, 4.0)
    without[-1] = np.nan  # not measured: of the group, but not counted
    assert suspected_noise(with_prompt, without, [np.zeros(n + 1, dtype=int)]).suspect.sum() == n
    without[-1] = 4.0
    assert not suspected_noise(with_prompt, without, [np.zeros(n + 1, dtype=int)]).suspect.any()


def test_a_third_of_a_group_may_be_noise():
    with_prompt, without = np.full(12, 5.0), np.full(12, 9.0)
    without[:4] = 1.0
    group = [np.zeros(12, dtype=int)]
    assert suspected_noise(with_prompt, without, group).suspect.sum() == 4
    without[4] = 1.0
    assert not suspected_noise(with_prompt, without, group).suspect.any()


def test_the_order_of_rows_does_not_matter():
    with_prompt, without, _ = made(300, wrong=0.4)
    groups = np.arange(300) % 7
    order = np.random.default_rng(2).permutation(300)
    one = suspected_noise(with_prompt, without, [groups]).suspect
    assert (suspected_noise(with_prompt[order], without[order], [groups[order]]).suspect == one[order]).all()


def test_nothing_at_all():
    found = suspected_noise(np.empty(0), np.empty(0), [np.empty(0, dtype=int)])
    assert len(found.suspect) == len(found.gain) == 0
