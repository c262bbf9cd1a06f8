"""Every section of the page shows something of a real round: documents made by hand hold whatever a section asks for, a round may not.

A new section needs an entry in `SHOWS`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_page import Page, read_page, resolve
from report_summaries import later_round

from al.report.page.base import sections_of
from al.report.page.round import render_html
from al.report.text.round import render_markdown, render_terminal

DIFFERENCE = "/evaluation/differences/selected - base/macro_nll/value"
SHOWS = {
    "verdict": [DIFFERENCE, "/budget/tokens", "/at_random/spent/examples", "/cost/money/total", "/clusters/"],
    "pool": ["/pool/examples", "/holdout/test", "/pool/sources/source-0", "/timings/total"],
    "clusters": ["/clusters/0/size", "/clusters/0/quota", "/scoring/measured"],
    "evaluation": [
        DIFFERENCE,
        "/evaluation/by_group/0/models/selected/nll",
        "/dev/examples",
        "/generations/prompts",
        "/answers/test/models/selected/macro_accuracy",
    ],
    "sources": ["/evaluation/by_source/0/selected_nll", "/evaluation/by_source/0/examples"],
    "rounds": [
        "/learning_curve/0/tokens",
        "/evaluation/changed/base/learned",
        "/drift/rounds/1/selected/clusters_from_pool",
    ],
    "scores": ["/scoring/length_correlation/nll", "/scoring/agreement/0/spearman"],
    "map": ["/map/sampled_from"],
    "training": ["/training/selected/best_dev_loss", "/training/control/steps", "/plan/train/measured"],
    "examples": ["/examples/picked/0/tokens", "/examples/left_out/0/tokens"],
    "reasons": ["/selection/outcomes/selected", "/pool/quarantined/invalid_json"],
    "review": "This round had no review",
    "reproduce": ["/seed"],
}
"""What each section must show with a value: beginnings of JSON pointers into the summary, or words."""


@pytest.fixture(scope="module")
def html(two_rounds: tuple[Path, dict, dict]) -> str:
    """The page of the second round, rendered again from its documents."""
    run, _, summary = two_rounds
    return render_html(summary, json.loads((run / "rounds/002/details.json").read_text()))


def section(html: str, name: str) -> Page:
    """One section of the page."""
    return read_page(re.search(f'<section id="{name}".*?</section>', html, re.S)[0])


def test_every_section_of_the_page_is_tested_here():
    assert list(SHOWS) == [found.id for found in sections_of("round")]


@pytest.mark.parametrize("name", SHOWS)
def test_a_section_shows_what_the_round_measured(html: str, name: str):
    page, expected = section(html, name), SHOWS[name]
    if isinstance(expected, str):
        assert expected in page.text
        return
    values = {number.path: number.text for number in page.numbers if number.value is not None}
    for start in expected:
        found = [text for path, text in values.items() if path and path.startswith(start)]
        assert found and "\u2013" not in found, f"{name} shows no {start}"


def test_every_number_is_the_summarys(html: str, two_rounds: tuple[Path, dict, dict]):
    numbers = [number for number in read_page(html).numbers if number.path is not None]
    assert len(numbers) > 400
    assert [n for n in numbers if n.value != resolve(two_rounds[2], n.path)] == []


def test_the_charts_of_a_round_are_drawn(html: str):
    drawn = set(read_page(html).charts())
    assert drawn >= {"clusters", "rounds", "rounds-tokens", "drift", "curve-loss", "curve-lr", "lengths", "scores-nll"}


def test_terminal_and_markdown_show_the_same_numbers(two_rounds: tuple[Path, dict, dict]):
    summary = two_rounds[2]
    loss = f"{summary['evaluation']['models']['selected']['macro_nll']:.3f}"
    for text in (render_terminal(summary), render_markdown(summary)):
        assert loss in text and f"{summary['budget']['tokens']:,} tokens" in text


def keys(node: Any, path: str = "") -> set[str]:
    """Paths of the keys of a document, those of lists' entries without positions; names of the pool's own are left out."""
    if isinstance(node, list):
        return {key for entry in node for key in keys(entry, f"{path}/*")}
    if not isinstance(node, dict):
        return set()
    own = {
        "sources",
        "quarantined",
        "outcomes",
        "timings",
        "artifacts",
        "hashes",
        "versions",
        "config_diff",
        "length_correlation",
    }
    named = {key for key in node if path.rsplit("/", 1)[-1] not in own}
    return {f"{path}/{key}" for key in named} | {deep for key in named for deep in keys(node[key], f"{path}/{key}")}


def test_summaries_made_by_hand_hold_no_key_that_a_real_one_lacks(two_rounds: tuple[Path, dict, dict]):
    made = later_round()
    for part in ("review", "config_diff", "histograms"):  # a round has a review or none, and other scores
        made.pop(part)
    made["learning_curve"].pop()  # of a second round, which has a round before; the real run has one round before this
    assert keys(made) - keys(two_rounds[2]) == set()
