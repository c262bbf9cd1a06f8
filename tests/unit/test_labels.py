"""The words of reports for codes: each comes from the registry that defines it, so no new entry can be forgotten."""

from __future__ import annotations

import pytest

from al import labels
from al.report.page.drawing import build_charts
from selection.scores import SCORES


@pytest.mark.parametrize("name", SCORES)
def test_every_score_has_a_chart_of_its_distribution(name):
    counts = {"edges": [0.0, 1.0, 2.0], "picked": [1, 2], "measured": [3, 4], "left": [3, 4]}
    charts = build_charts({"histograms": {name: counts}})
    drawn = charts["lengths" if name == "length" else f"scores-{name}"]
    assert {trace["name"].partition(":")[0] for trace in drawn["data"]} == {
        "picked",
        "left" if name == "length" else "measured",
    }
    assert SCORES[name].label in drawn["layout"]["xaxis"]["title"]["text"]


def test_the_axis_of_a_score_without_a_label_is_its_name_and_what_it_is():
    assert all(
        labels.SCORES[name] == (score.label or f"{name}: {score.about}")
        for name, score in SCORES.items()
        if name != "length"
    )
