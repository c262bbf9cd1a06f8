"""The Markdown of a report: the summary's numbers, and no text of a pool that a forge would read as markup, link or mention."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from report_attacks import hostile
from report_summaries import empty_lists, first_round, later_round, second_round, tie, without_control

from al import labels
from al.report.reading.values import write
from al.report.reading.verdict import verdict
from al.report.text.markdown import code_block, escape, markdown_table
from al.report.text.round import render_markdown

EVERY = [first_round, second_round, later_round, without_control, tie, hostile, empty_lists]


def rows_of(text: str, title: str) -> dict[str, list[str]]:
    """Cells of the table whose head begins with `title`, by their first one."""
    block = next(block for block in text.split("\n\n") if block.startswith(f"| {title}"))
    cells = [re.split(r"(?<!\\) ?\| ?", line.strip())[1:-1] for line in block.split("\n")]
    return {first: rest for first, *rest in cells}


@pytest.mark.parametrize("make", [first_round, second_round, later_round, without_control, tie])
@pytest.mark.parametrize(("title", "part"), [("Test", "evaluation"), ("Dev", "dev")])
def test_models_and_differences_are_the_summarys(make: Callable[[], dict[str, Any]], title: str, part: str):
    summary = make()
    rows = rows_of(render_markdown(summary), title)
    for name, metrics in summary[part]["models"].items():
        assert rows[labels.MODELS[name]][0] == write(metrics["macro_nll"], "nll")
        assert rows[labels.MODELS[name]][2] == write(metrics["macro_em"], "percent")
    for key, entries in summary[part]["differences"].items():
        entry = entries["macro_nll"]
        value, low, high = (write(entry[k], "nll", signed=True) for k in ("value", "low", "high"))
        against = labels.MODELS[key.removeprefix("selected - ")].lower()
        said = rows[f"minus {against} (95% interval)"][0]
        assert said.startswith(f"{value} ") and said.endswith(f"({low}…{high})")


def test_the_verdict_stands_in_it_and_the_command_at_its_end():
    summary = first_round()
    text = render_markdown(summary)
    assert verdict(summary) in text
    assert text.endswith(f"```\n{summary['command']}\n```\n")


def test_every_outcome_that_occurred_is_counted():
    summary = first_round()
    block = next(b for b in render_markdown(summary).split("\n\n") if b.startswith("| Examples | Outcome"))
    rows = [line.strip("| ").replace("\\", "").split(" | ") for line in block.split("\n")[2:]]
    counted = {labels.outcome(code): count for code, count in summary["selection"]["outcomes"].items() if count}
    assert {name: int(count.replace(",", "")) for count, name in rows} == counted


@pytest.mark.parametrize("make", EVERY)
def test_every_table_has_as_many_cells_in_each_row(make: Callable[[], dict[str, Any]]):
    for block in render_markdown(make()).split("\n\n"):
        if block.startswith("| "):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.split("\n")}) == 1


@pytest.mark.parametrize("make", EVERY)
def test_nothing_in_it_is_html_a_link_an_image_or_a_mention(make: Callable[[], dict[str, Any]]):
    prose = re.sub(r"(?ms)^(`{3,})\n.*?^\1$", "", render_markdown(make()))
    assert "<" not in prose
    assert not re.search(r"(?<!\\)[\[\]`]", prose)
    assert not re.search(r"@\w|://|www\.|#\d", prose)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("`code`", r"\`code\`"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("[x](javascript:alert(1))", r"\[x\](javascript:alert(1))"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("a\n\n# b", "a # b"),
        ("$x$ *b* ~~c~~ _d_", r"\$x\$ \*b\* \~\~c\~\~ \_d\_"),
    ],
)
def test_markup_is_shown_as_it_is_written(text: str, shown: str):
    assert escape(text) == shown


@pytest.mark.parametrize(
    "text", ["@everyone", "see #12", "user/repo#3", "https://evil.example/x", "www.evil.example", "GH-7"]
)
def test_what_a_forge_would_link_is_parted_and_reads_the_same(text: str):
    assert escape(text) != text
    assert escape(text).replace("\u2060", "") == text


def test_a_long_text_is_cut():
    assert len(escape("x" * 500, 80)) == 80


def test_a_block_of_code_is_not_ended_by_backticks_in_it():
    assert code_block("a\n```\nb") == "````\na\n```\nb\n````"


def test_columns_of_numbers_stand_right():
    assert markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | --: |\n| x | 1 |"


def test_a_summary_with_nothing_in_it_is_said_to_have_nothing():
    text = render_markdown({"run": "demo", "round": 1})
    assert "Test: no held-out examples were evaluated." in text and "Outcomes: none were recorded." in text
