"""Dots with intervals stand where their values are, on an axis that shows all of them, and no label is markup."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_attacks import HOSTILE
from report_page import Element, read_page

from al.report.page.dots import SHAPES, TICKS, DotRow, axis_range, dots, ticks

ROWS = [
    DotRow("first", 2.0, "base", "circle", (1.5, 2.5), [("seed 0", 1.8), ("seed 1", 2.2)]),
    DotRow("second", -1.0, "selected", "star"),
]


def drawn(rows: list[DotRow], line: float | None = None) -> list[Element]:
    return read_page(dots(rows, "nats", "what it shows", line=line)).elements


def percents(elements: list[Element], *names: str) -> list[float]:
    return [float(e.attributes[name].rstrip("%")) for e in elements for name in names]


def test_values_ends_and_single_values_stand_at_their_share_of_the_axis():
    elements = drawn(ROWS, line=0.0)
    low, high = axis_range(ROWS, 0.0)

    def share(value: float) -> float:
        return pytest.approx(100 * (value - low) / (high - low), abs=1e-3)

    assert percents([e for e in elements if e.tag == "svg" and "x" in e.attributes], "x") == [share(2.0), share(-1.0)]
    interval = next(e for e in elements if e.attributes.get("class") == "interval")
    assert percents([interval], "x1", "x2") == [share(1.5), share(2.5)]
    assert percents([e for e in elements if e.tag == "circle"], "cx") == [share(1.8), share(2.2)]
    assert percents([e for e in elements if e.attributes.get("class") == "mark"], "x1") == [share(0.0)]


def test_a_row_without_interval_has_none():
    assert not [e for e in drawn(ROWS[1:]) if e.attributes.get("class") == "interval"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.none() | st.floats(-1e6, 1e6))
def test_the_axis_shows_everything(values: list[float], line: float | None):
    low, high = axis_range([DotRow("row", value, "base", "circle") for value in values], line)
    assert all(low < value < high for value in [*values, *([] if line is None else [line])])


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_are_few_inside_and_written_as_they_stand(low: float, span: float):
    found = ticks(low, low + span)
    assert 2 <= len(found) <= TICKS + 1
    for value, text in found:
        assert low - 1e-6 * span <= value <= low + span * (1 + 1e-6)
        assert float(text.replace("\u2212", "-")) == pytest.approx(value, abs=1e-4 * span)


def test_a_pointer_and_a_screen_reader_are_told_the_numbers():
    text = str(dots(ROWS, "nats", "what it shows"))
    assert 'role="img" aria-label="what it shows"' in text
    assert "first: 2.000 (1.500 to 2.500)" in text and "second: \u22121.000" in text and "seed 1: 2.200" in text


def test_a_label_that_the_page_cuts_is_told_in_whole():
    label = next(e for e in drawn([DotRow("案" * 40, 1.0, "base", "circle")]) if e.attributes.get("class") == "label")
    assert label.attributes["title"].startswith("案" * 40)


@pytest.mark.parametrize("text", HOSTILE)
def test_labels_are_text(text: str):
    def tags(label: str) -> list[str]:
        return [e.tag for e in drawn([DotRow(label, 1.0, "base", "circle", None, [(label, 1.0)])])]

    assert tags(text) == tags("tame")


def test_every_shape_is_a_path():
    assert all(re.fullmatch(r"M[MLaHzhv\d ,.\-]+", path) for path in SHAPES.values())
