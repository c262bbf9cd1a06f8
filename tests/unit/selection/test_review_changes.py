"""What a review makes of a selection: the budget stays, pins are in, drops and bans are out, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_pools import SEED, candidates, play, vectors

from selection.config import SelectConfig
from selection.errors import SelectionError
from selection.registry import STRATEGIES
from selection.review import Change, propose, revise
from selection.strategy import Budget

UNITS = (Budget("examples", 24), Budget("tokens", 2_400))


def pool(seed=0, n=120, k=5):
    rng = np.random.default_rng(seed)
    cluster = np.sort(rng.integers(0, k, n))
    return candidates(
        cluster,
        tokens=rng.integers(20, 180, n),
        loss=rng.gamma(4, 0.5, n),
        confidence=rng.random(n),
        vectors=vectors(rng, cluster),
    )


def proposal(strategy="default", budget=UNITS[0], seed=0):
    config = SelectConfig(strategy=strategy)
    played = play(pool(seed), budget, config)
    return propose(played.known, played.quotas, budget, config, SEED, played.selection)


def keys(proposed, rows):
    return proposed.candidates.keys[np.asarray(rows, dtype=np.int64)]


@pytest.mark.parametrize("budget", UNITS, ids=lambda b: b.unit)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_a_change_the_proposal_stays_as_it_is(strategy, budget):
    proposed = proposal(strategy, budget)
    revised = revise(proposed, Change())
    assert revised.picked.tolist() == proposed.picked.tolist() and revised.step == proposed.step
    assert (revised.outcome == proposed.outcome).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_dropped_example_gives_its_place_to_the_next_of_its_cluster_and_moves_nothing_else(strategy):
    proposed = proposal(strategy)
    out = int(proposed.picked[7])
    revised = revise(proposed, Change(dropped=keys(proposed, [out])))
    (new,) = set(revised.picked.tolist()) - set(proposed.picked.tolist())
    assert set(proposed.picked.tolist()) - set(revised.picked.tolist()) == {out}
    assert revised.outcome[out] == "dropped_in_review" and revised.outcome[new] == "selected"
    assert proposed.whole_pool or proposed.candidates.cluster[new] == proposed.candidates.cluster[out]
    assert revised.step[revised.picked.tolist().index(new)].endswith("fills a place freed in review")


@pytest.mark.parametrize("strategy", ["default", "mid", "k_center", "nearest"])
def test_one_drop_more_brings_in_one_more_and_keeps_what_the_first_brought_in(strategy):
    proposed = proposal(strategy)
    first = revise(proposed, Change(dropped=keys(proposed, proposed.picked[:1])))
    second = revise(proposed, Change(dropped=keys(proposed, proposed.picked[:2])))
    assert set(first.picked.tolist()) - set(proposed.picked[:2].tolist()) <= set(second.picked.tolist())


def test_a_pin_takes_the_last_place_of_its_cluster():
    proposed = proposal()
    pin = next(r for r in range(120) if r not in proposed.picked and proposed.candidates.cluster[r] == 2)
    revised = revise(proposed, Change(pinned=keys(proposed, [pin])))
    ours = [r for r in proposed.picked.tolist() if proposed.candidates.cluster[r] == 2]
    assert set(proposed.picked.tolist()) - set(revised.picked.tolist()) == {ours[-1]}
    assert revised.outcome[ours[-1]] == "quota_full"
    assert revised.step[revised.picked.tolist().index(pin)].startswith("pinned in review")


def test_a_quota_is_met_exactly_and_the_others_share_what_it_leaves_in_proportion():
    proposed = proposal("uniform")
    before = np.bincount(proposed.candidates.cluster[proposed.picked], minlength=5)
    after = np.bincount(proposed.candidates.cluster[revise(proposed, Change(quotas={1: 0})).picked], minlength=5)
    assert after[1] == 0 and after.sum() == 24 and (np.delete(after, 1) >= np.delete(before, 1)).all()
    assert (abs(np.delete(after - before * 24 / (24 - before[1]), 1)) < 1).all()
    more = np.bincount(proposed.candidates.cluster[revise(proposed, Change(quotas={1: 12})).picked], minlength=5)
    assert more[1] == 12 and more.sum() == 24 and (np.delete(more, 1) <= np.delete(before, 1)).all()


def test_quotas_hold_for_a_picker_of_the_whole_pool_too():
    proposed = proposal("nearest")
    revised = revise(proposed, Change(quotas={0: 3}))
    assert (proposed.candidates.cluster[revised.picked] == 0).sum() == 3 and len(revised.picked) == 24


def test_the_pinned_among_suspected_noise_is_in_and_the_rest_stays_held_back():
    config, base = SelectConfig(strategy="uniform"), pool()
    suspect = np.zeros(len(base), dtype=bool)
    suspect[:20] = True
    held = candidates(base.cluster, tokens=base.tokens, loss=base.loss, suspect=suspect)
    played = play(held, UNITS[0], config)
    proposed = propose(played.known, played.quotas, UNITS[0], config, SEED, played.selection)
    banned = np.flatnonzero(base.cluster != 0)[:40]
    revised = revise(proposed, Change(pinned=keys(proposed, [3]), banned=keys(proposed, banned)))
    assert 3 in revised.picked and not set(revised.picked.tolist()) & (set(range(20)) - {3})
    assert (revised.outcome[:20] == "suspected_noise").sum() == 19


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: Change(banned=keys(p, range(100))), "4 of 24 places cannot be filled"),
        (lambda p: Change(quotas={0: 10_000}), r"group 0: the quota is 10000, but only \d+ "),
        (lambda p: Change(quotas={9: 1}), "group 9: .* only 0"),
        (lambda p: Change(quotas={0: 15, 1: 15}), "need 30 examples, the budget is 24"),
        (lambda p: Change(pinned=keys(p, range(30))), "need 30 examples"),
        (lambda p: Change(pinned=keys(p, [1]), banned=keys(p, [1])), "is pinned and also dropped or banned"),
        (lambda p: Change(quotas=dict.fromkeys(range(5), 2)), "14 of 24 places cannot be filled"),
    ],
)
def test_what_cannot_be_met_says_so(change, message):
    proposed = proposal("uniform")
    with pytest.raises(SelectionError, match=message):
        revise(proposed, change(proposed))


@given(
    strategy=st.sampled_from(["default", "mid", "nearest", "k_center"]),
    budget=st.sampled_from(UNITS),
    seed=st.integers(0, 3),
    marks=st.lists(st.tuples(st.integers(0, 119), st.sampled_from(["drop", "pin", "ban"])), max_size=40),
    quotas=st.dictionaries(st.integers(0, 4), st.integers(0, 8), max_size=2),
)
@settings(deadline=None, max_examples=150)
def test_the_budget_is_kept_pins_are_in_and_drops_and_bans_are_out(strategy, budget, seed, marks, quotas):
    proposed = proposal(strategy, budget, seed)
    said = dict(marks)
    drop, pin, ban = ([row for row, what in said.items() if what == kind] for kind in ("drop", "pin", "ban"))
    scale = 1 if budget.unit == "examples" else 90
    quotas = {c: amount * scale for c, amount in quotas.items()}
    change = Change(keys(proposed, drop), keys(proposed, pin), keys(proposed, ban), quotas)
    try:
        revised = revise(proposed, change)
    except SelectionError:
        assume(False)
    picked, amount = set(revised.picked.tolist()), proposed.amount
    assert len(picked) == len(revised.picked) == len(revised.step)
    assert set(pin) <= picked and not picked & {*drop, *ban}
    spent = int(amount[revised.picked].sum())
    assert revised.short_by == budget.amount - spent >= 0
    assert spent == budget.amount or budget.unit == "tokens"
    for c, quota in quotas.items():
        used = sum(int(amount[r]) for r in picked if proposed.candidates.cluster[r] == c)
        pins = sum(int(amount[r]) for r in pin if proposed.candidates.cluster[r] == c)
        assert used <= max(quota, pins)
    assert [r for r in proposed.picked.tolist() if r in picked] == revised.picked.tolist()[
        : len(picked & set(proposed.picked.tolist()))
    ]
    assert set(np.flatnonzero(revised.outcome == "selected").tolist()) == picked
    assert (revised.outcome[drop] == "dropped_in_review").all() and (revised.outcome[ban] == "banned_in_review").all()
    again = revise(proposed, change)
    assert again.picked.tolist() == revised.picked.tolist() and again.step == revised.step
