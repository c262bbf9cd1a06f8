"""The texts that the page can search: the question first, all of it if it fits, and what does not fit is counted."""

from __future__ import annotations

import json
import zlib

import numpy as np

from al.report.summary.searchable import fit, parts_of


def test_the_last_user_turn_and_the_response_come_before_the_rest():
    messages = [
        {"role": "system", "content": "be  brief"},
        {"role": "user", "content": "first?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "who rides\na bicycle?"},
        {"role": "assistant", "content": "two"},
    ]
    assert parts_of(messages) == ("who rides a bicycle?", "two", "system: be brief user: first? assistant: one")
    assert parts_of(messages[:2]) == ("first?", "", "system: be brief")
    assert parts_of([{"role": "assistant", "content": "alone"}]) == ("", "alone", "")
    assert parts_of([]) == ("", "", "")


def test_texts_that_fit_are_whole():
    found = fit([("question", "answer", "system: x")] * 9)
    assert (found["whole"], found["limit"], found["characters_left_out"]) == (9, None, 0)
    assert found["asked"] == ["question"] * 9 and found["before"] == ["system: x"] * 9
    assert fit([]) == {"asked": [], "response": [], "before": [], "whole": 0, "limit": None, "characters_left_out": 0}


def test_what_does_not_fit_is_cut_alike_and_counted():
    rng = np.random.default_rng(0)
    long = [("".join(chr(97 + c) for c in rng.integers(0, 26, 300)), "r" * 50, "s" * 5_000) for _ in range(40)]
    texts = [*long, ("short", "text", "")]
    found = fit(texts, packed=4_000)
    kept = [[found[name][i] for name in ("asked", "response", "before")] for i in range(len(texts))]
    assert len(zlib.compress(json.dumps(kept).encode())) <= 4_000
    assert all(0 < sum(map(len, parts)) <= found["limit"] < 300 for parts in kept)
    assert kept[-1] == ["short", "text", ""] and found["whole"] == 1
    assert not any(found["before"]), "the question is worth more than what stands before it"
    assert sum(len(part) for parts in kept for part in parts) + found["characters_left_out"] == sum(
        len(part) for parts in texts for part in parts
    )
    assert len(zlib.compress(json.dumps([[p[: found["limit"] * 11 // 10] for p in t] for t in texts]).encode())) > 4_000
