"""What a gain would have cost at random: read between the control's rounds, never beyond them, and told as it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
from report_summaries import first_round, second_round, without_control
from round_parts import at_random

from al.config import ReportConfig
from al.report.reading.priced import priced
from al.report.summary.at_random import Point, cost_at_random
from al.report.summary.cost import cost, kind_of

CURVE = [Point(100, 10_000, 60.0, 2.0), Point(200, 20_000, 130.0, 1.8), Point(400, 40_000, 250.0, 1.7)]


def test_between_two_rounds_nll_is_linear_in_the_logarithm_of_the_examples():
    found = cost_at_random(2.5, 1.9, CURVE)
    assert (found["relation"], found["rounds"]) == ("about", 3)
    examples = math.sqrt(100 * 200)
    assert found["examples"] == round(examples)
    assert found["tokens"] == pytest.approx(100 * examples, abs=1)
    assert found["seconds"] == pytest.approx(60 + 70 * (examples - 100) / 100)


def test_the_end_of_a_round_is_read_exactly():
    assert cost_at_random(2.5, 1.8, CURVE)["examples"] == 200
    found = cost_at_random(2.5, 1.7, CURVE)
    assert (found["relation"], found["examples"], found["tokens"], found["rounds"]) == ("about", 400, 40_000, 3)
    assert found["seconds"] == pytest.approx(250)


def test_beyond_the_last_round_nothing_is_extrapolated():
    found = cost_at_random(2.5, 1.69, CURVE)
    assert (found["relation"], found["examples"]) == ("more than", 400)


def test_a_control_that_was_there_in_its_first_round_bounds_it_from_above():
    found = cost_at_random(2.5, 2.1, CURVE)
    assert (found["relation"], found["examples"]) == ("at most", 100)


def test_one_round_gives_a_bound_either_way():
    assert cost_at_random(2.5, 1.9, CURVE[:1])["relation"] == "more than"
    assert cost_at_random(2.5, 2.2, CURVE[:1])["relation"] == "at most"


def test_no_gain_has_no_price_and_no_control_no_answer():
    assert cost_at_random(2.5, 2.5, CURVE)["relation"] == "no gain"
    assert cost_at_random(2.5, 2.5, CURVE)["examples"] is None
    assert cost_at_random(2.5, 1.9, []) is None


def test_the_first_crossing_counts_where_the_curve_goes_up_again():
    curve = [Point(100, 1, 1, 2.0), Point(200, 2, 2, 1.8), Point(300, 3, 3, 2.1), Point(400, 4, 4, 1.7)]
    assert 100 < cost_at_random(2.5, 1.9, curve)["examples"] < 200


def told(relation: str, rounds: int = 2, **amounts: Any) -> str:
    summary = second_round()
    summary["at_random"] = at_random(rounds, relation) | amounts
    return priced(summary)


def test_the_sentence_says_how_many_times_as_much():
    assert told("about", examples=300) == (
        "At random the same NLL would have cost about 300 examples, 1.50 times the 200 selected ones."
    )
    assert told("about", examples=187).endswith("0.94 times the 200 selected ones: selecting saved nothing here.")


def test_the_sentence_of_a_bound_is_a_bound():
    assert "cost more than the control's 187 examples, against 200 selected ones" in told("more than")
    assert "how much more is unknown" in told("more than")
    assert "the control has one round so far; run another to estimate how much more." in told("more than", 1)
    assert "at most 187 examples" in told("at most") and "selecting saved nothing here" in told("at most")


def test_no_gain_and_no_control_are_said():
    assert told("no gain") == "There is no gain in NLL over the base model, so no cost at random is estimated."
    assert "No random control was measured" in priced(without_control())
    old = first_round()
    del old["at_random"]
    assert priced(old) == "What the same gain would have cost at random is not recorded for this round."


def test_a_reading_of_what_may_be_chance_says_so():
    summary = second_round()
    summary["evaluation"]["differences"]["selected - control"]["macro_nll"].update(low=-0.1, high=0.02)
    assert "NLL does not differ significantly from the control's" in priced(summary)
    assert "not told apart" not in priced(second_round())


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("train", "training"),
        ("train control", "control"),
        ("evaluate control", "control"),
        ("evaluate this round", "evaluation"),
        ("generate base", "evaluation"),
        ("score shortlist", "selecting"),
        ("select", "selecting"),
        ("suspected noise", "selecting"),
        ("measure speed", "training"),
        ("embed", "preparing"),
        ("something new", "preparing"),
    ],
)
def test_every_stage_counts_as_one_kind_of_work(label: str, kind: str):
    assert kind_of(label) == kind


def test_kinds_of_work_add_up_and_cost_the_price_of_their_time():
    timings = {"embed": 10.0, "select": 2.0, "train": 30.0, "train control": 31.0, "evaluate base": 5.0, "total": 78.0}
    found = cost(timings, ReportConfig(price_per_hour=7.2, currency="EUR"))
    assert found["seconds"] == {
        "preparing": 10.0,
        "selecting": 2.0,
        "training": 30.0,
        "evaluation": 5.0,
        "control": 31.0,
        "total": 78.0,
    }
    assert found["money"]["training"] == pytest.approx(0.06) and found["money"]["total"] == pytest.approx(0.156)


def test_without_a_price_there_is_no_money():
    assert cost({"train": 3.0}, ReportConfig())["money"] is None
