"""What the page shows is what the summary holds: every number, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from report_page import Page, read_page, resolve, shown
from report_summaries import (
    empty_lists,
    first_round,
    later_round,
    second_round,
    tie,
    time_budget,
    token_budget,
    without_control,
)

from al.report.page.round import render_html
from al.report.reading.values import lookup, pointer, write
from al.terminal import displayable

SUMMARIES = [first_round, second_round, later_round, without_control, token_budget, time_budget, tie, empty_lists]
# Drawn as charts (test_report_charts.py) or about the file itself.
NOT_IN_TABLES = (
    "/schema",
    "/map/",
    "/histograms/",
    "/training/selected/curve",
    "/training/control/curve",
    "/config_diff/",
)
NOT_IN_TABLES += ("/learning_curve/1/models/previous", "/holdout/pool")


@cache
def page_of(make: Callable[[], dict[str, Any]]) -> Page:
    return read_page(render_html(make()))


def leaves(node: Any, *path: str | int) -> Iterator[tuple[str, float | None]]:
    """(JSON pointer, number or None) of every number and null."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is not None:
        for key, value in items:
            yield from leaves(value, *path, key)
    elif node is None or (isinstance(node, (int, float)) and not isinstance(node, bool)):
        yield pointer(*path), node


@pytest.mark.parametrize("make", SUMMARIES)
def test_every_shown_number_is_the_summarys(make: Callable[[], dict[str, Any]]):
    summary, numbers = make(), page_of(make).numbers
    assert len(numbers) > 300
    for number in numbers:
        if number.path is not None:
            assert number.value == resolve(summary, number.path), number


@pytest.mark.parametrize("make", SUMMARIES)
def test_every_number_of_the_summary_is_shown(make: Callable[[], dict[str, Any]]):
    paths = {number.path for number in page_of(make).numbers}
    missing = [
        path
        for path, value in leaves(make())
        if value is not None and path not in paths and not path.startswith(NOT_IN_TABLES)
    ]
    assert missing == [path for path, value in leaves(make()) if path.endswith("/stands_for") and value == 0]


@pytest.mark.parametrize("make", SUMMARIES)
def test_the_text_of_a_number_is_its_value_rounded(make: Callable[[], dict[str, Any]]):
    for number in page_of(make).numbers:
        if number.value is None:
            assert number.text == "–", number
        elif number.text == "< 0.001":
            assert number.value < 0.001
        else:
            value, tolerance = shown(number.text)
            shares = ("em", "accuracy", "rouge_l")
            is_share = any(name in str(number.path or number.derived) for name in shares) or "%" in number.text
            scales = (1, 100) if is_share else (1,)
            assert any(abs(value - number.value * scale) <= tolerance * 1.001 for scale in scales), number


@pytest.mark.parametrize("make", SUMMARIES)
def test_derived_numbers_follow_from_the_summary(make: Callable[[], dict[str, Any]]):
    rows = make()["evaluation"]["by_source"]
    shown_changes = [n.value for n in page_of(make).numbers if n.derived == "selected_nll - base_nll"]
    known = [row for row in rows if row["selected_nll"] is not None]
    assert shown_changes == sorted((row["selected_nll"] - row["base_nll"] for row in known), reverse=True)


def test_the_rounds_own_worst_regression_comes_first():
    summary = first_round()
    summary["evaluation"]["by_source"][6]["selected_nll"] = summary["evaluation"]["by_source"][6]["base_nll"] + 9
    numbers = read_page(render_html(summary)).numbers
    first = next(n for n in numbers if n.path and n.path.startswith("/evaluation/by_source/"))
    assert first.path == "/evaluation/by_source/6/examples"


def test_outcomes_that_do_not_add_up_are_exposed():
    summary = first_round()
    assert "has exactly one outcome" in page_of(first_round).text
    summary["selection"]["outcomes"]["quota_full"] -= 7
    page = read_page(render_html(summary))
    (gap,) = [n for n in page.numbers if n.derived and n.derived.startswith("pool.examples")]
    assert gap.value == 7 and "unaccounted for" in page.text and "has exactly one outcome" not in page.text


def test_nan_and_infinity_are_dashes():
    summary = first_round()
    summary["clusters"][0].update(loss=float("nan"), tokens=float("inf"))
    texts = {n.path: n.text for n in read_page(render_html(summary)).numbers}
    assert texts["/clusters/0/loss"] == texts["/clusters/0/tokens"] == "–"


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (1234567, "count", "1,234,567"),
        (-0.5083, "nll", "\u22120.508"),
        (0.00004, "nll", "4e-05"),
        (0.0, "nll", "0.000"),
        (0.1998, "percent", "20.0%"),
        (0.0795, "points", "8.0"),
        (59.96, "seconds", "60.0 s"),
        (201.6, "seconds", "3 min 22 s"),
        (7325, "seconds", "2 h 2 min"),
        (0.0, "p", "< 0.001"),
        (0.66, "p", "0.660"),
        (None, "nll", "–"),
    ],
)
def test_numbers_are_written_for_a_reader(value: float | None, style: str, text: str):
    assert write(value, style) == text


def test_a_sign_is_written_where_it_is_asked_for():
    assert (write(0.5, "nll", signed=True), write(0.0, "nll", signed=True)) == ("+0.500", "0.000")


def test_lookup_of_an_absent_path_is_none():
    assert lookup({"a": [1]}, "a", 0) == 1
    assert (
        lookup({"a": [1]}, "a", 1) is None
        and lookup({"a": None}, "a", "b") is None
        and lookup({"a": "xy"}, "a", 0) is None
    )


def test_pointers_escape_and_resolve():
    document = {"a/b": {"~c": [5]}}
    assert pointer("a/b", "~c", 0) == "/a~1b/~0c/0" and resolve(document, pointer("a/b", "~c", 0)) == 5


def test_clean_makes_controls_visible_and_line_ends_plain():
    assert displayable({"k": ("a\x1b[31m\r\nb\u2028c\x00", "\ud800", "\u202ex")}) == {
        "k": ["a\u241b[31m\nb\nc\u2400", "?", "\ufffdx"]
    }
