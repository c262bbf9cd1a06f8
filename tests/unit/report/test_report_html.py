"""The page is closed to the outside, complete for whatever a round lacks, and usable from a keyboard."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from report_attacks import HOSTILE, hostile
from report_page import Page, read_page
from report_summaries import empty_lists, first_round, later_round, second_round, tie, time_budget, without_control

from al.report.page.base import TEMPLATES, json_script, sections_of
from al.report.page.page_data import unpack_text
from al.report.page.round import SCRIPTS, render_html
from al.terminal import displayable

SUMMARIES = [first_round, second_round, later_round, without_control, time_budget, tie, empty_lists, hostile]


@pytest.fixture(scope="module")
def attacked() -> Page:
    return read_page(render_html(hostile()))


def policy_of(page: Page) -> dict[str, list[str]]:
    (meta,) = [m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    return {d.split()[0]: d.split()[1:] for d in meta.attributes["content"].split(";") if d.strip()}


def executable_scripts(page: Page) -> list[str]:
    return [s.text for s in page.all("script") if "type" not in s.attributes]


@pytest.mark.parametrize("make", SUMMARIES)
def test_only_our_scripts_are_there_and_the_policy_names_exactly_them(make: Callable[[], dict[str, Any]]):
    page = read_page(render_html(make()))
    scripts, data = executable_scripts(page), page.data()
    assert scripts == [(TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS]
    assert sorted(data) == ["chart-data", "details-data", "plotly-data"]
    runs = [*scripts, unpack_text(data["plotly-data"])]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in runs}
    policy = policy_of(page)
    assert set(policy["script-src"]) == hashes
    assert policy["default-src"] == policy["connect-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]


def test_the_policy_comes_before_anything_that_could_load_or_run():
    tags = [e.tag for e in read_page(render_html(first_round())).elements]
    assert tags.index("style") > 4 and tags[:4] == ["html", "head", "meta", "meta"]


def test_what_is_packed_has_no_character_that_means_anything_in_html(attacked: Page):
    data = attacked.data()
    assert all(re.fullmatch(r"[A-Za-z0-9+/=]+", data[name]) for name in ("plotly-data", "details-data"))


def test_trap_29_hostile_text_makes_no_element_and_no_handler(attacked: Page):  # trap 29
    tame = {e.tag for e in read_page(render_html(later_round())).elements}
    assert {e.tag for e in attacked.elements} <= tame
    assert not attacked.comments
    for element in attacked.elements:
        assert not [name for name in element.attributes if name.startswith("on")], element
        for name in ("href", "src", "action", "style", "srcdoc"):
            value = element.attributes.get(name)
            assert value is None or (name == "href" and re.fullmatch(r"#[a-z]+", value)), element


def test_hostile_text_is_shown_as_it_is_written(attacked: Page):
    for text in displayable(HOSTILE):
        assert text in attacked.text, text


def test_chart_data_cannot_leave_its_element():
    html = render_html(hostile())
    (data,) = re.findall(r'<script type="application/json" id="chart-data">(.*?)</script>', html, re.S)
    assert not set(data) & set("<>&\u2028\u2029\n")


def test_json_script_round_trips_every_escape():
    import json

    value = {"</script>": "<!-- & \u2028 \u2029 {{ }} '\" -->"}
    assert json.loads(str(json_script(value))) == value


def test_json_script_refuses_what_json_cannot_say():
    with pytest.raises(ValueError):
        json_script(float("nan"))


@pytest.mark.parametrize("make", SUMMARIES)
def test_every_section_has_a_heading_and_a_link(make: Callable[[], dict[str, Any]]):
    page = read_page(render_html(make()))
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    links = [a.attributes["href"] for a in page.all("a")]
    for section in (section.id for section in sections_of("round")):
        assert section in ids and f"{section}-title" in ids and f"#{section}" in links


def test_what_a_round_lacks_is_said():
    page = read_page(render_html(without_control()))
    assert "There is no random control in this round" in page.text
    assert "This is the first round, so there is no previous one" in page.text
    assert "No random control was trained." in page.text


def test_a_summary_without_evaluation_training_clusters_map_or_examples_is_a_page():
    summary = first_round()
    for key in ("evaluation", "training", "clusters", "map", "histograms", "examples", "dev", "holdout"):
        summary[key] = None
    summary["pool"].update(quarantined={}, sources={})
    text = read_page(render_html(summary)).text
    for sentence in (
        "No held-out examples were evaluated",
        "Nothing was trained in this round.",
        "This strategy used no groups.",
        "No map was computed.",
        "No picked examples were recorded.",
        "No row of the input was quarantined.",
    ):
        assert sentence in text


def test_the_first_section_answers_what_was_spent_what_it_gave_and_where_it_went():
    html = render_html(later_round())
    first = html[html.index('<section id="verdict"') : html.index("</section>") + len("</section>")]
    page = read_page(first)
    paths = {number.path for number in page.numbers}
    assert {f"/budget/{key}" for key in ("amount", "examples", "tokens", "target_tokens")} <= paths
    for against in ("base", "previous", "control"):
        for metric in ("macro_nll", "macro_nll_no_end", "macro_em"):
            for bound in ("value", "low", "high"):
                assert f"/evaluation/differences/selected - {against}/{metric}/{bound}" in paths
    assert "/clusters/9/quota" in paths and page.text.count("worse") > 4


@pytest.mark.parametrize("make", [tie, time_budget, empty_lists])
def test_what_is_empty_or_equal_is_said(make: Callable[[], dict[str, Any]]):
    text = read_page(render_html(make())).text
    expected = {"tie": "no significant difference", "time_budget": "13,321 tokens", "empty_lists": "No picked examples"}
    assert expected[make.__name__] in text


def test_the_round_that_changed_the_config_shows_the_difference():
    page = read_page(render_html(later_round()))
    assert "Config against the round before" in page.text and "train.learning_rate" in page.text
    assert "Config against the round before" not in read_page(render_html(first_round())).text


def test_long_text_is_folded_and_whole():
    summary = first_round()
    summary["examples"]["picked"][0]["response"] = "long text " * 400
    page = read_page(render_html(summary))
    assert "long text " * 400 in page.text and "(4,000 characters)" in page.text


def test_tables_scroll_and_sort_from_the_keyboard():
    page = read_page(render_html(first_round()))
    scrolled = [e for e in page.elements if "scroll" in (e.attributes.get("class") or "").split()]
    assert scrolled and all(e.attributes["tabindex"] == "0" and e.attributes["aria-label"] for e in scrolled)
    sortable = [e for e in page.all("th") if "aria-sort" in e.attributes]
    unnamed = [b for b in page.all("button") if "class" not in b.attributes]
    assert len(unnamed) == len(sortable) > 10


def test_rendering_leaves_the_summary_alone():
    summary = hostile()
    render_html(summary)
    assert summary == hostile()


def test_the_page_is_mostly_plotly_which_is_packed():
    assert len(render_html(first_round()).encode()) < 3_000_000
