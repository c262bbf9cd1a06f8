"""What a user can get wrong in a selection: what was expected, what was found, what to do, and the exit code."""

from __future__ import annotations

import numpy as np
import pytest
from made_pools import SEED, candidates
from pydantic import ValidationError

from selection.config import SelectConfig
from selection.errors import SelectionError, SelectionUsageError
from selection.strategy import Budget, Candidates, Vectors, allocate, select


def quotas_for(pool, budget, **config):
    return allocate(pool, budget, SelectConfig(**config), SEED)


@pytest.mark.parametrize("amount", [0, -3, 2.5, 5.0, float("nan"), float("inf"), "5", None])
@pytest.mark.parametrize("unit", ["examples", "tokens"])
def test_a_budget_is_a_whole_number_above_zero(unit, amount):
    with pytest.raises(SelectionUsageError, match=f"expected a whole number of {unit} above zero, found") as caught:
        Budget(unit, amount)
    assert caught.value.exit_code == 2


def test_a_budget_has_one_of_two_units():
    with pytest.raises(SelectionUsageError, match="examples, tokens, found 'minutes'"):
        Budget("minutes", 3)


def test_more_examples_than_the_pool_has_are_refused_with_what_it_has():
    expected = r"11 examples asked for, but only 10 can be selected\. Ask for at most 10 or add"
    with pytest.raises(SelectionError, match=expected) as caught:
        quotas_for(candidates([0] * 10), Budget("examples", 11), strategy="random")
    assert caught.value.exit_code == 3
    quotas_for(candidates([0] * 10), Budget("examples", 10), strategy="random")


def test_more_than_the_tail_cut_leaves_are_refused_with_the_way_out():
    pool = candidates([0] * 10)
    with pytest.raises(SelectionError, match=r"1 of which the tail cut may hold.*at most 9, set select\.tail_cut=0"):
        quotas_for(pool, Budget("examples", 10), strategy="loss")
    quotas_for(pool, Budget("examples", 9), strategy="loss")
    quotas_for(pool, Budget("examples", 10), strategy="loss", tail_cut=0)


def test_more_than_suspects_leave_are_refused_with_the_way_out():
    pool = candidates([0] * 10, suspect=np.arange(10) < 3)
    expected = r"3 of which are held back as suspected noise\. Ask for at most 7, set noise\.hold=false or"
    with pytest.raises(SelectionError, match=expected):
        quotas_for(pool, Budget("examples", 8))
    assert quotas_for(pool, Budget("examples", 7)).quota.sum() == 7


def test_a_pool_of_suspects_only_is_refused_with_the_way_out():
    with pytest.raises(SelectionError, match=r"held back as suspected noise; set noise\.hold=false"):
        quotas_for(candidates([0] * 3, suspect=np.ones(3, bool)), Budget("examples", 1))


def test_fewer_tokens_than_the_shortest_example_are_refused():
    pool = candidates([0, 0, 1], tokens=[30, 20, 40])
    with pytest.raises(SelectionError, match="at least 20 tokens, which the shortest .* found 19; raise"):
        quotas_for(pool, Budget("tokens", 19))


def test_tokens_that_hold_only_what_is_cut_are_refused():
    pool = candidates([0] * 6, tokens=[10, 50, 50, 50, 50, 50], loss=[9, 1, 1, 1, 1, 1])
    budget, config = Budget("tokens", 20), SelectConfig(strategy="loss")
    with pytest.raises(SelectionError, match="no selectable example fits into 20 tokens"):
        select(pool, allocate(pool, budget, config, SEED), budget, config, SEED)


@pytest.mark.parametrize(
    ("field", "name", "nearest"),
    [("strategy", "defualt", "default"), ("allocation", "los", "loss"), ("picker", "tpo", "top")],
)
def test_an_unknown_name_is_answered_with_the_nearest(field, name, nearest):
    message = f"unknown {field} '{name}'. Did you mean '{nearest}'.*Known: "
    with pytest.raises(ValidationError, match=message):
        SelectConfig(**{field: name})
    unchecked = SelectConfig().model_copy(update={field: name})
    with pytest.raises(SelectionUsageError, match=f"select.{field}: {message}"):
        allocate(candidates([0]), Budget("examples", 1), unchecked, SEED)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", 11),
        ("tail_cut", 1),
        ("tail_cut", -0.1),
        ("length_bins", 0),
        ("mid_band", 0),
        ("mid_band", 1.1),
        ("shortlist_factor", 0.5),
        ("explore", -0.1),
        ("explore", 1.1),
        ("learn", -1),
        ("learn", 2.1),
        ("strategy", None),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValidationError, match=field):
        SelectConfig(**{field: value})


@pytest.mark.parametrize(
    ("other", "budget"),
    [
        ([0] * 9 + [1] * 9, Budget("examples", 6)),
        ([0] * 9 + [1] * 9, Budget("tokens", 5)),
        ([0] * 9 + [1] * 9 + [2], Budget("examples", 5)),
        ([0] * 17 + [1], Budget("examples", 5)),
        ([1] * 18, Budget("examples", 5)),
    ],
    ids=["another amount", "another unit", "another number of clusters", "a cluster too small", "a cluster gone"],
)
def test_quotas_of_something_else_are_refused(other, budget):
    quotas = quotas_for(candidates([0] * 9 + [1] * 9), Budget("examples", 5), strategy="uniform")
    assert quotas.quota.tolist() == [3, 2]
    with pytest.raises(SelectionError, match="quotas: "):
        select(candidates(other), quotas, budget, SelectConfig(strategy="uniform"), SEED)


def test_token_quotas_of_another_budget_are_refused():
    pool = candidates([0] * 9)
    with pytest.raises(SelectionError, match="for 500 tokens, found 1 for 300 tokens"):
        select(pool, quotas_for(pool, Budget("tokens", 300)), Budget("tokens", 500), SelectConfig(), SEED)


GOOD = {
    "keys": np.arange(3, dtype=np.uint64),
    "cluster": np.array([0, 1, 0]),
    "tokens": np.array([5, 6, 7]),
    "score": np.zeros(3),
    "loss": np.zeros(3),
}
MATRIX = np.zeros((2, 4))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cluster", [0, 1], r"cluster of shape \(3,\) like keys, found \(2,\)"),
        ("loss", [[0.0, 1.0, 2.0]], r"loss of shape \(3,\)"),
        ("cluster", [0, -1, 0], "clusters from 0 on, found -1"),
        ("tokens", [5, 0, 5], "at least 1 token, found 0"),
        ("loss", [0.0, np.inf, 0.0], "finite loss or NaN"),
        ("score", [0.0, -np.inf, 0.0], "finite score or NaN"),
        ("keys", [4, 9, 4], "occurs twice"),
        ("confidence", [0.5], r"confidence of shape \(3,\) like keys, found \(1,\)"),
        ("confidence", [0.5, np.inf, np.nan], "finite confidence or NaN"),
        ("suspect", [True], r"suspect of shape \(3,\)"),
        ("keys", [], "no selectable example"),
    ],
)
def test_malformed_candidates_are_refused_by_field(field, value, message):
    Candidates(**GOOD)
    with pytest.raises(SelectionError, match=message) as caught:
        Candidates(**{**GOOD, field: np.array(value)})
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("row", [[0, 1], [0, 1, 2], [0, -2, 1]], ids=["too few", "beyond the matrix", "below none"])
def test_vectors_of_other_candidates_are_refused_by_name(row):
    Candidates(**GOOD, vectors={"pooled": Vectors(MATRIX, np.array([1, -1, 0]))})
    with pytest.raises(SelectionError, match="expected pooled vectors with a row below 2"):
        Candidates(**GOOD, vectors={"pooled": Vectors(MATRIX, np.array(row))})
