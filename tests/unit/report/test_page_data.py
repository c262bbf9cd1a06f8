"""What the page's scripts look up is whole, takes its numbers from the summary, and fits the page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from report_attacks import HOSTILE, hostile
from report_details import details, hostile_details
from report_page import read_page, resolve
from report_summaries import first_round, later_round

from al.lineage.outcomes import OUTCOMES
from al.report.page.page_data import GROUPS, color_choices, pack_text, page_data, unpack_text
from al.report.page.round import render_html
from al.terminal import displayable


def looked_up(summary: dict[str, Any], document: dict[str, Any] | None) -> dict[str, Any]:
    """The data in the page itself."""
    return json.loads(unpack_text(read_page(render_html(summary, document)).data()["details-data"]))


def test_what_is_packed_unpacks_and_packs_the_same():
    text = json.dumps({"</script>": "Καλημέρα \u2028 🙂"}, ensure_ascii=False)
    assert unpack_text(pack_text(text)) == text and pack_text(text) == pack_text(text)


def test_the_page_holds_every_point_card_and_pick():
    document = details()
    data = looked_up(later_round(), document)
    assert data["picks"] == document["picks"] and len(data["cards"]) == 10
    assert {name: data["map"][name] for name in document["map"]} == document["map"]


def test_the_numbers_on_a_card_are_the_summarys():
    summary = later_round()
    summary["clusters"][3].update(loss_before=2.5, loss_before_stderr=0.2, gain=0.125, gain_stderr=0.3, change="split")
    card = page_data(summary, details())["cards"][3]
    numbers = {fact["name"]: fact["numbers"] for fact in card["facts"]}
    assert all(value == resolve(summary, path) for shown in numbers.values() for value, _, path in shown)
    assert numbers["Gain ± stderr"] == [
        (0.125, "+0.125", "/clusters/3/gain"),
        (0.3, "0.300", "/clusters/3/gain_stderr"),
    ]
    assert card["change"] == "split" and card["reason"] == summary["clusters"][3]["reason"] and card["index"] == 3


def test_without_details_the_page_says_what_it_does_not_hold():
    summary = first_round()
    data = looked_up(summary, None)
    assert data["map"] is None and data["picks"] is None and data["cards"] == []
    text = read_page(render_html(summary)).text
    assert "The picked examples are not in this page" in text and "No map was computed." in text


def test_every_outcome_has_a_colour_and_words():
    document = details()
    document["map"]["outcomes"] = [*OUTCOMES, "never_heard_of"]
    points = page_data(later_round(), document)["map"]
    groups = [list(GROUPS)[i] for i in points["group_of"]]
    assert len(groups) == len(points["outcome_words"]) == len(OUTCOMES) + 1
    named = dict(zip(points["outcomes"], groups, strict=True))
    assert (named["selected"], named["trained"], named["tail_cut"]) == ("picked", "trained", "noise")
    assert (named["quota_full"], named["held_out_test"], named["never_heard_of"]) == ("left", "aside", "aside")


def test_the_map_is_coloured_by_what_there_is():
    document = details()["map"]
    assert [key for key, _ in color_choices(document)] == ["outcome", "cluster", "source", "score", "round"]
    document["score_range"]["measured"], document["sources"] = 0, []
    assert [key for key, _ in color_choices(document)] == ["outcome", "cluster", "round"]
    assert color_choices(None) == []


def test_trap_29_hostile_details_are_data_and_nothing_else():  # trap 29
    page, tame = read_page(render_html(hostile(), hostile_details())), read_page(render_html(later_round(), details()))
    assert {e.tag for e in page.elements} <= {e.tag for e in tame.elements}
    assert not [name for e in page.elements for name in e.attributes if name.startswith("on")]
    data = json.loads(unpack_text(page.data()["details-data"]))
    assert set(data["picks"]["asked"]) == set(displayable(HOSTILE)), "whole, but for control characters"


@pytest.mark.parametrize("document", [None, {}, {"map": None, "cards": [], "picks": None}])
def test_details_may_be_missing_in_part(document):
    assert "Map of the pool" in read_page(render_html(later_round(), document)).text


def test_a_page_of_100_000_examples_stays_under_five_megabytes():
    summary = later_round()
    summary["clusters"] = [{**summary["clusters"][i % 10], "cluster": i} for i in range(300)]
    assert len(render_html(summary, details(100_000, 300, 5_000)).encode()) < 6_000_000
