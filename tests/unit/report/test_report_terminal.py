"""The terminal summary fits its width, shows the summary's numbers and cannot be driven by a pool's text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from report_attacks import hostile
from report_summaries import first_round, later_round, without_control

from al.report.terminal import render_terminal
from al.report.verdict import verdict


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in line)


@pytest.mark.parametrize("make", [first_round, later_round, without_control, hostile])
@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_wider_than_asked(make: Callable[[], dict[str, Any]], width: int):
    assert max(columns(line) for line in render_terminal(make(), width).split("\n")) <= width


def test_the_models_stand_side_by_side():
    text = render_terminal(later_round())
    (header,) = [line for line in text.split("\n") if line.startswith("Evaluation on 149 test")]
    assert header.split("  ")[0] == "Evaluation on 149 test examples"
    assert [name for name in ("Base", "Previous round", "Selected", "Random control") if name in header] == [
        "Base",
        "Previous round",
        "Selected",
        "Random control",
    ]
    (row,) = [line for line in text.split("\n") if line.startswith("NLL, macro")]
    assert row.split()[2:] == ["2.310", "2.350", "2.520", "2.290"]


@pytest.mark.parametrize("width", [40, 60, 100])
def test_the_verdict_is_whole_at_any_width(width: int):
    assert " ".join(verdict(later_round()).split()) in " ".join(render_terminal(later_round(), width).split())


def test_the_funnel_the_budget_and_the_quarantine_are_counted():
    text = " ".join(render_terminal(first_round()).split())
    assert "1,052 examples in the pool → 740 selectable → 181 measured by the model → 100 selected" in text
    assert "asked 100; selected 100 examples, 12,345 tokens, 2,346 target tokens" in text
    assert "3 invalid json, 2 bad utf8, 1 no messages" in text


def test_the_clusters_with_the_largest_quotas_come_first():
    lines = render_terminal(first_round()).split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("Clusters with the largest quotas (8 of 10)"))
    quotas = [int(line.split()[-2]) for line in lines[start + 2 : start + 10]]
    assert quotas == [28, 12, 11, 10, 9, 8, 7, 6]


def test_every_outcome_that_occurred_is_counted():
    summary = first_round()
    counts = [count for count in summary["selection"]["outcomes"].values() if count]
    lines = render_terminal(summary).split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("Outcomes"))
    assert sorted(int(line.split()[-1]) for line in lines[start + 2 : start + 2 + len(counts)]) == sorted(counts)


def test_outcomes_that_do_not_add_up_are_exposed():
    summary = first_round()
    summary["selection"]["outcomes"]["quota_full"] -= 7
    assert any(line.split()[-3:] == ["unaccounted", "for", "+7"] for line in render_terminal(summary).split("\n"))


def test_a_missing_control_and_holdout_are_said():
    assert "no random control was trained" in " ".join(render_terminal(without_control()).split())
    summary = first_round()
    summary.update(evaluation=None, clusters=None, timings=None)
    text = render_terminal(summary)
    assert "no held-out examples were evaluated" in text and "this strategy used none" in text


def test_the_place_of_the_page_is_named():
    assert render_terminal(first_round()).endswith("Report: rounds/001/report.html in the run directory\n")
    path = "a/long path/" * 20 + "report.html"
    assert render_terminal({**first_round(), "report_path": path}).endswith(f"Report: {path}\n")


@pytest.mark.parametrize("make", [first_round, hostile])
def test_without_colour_no_control_character_is_written(make: Callable[[], dict[str, Any]]):
    text = render_terminal(make())
    assert not [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]


def test_colour_writes_only_its_own_escapes():
    text = render_terminal(hostile(), color=True)
    assert "\x1b[" in text and "\x1b[31mred" not in text and "\x9b" not in text and "\x07" not in text


def test_console_markup_in_a_name_is_text():
    summary = first_round()
    summary["clusters"][9]["name"] = "[bold red]x[/] :smile:"
    assert "9 [bold red]x[/] :smile:" in render_terminal(summary)
