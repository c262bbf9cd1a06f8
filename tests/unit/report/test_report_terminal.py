"""The terminal summary fits its width, shows the summary's numbers and cannot be driven by a pool's text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from report_attacks import hostile
from report_summaries import empty_lists, first_round, later_round, second_round, tie, time_budget, without_control

from al import labels
from al.report.reading.values import write
from al.report.reading.verdict import verdict
from al.report.text.round import render_terminal


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in line)


@pytest.mark.parametrize("make", [first_round, second_round, later_round, without_control, tie, time_budget, hostile])
@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_wider_than_asked(make: Callable[[], dict[str, Any]], width: int):
    assert max(columns(line) for line in render_terminal(make(), width).split("\n")) <= width


def rows_of(text: str, title: str) -> dict[str, list[str]]:
    """Rows of the evaluation table of a split, "Test" or "Dev": label to cells; intervals are named after their row."""
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{title}  ")) + 3
    rows, above = {}, ""
    for line in lines[start : lines.index("", start)]:
        label, *cells = [cell for cell in re.split(r"  +", line.strip()) if cell]
        above = above if label == "95% interval" else label
        rows[f"{above}, interval" if label == "95% interval" else label] = cells
    return rows


@pytest.mark.parametrize("make", [first_round, second_round, later_round, without_control, tie])
@pytest.mark.parametrize(("title", "part"), [("Test", "evaluation"), ("Dev", "dev")])
@pytest.mark.parametrize("width", [80, 120])
def test_models_differences_and_intervals_are_the_summarys(
    make: Callable[[], dict[str, Any]], title: str, part: str, width: int
):
    summary = make()
    rows = rows_of(render_terminal(summary, width), title)
    kinds = [("macro_nll", "nll", "nll"), ("micro_nll", "nll", "nll")]
    kinds += [("macro_em", "percent", "points"), ("micro_em", "percent", "points")]
    for name, metrics in summary[part]["models"].items():
        assert rows[labels.MODELS[name]] == [write(metrics[key], style) for key, style, _ in kinds]
    for key, entries in summary[part]["differences"].items():
        row = f"minus {labels.MODELS[key.removeprefix('selected - ')].lower()}"
        values = [cell.split(" ")[0] for cell in rows[row]]
        assert values == [write(entries[k]["value"], style, signed=True) for k, _, style in kinds]
        assert rows[f"{row}, interval"] == [
            "…".join(write(entries[k][bound], style, signed=True) for bound in ("low", "high")) for k, _, style in kinds
        ]


def test_outcomes_stand_beside_the_differences_and_are_explained():
    rows = rows_of(render_terminal(later_round()), "Test")
    assert rows["minus base"] == ["+0.210 worse", "+0.212 worse", "\u22122.0 worse", "\u22121.9 worse"]
    assert rows["minus previous round"][0] == "+0.170 n.s."
    assert "n.s.: no significant difference" in " ".join(render_terminal(later_round()).split())


@pytest.mark.parametrize("width", [40, 60, 100])
def test_the_verdict_is_whole_at_any_width(width: int):
    assert " ".join(verdict(later_round()).split()) in " ".join(render_terminal(later_round(), width).split())


def test_the_funnel_the_budget_and_the_quarantine_are_counted():
    text = " ".join(render_terminal(first_round()).split())
    assert "1,052 examples in the pool → 740 selectable → 181 measured by the model → 100 selected" in text
    assert "asked 100 (100 examples); selected 100 examples, 12,345 tokens, 2,346 target tokens" in text
    assert "3 invalid json, 2 bad utf8, 1 no messages" in text


def test_a_budget_of_time_is_shown_with_the_tokens_it_became():
    text = render_terminal(time_budget())
    assert "asked 45s (13,321 tokens); selected 100 examples" in " ".join(text.split())
    assert "Largest quotas, in tokens (8 of 10)" in text


def test_the_clusters_with_the_largest_quotas_come_first():
    lines = render_terminal(first_round()).split("\n")
    start = next(i for i, line in enumerate(lines) if "Largest quotas, in examples (8 of 10), and why" in line)
    quotas = [match[1] for line in lines[start:] if (match := re.match(r" *(\d+)  +\d+  +[\d,]+  +\d+  ", line))]
    assert quotas == ["28", "12", "11", "10", "9", "8", "7", "6"]
    assert any(line.strip() == "not measured: given its share by size" for line in lines[start:])


def test_what_the_groups_are_and_why_one_has_more_than_its_quota_is_said():
    text = " ".join(render_terminal(first_round()).split())
    assert "Groups: 10 clusters of embeddings. 2 of the 100 picks are random ones of the whole pool" in text
    summary = first_round()
    summary["selection"]["explored"] = 0
    assert "random ones of the whole pool" not in " ".join(render_terminal(summary).split())
    del summary["selection"]["groups"]  # a round of an earlier version
    assert "Groups:" not in render_terminal(summary)


def test_every_outcome_that_occurred_is_counted():
    summary = first_round()
    counts = [count for count in summary["selection"]["outcomes"].values() if count]
    lines = render_terminal(summary).split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("Examples  Outcome"))
    assert sorted(int(line.split()[0]) for line in lines[start + 2 : start + 2 + len(counts)]) == sorted(counts)


def test_outcomes_that_do_not_add_up_are_exposed():
    summary = first_round()
    summary["selection"]["outcomes"]["quota_full"] -= 7
    assert any(line.split() == ["+7", "unaccounted", "for"] for line in render_terminal(summary).split("\n"))


def test_a_missing_control_and_holdout_are_said():
    assert "no random control was trained" in " ".join(render_terminal(without_control()).split())
    summary = first_round()
    summary.update(evaluation=None, clusters=None, timings=None)
    text = render_terminal(summary)
    assert "no held-out examples were evaluated" in text and "this strategy used none" in text
    assert "Groups: none got a quota." in render_terminal(empty_lists())


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
