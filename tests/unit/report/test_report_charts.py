"""Charts draw the summary's numbers, in roles of colour, with SVG traces only."""

from __future__ import annotations

import json
from typing import Any

import pytest
from report_attacks import hostile
from report_page import read_page
from report_summaries import first_round, later_round, without_control

from al.report.page.base import TEMPLATES
from al.report.page.charts_verdict import difference_dots, model_dots, verdict_charts
from al.report.page.drawing import CHARTS, build_charts
from al.report.page.round import render_html
from al.terminal import displayable


def strings(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for value in node.values() for text in strings(value)]
    if isinstance(node, list):
        return [text for value in node for text in strings(value)]
    return [node] if isinstance(node, str) else []


def test_the_page_embeds_the_charts_as_built():
    summary = later_round()
    assert read_page(render_html(summary)).charts() == json.loads(json.dumps(build_charts(summary)))


def test_every_chart_that_can_be_drawn_has_a_place_on_the_page():
    summary = later_round()
    places = [
        e.attributes["data-chart"] for e in read_page(render_html(summary)).elements if "data-chart" in e.attributes
    ]
    assert sorted(places) == sorted(build_charts(summary)) and set(places) <= set(CHARTS)


def test_the_models_stand_at_their_nll():
    summary = later_round()
    models = summary["evaluation"]["models"]
    assert {row.label: row.value for row in model_dots(summary)} == {
        "Base": models["base"]["macro_nll"],
        "Previous round": models["previous"]["macro_nll"],
        "Selected": models["selected"]["macro_nll"],
        "Random control": models["control"]["macro_nll"],
    }


@pytest.mark.parametrize(("metric", "factor"), [("macro_nll", 1), ("macro_em", 100)])
def test_intervals_end_where_the_summary_says(metric: str, factor: int):
    summary = later_round()
    for row, against in zip(difference_dots(summary, metric, factor), ("control", "base", "previous"), strict=True):
        entry = summary["evaluation"]["differences"][f"selected - {against}"][metric]
        assert (row.value, *row.ends) == pytest.approx([entry[part] * factor for part in ("value", "low", "high")])


def test_the_verdicts_charts_stand_in_the_page_without_scripts():
    page = read_page(render_html(later_round()))
    assert len([e for e in page.all("svg") if e.attributes.get("class") == "dots"]) == len(
        verdict_charts(later_round())
    )
    assert set(verdict_charts(later_round())) == {"differences-nll", "models-nll", "differences-em"}


@pytest.mark.parametrize(("chart", "key", "other"), [("scores-nll", "nll", "measured"), ("lengths", "length", "left")])
def test_histograms_hold_the_counts(chart: str, key: str, other: str):
    summary = first_round()
    for trace in build_charts(summary)[chart]["data"]:
        name, _, total = trace["name"].partition(": ")
        assert name in (other, "picked")
        assert trace["x"] == summary["histograms"][key]["edges"]
        assert trace["y"][:-1] == summary["histograms"][key][name] and int(total) == sum(trace["y"][:-1])


def test_curves_hold_every_step_and_leave_a_gap_where_nothing_was_recorded():
    summary = first_round()
    for trace, model in zip(build_charts(summary)["curve-grad-norm"]["data"], ("selected", "control"), strict=True):
        assert trace["y"] == [point["grad_norm"] for point in summary["training"][model]["curve"]]
        assert None in trace["y"]


def test_without_control_no_control_is_drawn():
    charts = build_charts(without_control())
    assert {trace["name"] for trace in charts["curve-loss"]["data"]} == {
        "Selected",
        "Selected, dev",
        "Selected, dev, kept",
    }
    assert [row.label for row in difference_dots(without_control(), "macro_nll", 1)] == ["minus base"]


def test_rounds_are_drawn_from_the_learning_curve_to_this_round():
    summary = later_round()
    (base, selected, control) = build_charts(summary)["rounds"]["data"]
    assert selected["x"] == [1, 2, 3] and selected["y"] == [
        2.2011,
        2.3512,
        summary["evaluation"]["models"]["selected"]["macro_nll"],
    ]
    assert "rounds" not in build_charts(first_round())


def test_traces_are_svg_only():
    types = {trace["type"] for chart in build_charts(later_round()).values() for trace in chart["data"]}
    assert types == {"scatter"}


def test_every_colour_is_a_role_that_the_style_sheet_defines():
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    roles = {text for chart in build_charts(later_round()).values() for text in strings(chart) if text.startswith("@")}
    roles |= {f"@{row.role}" for row in model_dots(later_round())}
    assert roles and all(css.count(f"--{role[1:]}:") == 2 for role in roles), "each once for light and once for dark"


def test_no_label_can_be_read_as_markup():
    for chart in build_charts(displayable(hostile())).values():
        for text in strings(chart):
            if text.startswith("@") or "<extra>" in text:
                continue
            assert "<" not in text and ">" not in text, text
