"""What runs of a comparison come to, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest

from al.comparison.summary import SHOWN_METRICS, spread, summarize

SECONDS = {"score": 1.0, "select": 0.5, "train": 6.0, "evaluate": 2.0}


def run(seed, *points, **seconds):
    """A run whose rounds are (examples, tokens, loss)."""
    rounds = [
        {
            "round": number,
            "examples": examples,
            "tokens": tokens,
            "response_tokens": tokens // 10,
            **dict.fromkeys(SHOWN_METRICS, loss),
            "seconds": SECONDS | seconds,
        }
        for number, (examples, tokens, loss) in enumerate(points, start=1)
    ]
    return {"strategy": "any", "seed": seed, "rounds": rounds}


def share(ours, theirs):
    return summarize("ours", [ours], [theirs])["share"]


def test_spread_is_a_t_interval_of_the_mean():
    found = spread([1.0, 2.0, 3.0])
    assert (found["mean"], found["sd"]) == (2.0, 1.0)
    half = 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom, 97.5%
    assert found["low"] == pytest.approx(2 - half, abs=1e-6) and found["high"] == pytest.approx(2 + half, abs=1e-6)


def test_one_seed_has_a_mean_and_no_interval():
    assert spread([1.5]) == {"mean": 1.5, "sd": None, "low": None, "high": None}
    found = summarize("ours", [run(0, (10, 100, 1.5))], [run(0, (10, 100, 2.0))])
    assert found["difference"]["macro_nll"] == {"value": -0.5, "sd": None, "low": None, "high": None, "p": None}


def test_differences_are_paired_by_seed_not_by_place():
    ours = [run(1, (10, 100, 2.0)), run(0, (10, 100, 1.0)), run(2, (10, 100, 2.6))]
    theirs = [run(0, (10, 100, 1.5)), run(2, (10, 100, 3.0)), run(1, (10, 100, 2.3)), run(7, (10, 100, 9.0))]
    found = summarize("ours", ours, theirs)
    difference = found["difference"]["macro_nll"]
    assert difference["value"] == pytest.approx(-0.4)  # of -0.3, -0.5, -0.4
    assert difference["sd"] == pytest.approx(0.1)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert difference["low"] == pytest.approx(-0.4 - half) and difference["high"] == pytest.approx(-0.4 + half)
    assert difference["p"] == pytest.approx(0.020204, abs=1e-6)  # t = -4 √3 of 2 degrees of freedom
    assert found["seeds_done"] == [1, 0, 2]


def test_no_difference_has_p_one_and_one_that_is_always_the_same_has_no_interval():
    """Three equal gains do not show how much a fourth seed would differ."""
    seeds = (0, 1, 2)
    ours = [run(seed, (10, 100, 1.0)) for seed in seeds]
    same = summarize("ours", ours, [run(seed, (10, 100, 1.0)) for seed in seeds])["difference"]["macro_nll"]
    assert same == {"value": 0.0, "sd": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    less = summarize("ours", ours, [run(seed, (10, 100, 1.5)) for seed in seeds])["difference"]["macro_nll"]
    assert less == {"value": -0.5, "sd": 0.0, "low": None, "high": None, "p": None}


def test_two_seeds_have_a_spread_and_no_interval():
    assert spread([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(2**0.5), "low": None, "high": None}
    ours, theirs = ([run(seed, (10, 100, nll + seed)) for seed in (0, 1)] for nll in (1.0, 1.5))
    found = summarize("ours", ours, theirs)["difference"]["macro_nll"]
    assert found == {"value": -0.5, "sd": 0.0, "low": None, "high": None, "p": None}


def test_what_the_order_of_a_sum_leaves_is_no_difference():
    ours, theirs = ([run(seed, (10, 100, 0.3 + seed + tiny)) for seed in range(3)] for tiny in (0.0, 1e-15))
    assert summarize("ours", ours, theirs)["difference"]["macro_nll"]["p"] == 1.0


def test_the_baseline_is_not_compared_with_itself():
    runs = [run(seed, (10, 100, 1.0)) for seed in (0, 1)]
    found = summarize("random", runs, runs)
    assert (found["difference"], found["share"], found["equal_tokens"]) == (None, None, None)


def test_without_a_run_of_the_baseline_there_is_no_comparison_yet():
    found = summarize("ours", [run(0, (10, 100, 1.0))], [])
    assert found["difference"] is None and found["final"]["macro_nll"]["mean"] == 1.0


def test_share_is_read_off_the_curve_on_a_logarithmic_axis():
    ours = run(0, (100, 1000, 3.0), (400, 4000, 1.0))
    assert share(ours, run(0, (400, 4000, 2.0)))["value"] == pytest.approx(0.5)  # half way: √(100 · 400) = 200 of 400
    assert share(ours, run(0, (400, 4000, 2.0)))["bound"] is False
    assert share(ours, run(0, (400, 4000, 1.0)))["value"] == pytest.approx(1.0)


def test_share_of_a_curve_that_starts_lower_is_a_bound():
    ours = run(0, (100, 1000, 1.5), (400, 4000, 1.0))
    assert share(ours, run(0, (400, 4000, 2.0))) == {"value": 0.25, "bound": True}
    assert share(run(0, (400, 4000, 1.0)), run(0, (400, 4000, 2.0))) == {"value": 1.0, "bound": True}  # one round


def test_share_is_none_where_the_loss_is_never_reached():
    ours = run(0, (100, 1000, 3.0), (400, 4000, 2.5))
    assert share(ours, run(0, (400, 4000, 2.0))) == {"value": None, "bound": False}


def test_share_takes_the_first_crossing_of_a_curve_that_rises_again():
    ours = run(0, (100, 1000, 3.0), (200, 2000, 2.0), (400, 4000, 2.5))
    assert share(ours, run(0, (400, 4000, 2.0)))["value"] == pytest.approx(0.5)


def test_equal_tokens_are_where_the_baseline_ends():
    ours = [run(0, (10, 1000, 3.0), (20, 4000, 1.0)), run(1, (10, 1000, 2.0), (20, 4000, 1.0))]
    theirs = [run(0, (20, 2000, 2.2)), run(1, (20, 2000, 1.6))]
    found = summarize("ours", ours, theirs)["equal_tokens"]
    assert found["tokens"] == 2000
    assert found["macro_nll"] == pytest.approx((2.0 + 1.5) / 2)  # half way on a logarithmic axis
    assert found["difference"] == pytest.approx(1.75 - 1.9)


def test_equal_tokens_are_none_where_a_run_has_none():
    ours = [run(0, (10, 1000, 3.0), (20, 4000, 1.0)), run(1, (10, 100, 2.0), (20, 400, 1.0))]
    theirs = [run(seed, (20, 2000, 2.0)) for seed in (0, 1)]
    assert summarize("ours", ours, theirs)["equal_tokens"] == {"tokens": 2000, "macro_nll": None, "difference": None}


def test_equal_tokens_forgive_what_a_budget_leaves_unspent():
    ours, theirs = run(0, (10, 990, 3.0), (20, 1980, 1.0)), run(0, (20, 2000, 2.0))
    assert summarize("ours", [ours], [theirs])["equal_tokens"]["macro_nll"] == pytest.approx(1.0)


def test_times_are_summed_over_rounds_and_averaged_over_seeds():
    runs = [
        run(0, (10, 100, 1.0), (20, 200, 1.0), score=1.0, select=1.0, train=6.0),
        run(1, (10, 100, 1.0), (20, 200, 1.0), score=2.0, select=2.0, train=12.0),
    ]
    found = summarize("ours", runs, [])
    assert found["seconds"] == {"score": 3.0, "select": 3.0, "train": 18.0, "evaluate": 4.0}
    assert found["scoring_share"] == pytest.approx(6 / 24)


def test_the_curve_has_a_point_for_each_round_that_all_seeds_have():
    runs = [run(0, (10, 100, 2.0), (20, 200, 1.0)), run(1, (10, 120, 3.0))]
    (point,) = summarize("ours", runs, [])["curve"]
    assert (point["round"], point["examples"], point["tokens"]) == (1, 10, 110)
    assert point["macro_nll"]["mean"] == 2.5
