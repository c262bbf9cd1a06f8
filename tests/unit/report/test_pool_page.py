"""The page of a pool shows the document's numbers, says what is missing, and runs no text of the pool."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from pool_documents import ATTACKS, attacked_document, files_document, pool_document
from report_page import Page, read_page, resolve, shown

from al.report.page.base import TEMPLATES, sections_of
from al.report.page.pool import render_pool
from al.terminal import displayable

Make = Callable[[], dict[str, Any]]
ALL: list[Make] = [pool_document, files_document, attacked_document]


@pytest.fixture(scope="module")
def attacked() -> Page:
    return read_page(render_pool(attacked_document()))


@pytest.mark.parametrize("make", ALL)
def test_only_our_script_is_there_and_the_policy_names_exactly_it(make: Make):
    page = read_page(render_pool(make()))
    (script,) = page.all("script")
    assert script.text == (TEMPLATES / "pool/pool.js").read_text(encoding="utf-8")
    (meta,) = [m for m in page.all("meta") if m.attributes.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    policy = meta.attributes["content"]
    assert f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none';")


@pytest.mark.parametrize("make", ALL)
def test_every_number_is_that_of_the_document(make: Make):
    document = displayable(make())
    numbers = [number for number in read_page(render_pool(document)).numbers if number.path]
    assert len(numbers) > 20
    for number in numbers:
        assert number.value == resolve(document, number.path), number
        value, half = shown(number.text)
        assert abs(value - number.value) <= half, number


def test_every_count_of_the_document_is_on_the_page():
    document = pool_document()
    paths = {number.path for number in read_page(render_pool(document)).numbers}
    expected = {f"/{key}" for key in ("version", "examples", "labelled", "unlabelled", "answered", "duplicates")}
    expected |= {f"/recognised/{i}/rows" for i in range(2)} | {f"/quarantine/{i}/rows" for i in range(2)}
    expected |= {f"/sources/{name}" for name in document["sources"]} | {"/adjusted/merged_turns"}
    expected |= {f"/languages/counts/{code}" for code in document["languages"]["counts"]}
    expected |= {f"/turns/user_turns/{name}" for name in document["turns"]["user_turns"]} | {
        "/turns/system",
        "/turns/tool",
    }
    expected |= {f"/lengths/bins/{i}/count" for i in range(3)} | {
        f"/lengths/percentiles/{p}" for p in ("50", "90", "99")
    }
    expected |= {f"/leftovers/{i}/rows" for i in range(2)} | {"/merged_after_conversion"}
    expected |= {"/lengths/longest", "/lengths/total", "/most_repeated/0/rows"}
    assert expected <= paths


@pytest.mark.parametrize("make", ALL)
def test_every_section_has_a_heading_and_a_link(make: Make):
    page = read_page(render_pool(make()))
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    links = [a.attributes["href"] for a in page.all("a")]
    for section in (section.id for section in sections_of("pool")):
        assert section in ids and f"{section}-title" in ids and f"#{section}" in links


def test_thirty_attacks_make_no_element_and_no_handler(attacked: Page):  # trap 29
    assert len(ATTACKS) >= 30
    tame = read_page(render_pool(pool_document()))
    assert {e.tag for e in attacked.elements} <= {e.tag for e in tame.elements} | {"details", "summary"}
    for element in attacked.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on") and name not in ("style", "srcdoc", "action")
            assert name not in ("href", "src") or value.startswith("#")
    assert attacked.comments == []


def test_attacks_are_shown_as_they_are_written(attacked: Page):
    for text in displayable(ATTACKS):
        assert text in attacked.text, text


def test_no_control_character_is_in_the_page():
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", render_pool(attacked_document()))


def test_what_is_trained_on_is_marked():
    html = render_pool(pool_document())
    assert 'assistant\n<mark>Good day</mark><mark class="end">&lt;|im_end|&gt;</mark>' in html
    assert "Trained on:" in html


def test_what_was_not_counted_or_found_is_said():
    text = read_page(render_pool(files_document())).text
    assert "Tokens were not counted: no such model" in text and "Read from files and not imported anywhere" in text
    assert "Empty: every row could be used." in text and "No row repeats another." in text
    assert "quarantine.parquet" not in text and "Trained on:" not in text and "The tokenizer is away." in text


def test_a_sample_is_said_to_be_one():
    text = read_page(render_pool(pool_document())).text
    assert "Of a random sample of 1,000 examples." in text and "Of a random sample of 1,100 examples." in text
    document = pool_document()
    document["languages"]["of"] = document["lengths"]["of"] = document["examples"]
    assert "random sample" not in read_page(render_pool(document)).text


def test_examples_can_be_searched_and_chosen_by_source():
    page = read_page(render_pool(pool_document()))
    rows = [e for e in page.all("tr") if "data-source" in e.attributes]
    assert [row.attributes["data-source"] for row in rows] == ["dolly", "oasst1"]
    assert [option.attributes["value"] for option in page.all("option")] == ["", "dolly", "oasst1"]
    assert page.all("input")[0].attributes["id"] == "search"


def test_a_local_path_of_the_tokenizer_is_cut_to_its_name():
    html = render_pool(pool_document())
    assert "of smol." in html and "private" not in html


def test_a_long_rendered_text_keeps_its_ends():
    document = pool_document()
    document["shown"][0]["segments"][0]["text"] = "begin" + "x" * 50_000 + "finish"
    text = read_page(render_pool(document)).text
    assert "begin" in text and "finish" in text and "characters…]" in text and "x" * 4_000 not in text


def test_rendering_leaves_the_document_alone():
    document = attacked_document()
    render_pool(document)
    assert document == attacked_document()
