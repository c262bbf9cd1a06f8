"""The column map that an error suggests for rows without a format, and the warning where a map asks bare numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import winnow

from al.config import Config
from al.planning.pool_estimate import estimate_pool
from al.pool.formats.advice import advice, columns_with_values, is_number
from al.pool.mapping import parse_map

ASKED, SAID = "Why does my kettle whistle?", "Steam leaves through a narrow slit."
UNKNOWN = ("YOUR_QUESTION_COLUMN", "YOUR_ANSWER_COLUMN")


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"ticket": "0", "customer_question": ASKED, "agent_answer": SAID, "product": "kettle"}, (1, 2)),
        ({"agent_answer": SAID, "day": "2031-04-05", "customer_question": ASKED}, (2, 0)),
        ({"userMessage": ASKED, "userId": "two words", "assistantReply": SAID, "assistantName": "Kit Bo"}, (0, 2)),
        ({"The Question": ASKED, "The reply": SAID}, (0, 1)),
        ({"no": 7, "words": ASKED, "reply": SAID, "topic": "kettle"}, (1, 2)),
        ({"headline": ASKED, "words": "Some more text.", "reply": SAID}, (None, 2)),
        ({"prompt_title": "Kettle", "prompt_body": ASKED, "grade": "B", "gold": 42}, (1, 3)),
        ({"question": ASKED, "answer_key": "B-12", "answer_text": SAID}, (0, 2)),
        ({"prompt_text": ASKED, "when": "2031-04-05 10:00", "code": "K-17"}, (0, None)),
        ({"first": ASKED, "second": SAID}, (None, None)),
        ({"a": ASKED, "b": SAID}, (None, None)),
        ({"ticket": 1, "points": 2.5}, (None, None)),
    ],
)
def test_the_suggested_map_goes_by_sense_and_has_placeholders_where_it_cannot(row: dict[str, Any], pair):
    names = [UNKNOWN[side] if at is None else list(row)[at] for side, at in enumerate(pair)]
    text = advice(row)
    written = text.split("--map ")[-1].removesuffix(" (`pool.map`)").strip("'")
    assert parse_map([written]) == {"instruction": names[0], "output": names[1]}


def test_columns_are_listed_with_a_value_each_and_many_are_counted():
    row = {"ticket": 0, "said": "x " * 100, "log": [1]} | {f"c{n}": None for n in range(20)}
    found = columns_with_values(row)
    assert found.startswith("ticket (0), said ('x x x ") and "log (a list)" in found
    assert found.endswith(" and 15 more") and len(found) < 300


@pytest.mark.parametrize(
    ("text", "bare"), [("17", True), (" -2.5 ", True), ("1,200 %", True), ("7 + 5", False), ("", False), ("B2", False)]
)
def test_a_bare_number_has_nothing_but_a_number(text, bare):
    assert is_number(text) is bare


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    lines = [f'{n},"{ASKED} ({n})","{SAID} ({n})"' for n in range(30)]
    (tmp_path / "tickets.csv").write_text("ticket,client_question,our_reply\n" + "\n".join(lines) + "\n")
    return tmp_path / "tickets.csv"


@pytest.mark.usefixtures("no_embedder")
def test_a_plan_and_an_import_warn_where_what_is_asked_is_a_bare_number(tickets, tmp_path):
    def notes(asked: str) -> tuple[str, ...]:
        pool = {"files": [str(tickets)], "map": {"instruction": asked, "output": "our_reply"}}
        return estimate_pool(Config.model_validate({"pool": pool}), tmp_path / "no-run").notes

    assert notes("client_question") == ()
    assert "in 30 of 30 examples checked, what is asked is a bare number" in notes("ticket")[0]
    arguments = ("pool", "import", tickets, "--run", tmp_path / "run", "--map")
    wrong = winnow(*arguments, "instruction=ticket,output=our_reply")
    (line,) = [line for line in wrong.out.splitlines() if "bare number" in line]
    assert line.startswith("  warning: in 30 of 30 examples") and wrong.code == 0
    good = winnow(*arguments[:-2], tmp_path / "good", "--map", "instruction=client_question,output=our_reply", "--json")
    assert json.loads(good.out)["warnings"] == []
