"""Groups, answers, rounds, cost and plan on the page: worst first, nothing missing unsaid, older summaries still a page."""

from __future__ import annotations

from typing import Any

import pytest
from report_page import Page, read_page
from report_summaries import first_round, later_round, second_round, without_control
from round_parts import cost

from al.lineage.outcomes import OUTCOMES
from al.report.page.drawing import build_charts
from al.report.page.round import render_html
from al.report.reading.view import source_outcome
from al.report.summary.rounds import EVER_PICKED

NEW_PARTS = ("generations", "work", "cost", "at_random", "plan", "drift", "hashes", "config", "platform")


def page_of(summary: dict[str, Any]) -> Page:
    return read_page(render_html(summary))


def older(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary as it was written before these parts were."""
    for key in NEW_PARTS:
        del summary[key]
    del summary["evaluation"]["by_group"], summary["evaluation"]["changed"]
    for row in summary["evaluation"]["by_source"]:
        row.pop("intervals", None)
    for lineage in ("selected", "control"):
        for key in ("truncated", "tokens_dropped", "best_step", "best_dev_loss", "stopped_early"):
            del summary["training"][lineage][key]
        for point in summary["training"][lineage]["curve"]:
            del point["dev_loss"], point["memory_gib"]
    return summary


@pytest.mark.parametrize("make", [first_round, second_round, later_round])
def test_an_older_summary_is_a_page_that_says_what_it_lacks(make):
    text = page_of(older(make())).text
    for sentence in (
        "is not recorded for this round",
        "The time by kind of work is not recorded",
        "No source belongs to a task group",
        "No answers were generated in this round.",
        "No plan was recorded for this round.",
        "What was forgotten is not recorded",
        "How selections drift is not recorded",
        "Not recorded on this page",
    ):
        assert sentence in text, sentence


def test_the_chart_of_gains_stands_right_below_the_sentence():
    elements = page_of(second_round()).elements
    start = next(i for i, e in enumerate(elements) if e.attributes.get("id") == "verdict-title")
    assert [e.tag for e in elements[start + 1 : start + 3]] == ["span", "figure"]
    assert elements[start + 2].attributes.get("id") == "chart-differences-nll"


def test_where_accuracy_leads_its_chart_and_tables_come_before_those_of_nll():
    summary = second_round()
    before = render_html(summary)
    summary["answers"]["leads"] = True
    after = render_html(summary)
    for first, second in (
        ('id="chart-differences-accuracy"', 'id="chart-differences-nll"'),
        ("Written answers", "Models side by side"),
    ):
        assert 0 < after.index(first) < after.index(second)
        assert first not in before or before.index(first) > before.index(second)


def test_the_worst_group_comes_first():
    page = page_of(later_round())
    first = next(n for n in page.numbers if n.path and n.path.startswith("/evaluation/by_group/"))
    assert first.path == "/evaluation/by_group/2/examples", "its difference is 0, those of the others are below"


def test_money_is_shown_where_a_price_is_known_and_time_everywhere():
    summary = second_round()
    paths = {number.path for number in page_of(summary).numbers}
    assert {"/cost/money/training", "/cost/money/control", "/cost/seconds/training", "/at_random/money"} <= paths
    summary["cost"] = cost(price=None)
    summary["at_random"]["money"] = None
    page = page_of(summary)
    paths = {number.path for number in page.numbers}
    assert "/cost/seconds/training" in paths and not any(path and "money" in path for path in paths)


def test_work_is_counted_in_tokens_and_device_seconds_before_wall_clock():
    html = render_html(second_round())
    assert 0 < html.index("Tokens through the model") < html.index("CPU seconds") < html.index("Wall clock")
    paths = {number.path for number in page_of(second_round()).numbers}
    assert {"/work/tokens/control", "/work/seconds/total", "/work/tokens_per_s"} <= paths
    older = second_round()
    del older["work"]
    assert "Wall clock" in page_of(older).text and "CPU seconds" not in page_of(older).text


def test_answers_of_the_control_stand_next_to_those_of_the_selection():
    summary = second_round()
    for row in summary["generations"]["rows"]:
        row["answers"]["control"] = {"text": "picked at random", "tokens": 3, "equal": False}
    summary["generations"]["equal"]["control"] = 0
    html = render_html(summary)
    first = html[html.index("Answers side by side") :].partition('<div class="side">')[2].partition("</li>")[0]
    assert first.count("<div>") == 4 and "picked at random" in first


def test_answers_stand_beside_the_reference_and_equal_ones_are_marked():
    page = page_of(second_round())
    marks = [e for e in page.elements if e.attributes.get("class") == "equal"]
    equal = sum(bool(a["equal"]) for row in second_round()["generations"]["rows"] for a in row["answers"].values())
    assert len(marks) == equal > 0
    assert (
        page.text.count("It is 42.") >= 3
        and "an empty answer" in page.text
        and "no answer: it answered other prompts" in page.text
    )


def test_switched_off_answers_are_said_to_be_off():
    summary = first_round()
    summary["generations"] = None
    assert "evaluate.generations is 0, or there is no dev example" in page_of(summary).text


def test_without_control_its_columns_are_gone():
    text = page_of(without_control()).text
    assert "No random control was measured" in text
    assert "NLL minus random control" not in text and "NLL minus base" in text


def test_a_source_is_called_worse_only_by_its_interval():
    row = first_round()["evaluation"]["by_source"][5]
    row["selected_nll"] = row["base_nll"] + 0.1
    for low, outcome in ((-0.1, "unclear"), (0.02, "worse")):
        row["intervals"]["base"]["nll"] = {"low": low, "high": 0.2}
        assert source_outcome(row) == outcome
    del row["intervals"]
    assert source_outcome(row) == "unmeasured"


def test_dev_loss_is_drawn_with_the_loss_and_the_kept_step_is_ringed():
    summary = first_round()
    traces = {trace["name"]: trace for trace in build_charts(summary)["curve-loss"]["data"]}
    curve = summary["training"]["selected"]["curve"]
    assert traces["Selected, dev"]["x"] == [4, 8, 12]
    assert traces["Selected, dev"]["y"] == [curve[step - 1]["dev_loss"] for step in (4, 8, 12)]
    assert traces["Selected, dev, kept"]["x"] == [8] and traces["Selected, dev, kept"]["y"] == [curve[7]["dev_loss"]]


def test_the_learning_curve_starts_at_base_and_has_the_control_beside_it():
    summary = second_round()
    selected, control = build_charts(summary)["rounds-tokens"]["data"]
    picked, models = summary["drift"]["rounds"], summary["evaluation"]["models"]
    for trace, name in ((selected, "selected"), (control, "control")):
        assert trace["x"] == [0, *(entry[name]["all_tokens"] for entry in picked)]
        first = summary["learning_curve"][0]["models"][name]
        assert trace["y"] == [models["base"]["macro_nll"], first, models[name]["macro_nll"]]


def test_one_round_has_no_curve_over_rounds():
    charts = build_charts(first_round())
    assert not {"rounds", "rounds-tokens", "drift"} & set(charts)


def test_an_early_stop_is_said():
    summary = first_round()
    summary["training"]["selected"]["stopped_early"] = True
    assert "Training stopped early" in page_of(summary).text
    summary["training"]["selected"].update(best_step=None, best_dev_loss=None)
    assert "dev was not measured during training" in page_of(summary).text


def test_training_that_ran_out_of_memory_is_said():
    summary = first_round()
    assert "Memory ran out" not in page_of(summary).text
    summary["training"]["selected"]["out_of_memory"] = [{"step": 3, "packs_per_batch": 2, "activation_memory": "auto"}]
    assert "Memory ran out in training" in page_of(summary).text


def test_hashes_stand_whole_beside_their_fingerprints():
    summary = first_round()
    text = page_of(summary).text
    assert all(name in text and summary["hashes"][role] in text for role, name in summary["artifacts"].items())


def test_picks_are_compared_with_what_some_round_could_pick():
    never = set(OUTCOMES) - set(EVER_PICKED) - {"selectable"}
    assert {"other_language", "refusal", "unlabelled", "held_out_test", "near_duplicate"} <= never
    assert {"selected", "quota_full", "trained", "dropped_in_review"} <= set(EVER_PICKED) <= set(OUTCOMES)
