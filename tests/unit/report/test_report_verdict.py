"""The verdict claims what the intervals allow and nothing more."""

from __future__ import annotations

from typing import Any

import pytest
from report_summaries import first_round, later_round, second_round, tie, without_control

from al.report.reading.verdict import Comparison, comparisons, headline, verdict


def with_difference(key: str, metric: str, low: float, high: float) -> dict[str, Any]:
    summary = first_round()
    entry = {"value": (low + high) / 2, "low": low, "high": high, "p": 0.5}
    summary["evaluation"]["differences"][key][metric] = entry
    return summary


@pytest.mark.parametrize(
    ("metric", "low", "high", "outcome"),
    [
        ("macro_nll", -0.2, -0.1, "better"),
        ("macro_nll", 0.1, 0.2, "worse"),
        ("macro_nll", -0.1, 0.2, "unclear"),
        ("macro_nll", 0.0, 0.2, "unclear"),
        ("macro_nll", -0.2, 0.0, "unclear"),
        ("macro_em", 0.1, 0.2, "better"),
        ("macro_em", -0.2, -0.1, "worse"),
        ("macro_em", -0.1, 0.2, "unclear"),
        ("micro_nll_no_end", -0.2, -0.1, "better"),
    ],
)
def test_a_difference_is_shown_only_by_an_interval_without_zero(metric: str, low: float, high: float, outcome: str):
    assert Comparison("base", metric, (low + high) / 2, low, high, 0.5).outcome == outcome


def test_accuracy_of_written_answers_leads_where_the_summary_says_so():
    summary = first_round()
    assert "accuracy" not in headline(summary) + verdict(summary)
    summary["answers"]["leads"] = True
    assert headline(summary) == (
        "In written accuracy the selection beat the base model; no significant difference from the random control"
    )
    text = verdict(summary)
    assert text.startswith(
        "In written accuracy the selection beat the base model by 8.2 percentage points (95% interval 2.1 to 14.3)"
    )
    assert ". In NLL it beat the base model" in text


def test_a_missing_bound_is_not_an_outcome():
    assert Comparison("base", "macro_nll", -0.1, None, -0.05, None).outcome == "unmeasured"


def test_gains_are_given_with_their_intervals_and_both_metrics():
    text = verdict(first_round())
    assert (
        "In NLL the selection beat the base model by 0.508 nats per response token (95% interval 0.402 to 0.611)"
        in text
    )
    assert "the random control by 0.049 (0.008 to 0.090)" in text
    assert "In exact match it beat the base model by 8.0 percentage points (95% interval 4.0 to 11.9)" in text


def test_an_interval_over_zero_is_no_significant_difference():
    text = verdict(first_round())
    assert "no significant difference from the random control (+0.4; \u22121.5 to +2.4)" in text


def test_an_interval_over_zero_is_never_called_a_win():
    summary = with_difference("selected - control", "macro_nll", -0.3, 0.0001)
    assert headline(summary).endswith("beat the base model; no significant difference from the random control")
    assert "beat the random control" not in verdict(summary)


def test_a_tie_claims_nothing():
    others = "the base model and the random control"
    assert headline(tie()) == f"In NLL the selection showed no significant difference from {others}"
    assert "beat" not in verdict(tie()) and "lost" not in verdict(tie())
    assert "In exact match it showed no significant difference from the base model (0.0 percentage" in verdict(tie())


def test_a_round_better_than_all_beats_each_by_name():
    assert headline(second_round()) == (
        "In NLL the selection beat the base model, the previous round and the random control"
    )


def test_trap_25_a_gain_is_told_without_the_end_token_too():  # trap 25
    summary = with_difference("selected - base", "macro_nll_no_end", -0.1, 0.3)
    assert "In NLL without the end-of-turn token it beat the random control by" in verdict(summary)
    assert "no significant difference from the base model (+0.100; \u22120.100 to +0.300)" in verdict(summary)


def test_trap_22_a_worse_base_is_said_first_and_plainly():  # trap 22
    summary = later_round()
    assert verdict(summary).startswith(
        "Fine-tuning made the base model worse in NLL: the selection lost to the base model by 0.210"
    )
    assert "Fine-tuning made the base model worse in exact match" in verdict(summary)
    assert headline(summary).startswith("Fine-tuning made the base model worse in NLL")


def test_exact_match_lost_to_base_is_in_the_headline_when_nll_gained():
    summary = with_difference("selected - base", "macro_em", -0.05, -0.01)
    assert headline(summary).endswith("; its exact match fell below the base model's")


def test_the_previous_round_is_compared_when_there_is_one():
    assert "no significant difference from the previous round (+0.170; \u22120.010 to +0.340)" in verdict(later_round())


def test_a_previous_round_that_was_not_compared_is_named():
    summary = later_round()
    del summary["evaluation"]["differences"]["selected - previous"]
    assert "it was not compared with the previous round" in verdict(summary)


def test_without_control_nothing_is_claimed_about_selecting():
    summary = without_control()
    assert "no random control was trained, so this does not show that selecting pays" in verdict(summary)
    assert "no random control was trained" in headline(summary)


def test_a_control_that_won_is_said_to_have_won():
    summary = with_difference("selected - control", "macro_nll", 0.01, 0.02)
    assert headline(summary) == "In NLL the selection beat the base model but lost to the random control"
    assert "lost to the random control by 0.015" in verdict(summary)


def test_without_any_holdout_neither_gain_nor_loss_is_claimed():
    summary = first_round()
    summary["evaluation"] = None
    assert headline(summary) == "Nothing was compared on held-out examples"
    assert (
        verdict(summary) == "Nothing was compared on held-out examples, so this round shows neither a gain nor a loss."
    )


def test_a_missing_interval_is_not_a_gain():
    summary = first_round()
    summary["evaluation"]["differences"]["selected - base"]["macro_nll"].update(low=None, high=None)
    assert "no interval against the base model" in verdict(summary)
    assert [c.outcome for c in comparisons(summary, "macro_nll")] == ["unmeasured", "better"]


def test_a_tiny_bound_does_not_look_like_zero():
    summary = with_difference("selected - control", "macro_nll", -0.01, -0.00004)
    assert "(4e-05 to 0.010)" in verdict(summary)
