"""A pool in the terminal: what it says, what it marks, and what does not reach the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from pool_documents import attacked_document, files_document, pool_document

from al.report.reading.pool_words import length_sentences, shorten_segments
from al.report.text.pool import count_bar, describe_inspection, render_inspection

ESCAPE = re.compile("\x1b\\[[0-9;]*m")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
Make = Callable[[], dict[str, Any]]


@pytest.mark.parametrize("make", [pool_document, files_document, attacked_document])
@pytest.mark.parametrize("width", [60, 100])
def test_no_control_character_reaches_the_terminal_and_no_line_is_too_wide(make: Make, width: int):
    plain = render_inspection(make(), width)
    assert not CONTROL.search(plain)
    coloured = render_inspection(make(), width, color=True)
    assert not CONTROL.search(ESCAPE.sub("", coloured))
    from rich.cells import cell_len

    assert max(map(cell_len, plain.split("\n"))) <= width


def test_only_our_own_colours_are_escape_sequences():
    tame = set(ESCAPE.findall(render_inspection(pool_document(), color=True)))
    yellow = set(ESCAPE.findall(render_inspection(files_document(), color=True)))
    assert set(ESCAPE.findall(render_inspection(attacked_document(), color=True))) <= tame | yellow


def test_markup_in_a_text_is_shown_and_not_followed():
    text = " ".join(render_inspection(attacked_document()).split())
    assert "[bold red]markup[/]" in text and ":bomb:" in text


def test_what_is_trained_on_is_marked_with_and_without_colour():
    assert "assistant\n⟦Good day⟧⟪<|im_end|>⟫" in render_inspection(pool_document())
    coloured = render_inspection(pool_document(), color=True)
    response, end = (re.search(f"(\x1b\\[[0-9;]*m){text}", coloured)[1] for text in ("⟦Good day⟧", "⟪<[|]im_end[|]>⟫"))
    assert response != end


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "\x1b" in describe_inspection(pool_document())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in describe_inspection(pool_document())


@pytest.mark.parametrize(
    "said",
    [
        "pool version 2 of runs/pool: 1,234 examples (1,200 labelled, 30 unlabelled, 4 without",
        "merged: 63 exact duplicates, 7 rows that differ only outside the conversation; 3 rows in quarantine",
        "a.jsonl: hint (dolly), 800 rows (76%), for example 'Count the legs.'; looks like content",
        "card.json: contains no rows.",
        "a.jsonl: asked (dolly), 90 rows (9%), repeated in the conversation",
        "1,050 dolly: it has instruction, context, response",
        "900 English (en)",
        "(of a sample of 1,000)",
        "34 3-4 user turns",
        "12 with a system message",
        "3 4,096 to 8,191 (over the limit)",
        "50% have at most 61, 90% have at most 222, 99% have at most 700; the longest has 5,000 tokens.",
        "Over the limit tokens.max_length = 2,048: 3 of 1,100 (0.3%); they are left out (tokens.overlength = skip).",
        "Trained on: 41.2% of the tokens, with the template 'tokenizer' of smol.",
        "The template refuses 2 examples, which are never trained on; the first: turn 2: knows no tool.",
        "12 say hello a.jsonl:7",
        "Near-duplicates: 41 examples, at cosine 0.95 or more (dedup.threshold).",
        "9 of 1,200 responses checked (0.8%) refuse to answer; clean.refusals: drop leaves such examples out.",
        "2 invalid_json a.jsonl:9 character 3: no",
        "17 neighbouring messages of one role became one",
    ],
)
def test_what_a_pool_holds_is_said(said: str):
    text = re.sub("[█▏▎▍▌▋▊▉]", "", render_inspection(pool_document(), 120))
    assert said in " ".join(text.split())


def test_what_is_fine_is_said_too():
    text = render_inspection(files_document())
    for said in ("These files, read and not imported anywhere", "Exact duplicates: none", "Quarantine: empty"):
        assert said in text
    assert "Tokens were not counted: no such model" in text and "user: Hi\nassistant: Good day" in text
    assert "The tokenizer is away." in text and "as the model sees them" not in text


@pytest.mark.parametrize(
    ("overlength", "status", "said"),
    [
        ("skip", {"skipped": 3}, "they are left out"),
        ("truncate", {"truncated": 2, "no_target": 1}, "2 are cut there, 1 are left out as no response is left"),
        ("truncate_turns", {"truncated": 1, "skipped": 2}, "1 are cut after the last whole response, 2 are left out"),
    ],
)
def test_what_becomes_of_long_examples_follows_the_config(overlength: str, status: dict[str, int], said: str):
    lengths = {**pool_document()["lengths"], "overlength": overlength, "over_status": status}
    assert said in length_sentences(lengths)[0]


def test_sources_beyond_the_largest_are_one_row():
    document = pool_document()
    document["sources"] = {f"source-{i:02}": 100 - i for i in range(20)}
    text = render_inspection(document)
    assert "source-14" in text and "source-15" not in text and re.search(r"415\s+… and 5 more sources", text)


def test_an_example_without_a_response_says_that_nothing_is_trained_on():
    document = pool_document()
    document["shown"][0]["segments"] = [{"text": "Hi", "target": 0}]
    assert "no response: nothing here is trained on" in render_inspection(document)


def test_a_long_text_keeps_its_ends_and_says_how_much_is_left_out():
    document = pool_document()
    document["shown"][0]["segments"][0]["text"] = "begin" + "x" * 5_000 + "finish"
    text = " ".join(render_inspection(document).split())
    assert "begin" in text and "finish" in text and re.search(r"\[…[\d,]+ characters…\]", text)
    assert text.count("x") < 1_500 and "⟦Good day⟧" in text


def test_short_texts_leave_their_room_to_long_ones():
    parts = [{"text": "a" * 10, "target": 0}, {"text": "b" * 2_000, "target": 1}]
    first, second = shorten_segments(parts, 1_000)
    assert first["text"] == "a" * 10 and 980 <= second["text"].count("b") <= 1_000


def test_a_bar_is_in_proportion_and_never_empty_for_something():
    assert (
        count_bar(10, 10, 8) == "█" * 8
        and count_bar(5, 10, 8) == "█" * 4
        and count_bar(0, 10) == ""
        and count_bar(1, 10**6) == "▏"
    )
    assert count_bar(0, 0) == ""
