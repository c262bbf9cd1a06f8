"""The verdict claims what the intervals allow and nothing more."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from report_summaries import first_round, later_round, second_round, tie, without_control

from al.report.page.round import render_html
from al.report.reading.verdict import Comparison, comparisons, headline, headline_metrics, verdict
from al.report.text.markdown import escape
from al.report.text.round import render_markdown, render_terminal


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


def decided_by(metric: str, summary: dict[str, Any], tokens: float = 3.0) -> dict[str, Any]:
    summary["decides"] = {"metric": metric, "response_tokens": tokens}
    return summary


def with_written_loss(summary: dict[str, Any]) -> dict[str, Any]:
    entry = {"value": -0.05, "low": -0.09, "high": -0.01, "p": 0.01}
    summary["answers"]["test"]["differences"]["selected - control"]["macro_accuracy"] = entry
    return summary


def test_the_first_sentence_says_whether_selecting_beat_random_and_by_how_much():
    assert headline(first_round()).startswith(
        "Yes, selecting beat random: NLL 1.802 against 1.851 (\u22120.049 nats per response token, 95% interval "
        "\u22120.090 to \u22120.008; NLL is the loss on the true responses, lower is better)"
    )
    assert headline(later_round()).startswith("No, selecting lost to random: NLL 2.520 against 2.290 (+0.230 nats")
    assert headline(tie()).startswith("Cannot tell yet whether selecting beats random: NLL 2.310 against 2.310 (+0.009")


@pytest.mark.parametrize("make", [first_round, later_round, tie, without_control])
def test_page_terminal_and_markdown_begin_with_the_same_sentence(make: Any):
    summary = make()
    sentence = headline(summary)
    html = render_html(summary)
    (title,) = re.findall(r"<h1[^>]*>(.*?)</h1>", html, re.S)
    assert unescape(re.sub("<[^>]*>", "", title)) == sentence
    name = f"demo, round {summary['round']}: "
    assert " ".join(render_terminal(summary).split()).startswith(name + sentence)
    assert render_markdown(summary).startswith(f"### {escape(name + sentence, 2_000)}\n")


def test_one_metric_decides_whatever_the_others_say():
    """NLL beats random here and exact match does not: several looks do not turn chance into a yes."""
    summary = decided_by("macro_em", first_round())
    assert headline(summary) == (
        "Cannot tell yet whether selecting beats random: exact match 20.0% against 19.5% (+0.4 points, 95% interval \u22121.5 to +2.4)"
    )
    assert headline(decided_by("macro_nll", first_round())).startswith("Yes")
    assert verdict(summary).startswith("In exact match the selection beat the base model by 8.0")
    assert "Exact match decides, because the median test response is short: 3 tokens (at most 16)" in verdict(summary)


def test_a_metric_that_lost_to_random_is_in_the_first_sentence_of_a_yes():
    summary = with_difference("selected - control", "micro_nll", 0.02, 0.152)
    summary["evaluation"]["differences"]["selected - control"]["micro_nll_no_end"] = {
        "value": 0.1,
        "low": 0.05,
        "high": 0.2,
    }
    assert headline(decided_by("macro_em", summary)).endswith(
        "; but it lost to random in NLL over the pool's own mix (+0.086 nats, +0.020 to +0.152)"
    ), "one variant of a metric is enough"
    assert headline(with_written_loss(first_round())).endswith(
        "; but it lost to random in written accuracy (\u22125.0 points, \u22129.0 to \u22121.0)"
    )


def test_with_the_pool_as_the_goal_the_micro_mean_decides_and_a_loss_with_sources_alike_is_named():
    summary = decided_by("micro_nll", with_difference("selected - control", "macro_nll", 0.02, 0.152))
    found = summary["evaluation"]["differences"]["selected - control"]
    found["micro_nll"] = {"value": -0.1, "low": -0.15, "high": -0.05}
    text = headline(summary)
    assert text.startswith("Yes, selecting beat random: NLL over the pool's own mix "), text
    assert "; but it lost to random in NLL with sources alike (+0.086 nats, +0.020 to +0.152)" in text
    said = verdict(summary)
    assert said.startswith("In NLL over the pool's own mix the selection beat the random control by 0.100")
    assert "; over the pool's own mix, because that is the goal." in said
    assert headline_metrics(summary) == ["micro_nll", "micro_nll_no_end", "micro_em"]


def test_accuracy_of_written_answers_decides_where_the_summary_says_so():
    summary = first_round()
    assert "accuracy" not in headline(summary) + verdict(summary)
    summary["answers"]["leads"] = True  # a round before the rule
    assert headline(summary) == headline(decided_by("macro_accuracy", summary))
    assert headline(summary).startswith("Cannot tell yet whether selecting beats random: written accuracy")
    text = verdict(summary)
    assert text.startswith(
        "In written accuracy the selection beat the base model by 8.2 percentage points (95% interval 2.1 to 14.3)"
    )
    assert ". In NLL it beat the random control by" in text
    assert "at least half of the test answers are right or wrong" in text


def test_a_missing_bound_is_not_an_outcome():
    assert Comparison("base", "macro_nll", -0.1, None, -0.05, None).outcome == "unmeasured"


def test_gains_are_given_with_their_intervals_and_both_metrics():
    text = verdict(first_round())
    assert (
        "In NLL the selection beat the random control by 0.049 nats per response token (95% interval 0.008 to 0.090)"
        in text
    )
    assert "and the base model by 0.508 (0.402 to 0.611)" in text
    assert "In exact match it beat the base model by 8.0 percentage points (95% interval 4.0 to 11.9)" in text


def test_an_interval_over_zero_is_no_significant_difference():
    text = verdict(first_round())
    assert "no significant difference from the random control (+0.4; \u22121.5 to +2.4)" in text


def test_an_interval_over_zero_is_never_called_a_win():
    summary = with_difference("selected - control", "macro_nll", -0.3, 0.0001)
    assert headline(summary).startswith("Cannot tell yet whether selecting beats random")
    assert "beat the random control" not in verdict(summary).partition(". ")[0]


def test_a_tie_claims_nothing():
    assert "beat " not in verdict(tie()) and "lost" not in verdict(tie()) + headline(tie())
    assert "In exact match it showed no significant difference from the random control (+0.4 percentage" in verdict(
        tie()
    )


def test_a_round_better_than_all_beats_each_by_name():
    assert "the random control by 0.049" in verdict(second_round())
    assert "the base model by 0.508 (0.402 to 0.611) and the previous round by 0.099" in verdict(second_round())


def test_trap_25_a_gain_is_told_without_the_end_token_too():  # trap 25
    summary = with_difference("selected - base", "macro_nll_no_end", -0.1, 0.3)
    assert "In NLL without the end-of-turn token it beat the random control by" in verdict(summary)
    assert "no significant difference from the base model (+0.100; \u22120.100 to +0.300)" in verdict(summary)


def with_gain_over_base(gain: float, without_end: tuple[float, float]) -> dict[str, Any]:
    """A first round that beat the base by `gain` in exact match, and by an interval without the end-of-turn token."""
    summary = with_difference("selected - base", "macro_em", gain - 0.02, gain + 0.02)
    low, high = without_end
    entry = {"value": (low + high) / 2, "low": low, "high": high, "p": 0.5}
    summary["evaluation"]["differences"]["selected - base"]["macro_em_no_end"] = entry
    summary["evaluation"]["models"]["base"].update(macro_em=0.026, macro_em_no_end=0.113)
    return summary


def test_a_gain_over_the_base_that_is_mostly_the_end_token_is_called_so():
    text = verdict(with_gain_over_base(0.10, (-0.05, 0.07)))
    assert (
        ". Most of the gain over the base model is the end-of-turn token: without it the base has 11.3% instead of 2.6%, and the "
        "difference is +1.0 points, 95% interval \u22125.0 to +7.0, no significant difference."
    ) in text
    assert "difference is +4.0 points, 95% interval +2.0 to +6.0." in verdict(with_gain_over_base(0.10, (0.02, 0.06)))
    assert text.index("In exact match") < text.index("Most of the gain")


@pytest.mark.parametrize(("gain", "without_end"), [(0.10, (0.04, 0.08)), (0.01, (-0.05, 0.05)), (-0.10, (-0.05, 0.05))])
def test_elsewhere_the_end_token_is_not_blamed(gain, without_end):
    """Where more than half of the gain is left without it, and where there is no significant gain."""
    assert "Most of the gain" not in verdict(with_gain_over_base(gain, without_end))


def test_trap_22_a_worse_base_is_said_first_and_plainly():  # trap 22
    summary = later_round()
    assert ". Fine-tuning made the base model worse in NLL (+0.210 nats, +0.110 to +0.320)" in headline(summary)
    assert verdict(summary).startswith("Fine-tuning made the base model worse in NLL: the selection lost to")
    assert "Fine-tuning made the base model worse in exact match" in verdict(summary)


def test_exact_match_lost_to_base_is_in_the_headline_when_nll_gained():
    summary = with_difference("selected - base", "macro_em", -0.05, -0.01)
    assert headline(summary).endswith(
        ". Fine-tuning made the base model worse in exact match (\u22123.0 points, \u22125.0 to \u22121.0)"
    )


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


def test_a_round_without_a_control_repeats_what_the_last_one_said():
    summary = without_control()
    summary["learning_curve"] = [
        {"round": 1, "against_control": "Cannot tell yet"},
        {"round": 2, "against_control": "Yes, it did"},
        {"round": 3, "against_control": None},
        {"round": 4},  # of an earlier version
    ]
    assert headline(summary).startswith("No control in this round; round 2 said: Yes, it did")
    assert "no random control was trained, so this does not show that selecting pays" in verdict(summary)


def test_a_control_that_won_is_said_to_have_won():
    summary = with_difference("selected - control", "macro_nll", 0.01, 0.02)
    assert headline(summary).startswith("No, selecting lost to random")
    assert "lost to the random control by 0.015" in verdict(summary)


def test_without_any_holdout_neither_gain_nor_loss_is_claimed():
    summary = first_round()
    summary["evaluation"] = None
    assert headline(summary) == (
        "Cannot tell whether selecting beats random: nothing was compared on held-out examples"
    )
    assert (
        verdict(summary) == "Nothing was compared on held-out examples, so this round shows neither a gain nor a loss."
    )


def test_a_missing_interval_is_not_a_gain():
    summary = first_round()
    summary["evaluation"]["differences"]["selected - base"]["macro_nll"].update(low=None, high=None)
    assert "no interval against the base model" in verdict(summary)
    assert [c.outcome for c in comparisons(summary, "macro_nll")] == ["better", "unmeasured"]


def test_a_tiny_bound_does_not_look_like_zero():
    summary = with_difference("selected - control", "macro_nll", -0.01, -0.00004)
    assert "(95% interval 4e-05 to 0.010)" in verdict(summary) and "to \u22124e-05" in headline(summary)
