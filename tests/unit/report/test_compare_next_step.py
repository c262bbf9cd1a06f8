"""What a comparison leads with, and what it proposes where it decides nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from comparison_documents import bare, comparison, nothing_pays, one_seed, paying, unfinished
from report_page import read_page
from scipy.stats import t

from al.comparison.headline import comparison_headline
from al.comparison.next_step import MOST_SEEDS, command_of, seeds_to_tell
from al.comparison.page import render_comparison
from al.comparison.runs import _decides
from al.comparison.text import comparison_as_markdown, comparison_as_text
from al.comparison.words import comparison_verdict, leading_metric, next_sentence, next_step, ranked

SHORT_RESPONSES = {"decides": {"metric": "macro_em", "response_tokens": 3.0}}


def short_responses(gain: float = 0.21, **more):
    """A comparison on short test responses, which exact match decides."""
    return comparison({"default": gain, "random": 0.0}, **more) | SHORT_RESPONSES


def undecided(value: float, half: float, seeds: int = 3):
    """A comparison whose only difference has this value and half interval."""
    document = comparison({"default": 0.0, "random": 0.0}, seeds=seeds)
    document["strategies"][0]["difference"]["macro_nll"] = {
        "value": value,
        "low": value - half,
        "high": value + half,
        "p": 0.3,
    }
    return document


def test_short_responses_lead_with_exact_match():
    document = short_responses()
    sentence, *_ = comparison_verdict(document)
    assert sentence.startswith("default: exact match ") and " points above random's " in sentence
    assert ". NLL \u2212" in sentence and sentence.index("exact match") < sentence.index("NLL")
    lines = comparison_as_text(document).splitlines()
    head = next(line for line in lines if line.startswith("Strategy") or " Exact " in line)
    assert head.index("Exact") < head.index("NLL")
    assert "Exact match decides, because the median test response is short: 3 tokens" in " ".join(lines)


def test_the_page_says_which_metric_decides_and_draws_it_first():
    made = {name: render_comparison(d) for name, d in (("em", short_responses()), ("nll", paying()))}
    first = {
        name: page.index('id="chart-final-em"') < page.index('id="chart-final-nll"') for name, page in made.items()
    }
    assert first == {"em": True, "nll": False}
    assert "Exact match decides, because the median test response has 3 tokens" in read_page(made["em"]).text


def test_the_order_is_that_of_the_metric_that_decides():
    document = comparison({"default": 0.21, "random": 0.0}, gain_em=-0.4)
    assert [document["strategies"][i]["name"] for i in ranked(document)] == ["default", "random"]
    assert [document["strategies"][i]["name"] for i in ranked(document | SHORT_RESPONSES)] == ["random", "default"]


def test_a_rise_of_nll_is_in_the_headline_where_exact_match_decides():
    document = short_responses(-0.2, gain_em=-0.4)
    assert comparison_headline(document) == (
        "default beat random beyond chance; but the NLL of default rose above random's"
    )


@pytest.mark.parametrize(
    ("nll", "said"),
    [
        ({"value": 0.02, "low": -0.01, "high": 0.05}, "; NLL points the other way for default, which may be chance"),
        ({"value": 0.02, "low": None, "high": None}, "; NLL points the other way for default, which may be chance"),
        ({"value": 0.02, "low": 0.01, "high": 0.03}, "; NLL points the other way for default, beyond chance"),
        ({"value": -0.02, "low": -0.03, "high": -0.01}, ""),
        ({"value": 0.0, "low": -0.01, "high": 0.01}, ""),
    ],
)
def test_the_answer_says_where_nll_points_the_other_way_than_exact_match(nll, said):
    document = short_responses(0.0, seeds=3)
    document["strategies"][0]["difference"] |= {
        "macro_em": {"value": 0.01, "low": -0.02, "high": 0.04, "p": 0.4},
        "macro_nll": nll | {"p": 0.01},
    }
    answer = comparison_headline(document)
    assert answer.startswith("3 seeds are too few to tell whether default beats random")
    assert answer.removesuffix(said).endswith("which may be chance") and ("the other way" in answer) == bool(said)
    assert f"In short: {answer}" in " ".join(comparison_as_text(document).split())


@pytest.mark.parametrize(("value", "half", "seeds"), [(0.9, 1.6, 3), (-0.02, 0.05, 5), (2.0, 2.1, 4)])
@pytest.mark.parametrize("comparisons", [1, 3])
def test_that_many_seeds_leave_zero_out_and_one_fewer_do_not(value, half, seeds, comparisons):
    found = seeds_to_tell(value, value - half, value + half, seeds, comparisons)
    deviation = half * seeds**0.5 / t.ppf(0.975, seeds - 1)
    halves = [t.ppf(1 - 0.025 / comparisons, m - 1) * deviation / m**0.5 for m in (found - 1, found)]
    assert found > seeds and halves[1] < abs(value)
    assert halves[0] >= abs(value) or found == seeds + 1


def test_the_part_of_randoms_examples_is_left_out_where_one_round_shows_nothing_of_it():
    document = paying()
    assert "final NLL with 21.0% of" in comparison_verdict(document)[0]
    document["strategies"][ranked(document)[0]]["share"] = {"value": 1.0, "bound": True}
    assert "final NLL" not in comparison_verdict(document)[0]


def test_a_difference_that_takes_too_many_seeds_is_called_equal():
    assert seeds_to_tell(0.001, -0.05, 0.052, 3) is None
    assert next_sentence(undecided(0.001, 0.05)).startswith(f"Even {MOST_SEEDS} seeds would not show")


def test_an_undecided_comparison_ends_with_the_command_that_would_decide():
    document = undecided(0.02, 0.03)
    document["command"] = "python cli.py compare --budget 100 --seeds 3 --strategies 'default top:score.by=ifd' --json"
    seeds = seeds_to_tell(0.02, -0.01, 0.05, 3)
    last = next_sentence(document)
    assert last.startswith(f"Next, {seeds} seeds: they show whether default differs from random")
    assert last.endswith(
        f": python cli.py compare --budget 100 --strategies 'default top:score.by=ifd' --seeds {seeds}"
    )


def test_too_few_seeds_for_an_interval_are_answered_with_five_and_why_not_three():
    said, command = next_step(one_seed())
    assert (
        said.startswith("Next, 5 seeds: three give an interval too, but one that is twice as wide") and "kept" in said
    )
    assert command.endswith("--seeds 5")
    widths = {n: t.ppf(0.975, n - 1) / n**0.5 for n in (3, 5)}
    assert widths[3] / widths[5] == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("document", [comparison({"random": 0.0}), {"compared": "runs", "runs": []}])
def test_nothing_is_proposed_where_nothing_was_compared(document):
    assert next_sentence(document) == ""


def test_what_won_is_trained_next_on_the_same_pool_and_config():
    document = paying()
    document["strategies"][0]["changes"] = {}
    document["command"] = "winnow compare --pool 'my data' --seeds 3 --config=demo --budget 9 --set seed=4 --run runs/x"
    assert next_sentence(document) == (
        "Next, train with default: winnow round --budget 1000 --pool 'my data' --config=demo --set seed=4"
    )
    document["strategies"][0] |= {"name": "top:score.by=ifd", "changes": {"score.by": "ifd"}}
    assert next_sentence(document).endswith("--set seed=4 --strategy top --set 'score.by=\"ifd\"'")


def test_missing_runs_are_made_by_the_same_command():
    document = unfinished() | {"command": "winnow compare --budget 1000 --seeds 5"}
    assert next_sentence(document) == "Next, the runs that are missing: winnow compare --budget 1000 --seeds 5"


def test_where_all_lost_random_is_trained_next():
    document = nothing_pays()
    document["strategies"] = document["strategies"][1:]
    assert next_sentence(document).startswith("Next, train with random, which costs nothing to choose: ")
    assert next_sentence(document).endswith(" round --budget 1000 --strategy random")


def test_the_text_ends_with_the_answer_and_the_command_on_a_line_of_its_own():
    document = paying() | {"command": f"winnow compare --budget 1000 {'--set kinds.uneven=0.125 ' * 12}--seeds 5"}
    document["strategies"][0]["changes"] = {}
    *_, command = comparison_as_text(document).rstrip().splitlines()
    assert command == f"winnow round --budget 1000{' --set kinds.uneven=0.125' * 12}"
    ends = comparison_as_text(document).partition("In short: ")[2]
    assert " ".join(ends.split()).startswith(f"{comparison_headline(document)}. Next, train with default: {command}")


@pytest.mark.parametrize("document", [paying(), unfinished(), comparison({"random": 0.0}), bare()])
def test_the_answer_is_said_once_at_the_end_of_the_text_and_at_the_head_of_markdown(document):
    answer = comparison_headline(document)
    text, markdown = " ".join(comparison_as_text(document).split()), comparison_as_markdown(document)
    assert text.count(answer) == 1 and text.index("Strategy") < text.index(f"In short: {answer}")
    assert markdown.startswith(f"### {answer}\n") and markdown.count(answer) == 1


@pytest.mark.parametrize(
    ("recorded", "command"),
    [
        ("winnow compare --seeds=3 --budget 40", "winnow compare --budget 40 --seeds 7"),
        ("winnow compare --budget 40", "winnow compare --budget 40 --seeds 7"),
    ],
)
def test_the_recorded_command_gets_another_number_of_seeds(recorded, command):
    assert command_of({"command": recorded}, 7) == command
    assert command_of({"command": recorded}) == recorded


def test_a_comparison_of_a_python_program_gets_a_command_made_of_what_it_compared():
    document = paying() | {"command": "a Python program that imports al"}
    assert command_of(document) == "a Python program that imports al"
    made = "compare --strategies default,random,rds --budget 1000 --rounds 4 --seeds 7"
    assert command_of(document, 7).endswith(made)


@pytest.mark.parametrize(
    ("deciding", "leads"),
    [
        (["macro_em", "macro_em"], "macro_em"),
        (["micro_accuracy", "micro_accuracy"], "micro_nll"),
        (["macro_accuracy", "macro_accuracy"], "macro_nll"),
        (["micro_accuracy", "micro_em"], "micro_nll"),
        (["micro_em", "macro_em"], "macro_nll"),
        (["micro_em", None], "macro_nll"),
    ],
)
def test_runs_are_compared_by_the_mean_that_their_goal_names(deciding, leads):
    sides = [SimpleNamespace(summary={"decides": metric and {"metric": metric}}) for metric in deciding]
    assert leading_metric({"decides": _decides(sides)}) == leads
