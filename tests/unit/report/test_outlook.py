"""What another round would bring: by the step between the last two rounds, and nothing where there is no such step."""

from __future__ import annotations

import math

import pytest
from report_summaries import first_round, second_round

from al.report.page.round import render_html
from al.report.reading.outlook import outlook
from al.report.text.round import render_terminal


def later(value: float | None = -0.2, low: float = -0.3, high: float = -0.1) -> dict:
    """A second round of 100 after a first of 100."""
    summary = second_round()
    entry = {"value": value, "low": low, "high": high, "p": 0.001}
    summary["evaluation"]["differences"]["selected - previous"]["macro_nll"] = entry
    summary["learning_curve"] = [{"round": 1, "examples": 100, "tokens": 1, "models": {}}]
    summary["budget"]["examples"] = 100
    summary["work"] = {"tokens": {}, "seconds": {"total": 600.0}}
    return summary


def test_from_200_to_300_examples_is_as_much_as_the_logarithm_says():
    part = math.log(300 / 200) / math.log(200 / 100)
    found = outlook(later())
    assert f"NLL by −{0.2 * part:.3f} (−{0.3 * part:.3f} to −{0.1 * part:.3f})" in found
    assert found.startswith("Another round of 100 examples") and "about 10 min 0 s of this device" in found


def test_a_rise_is_said_with_its_sign():
    assert "by +0.0" in outlook(later(0.1, 0.05, 0.15))


@pytest.mark.parametrize("summary", [first_round(), later(None), {}])
def test_without_a_step_there_is_no_outlook(summary):
    assert outlook(summary) == ""


def test_the_page_and_the_terminal_say_it():
    assert "Another round of 100 examples" in " ".join(render_terminal(later()).split())
    assert "Another round of 100 examples" in render_html(later())
    assert "Another round" not in render_terminal(first_round())
