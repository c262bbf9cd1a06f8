"""The batch as a file: no spreadsheet runs what it holds, and what was not edited comes back as it was."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from review_desk import PROPOSAL, make_proposed

from al.errors import ConfigError, DataError
from al.review.sheet import guard, read_approval, unguard, write_batch

FORMULAS = [
    '=HYPERLINK("http://x")',
    "+1",
    "-1+2",
    "@SUM(A1)",
    "\t=1",
    " =1+1",
    "\n=1+1",
    "\r\n@x",
    "\u3000＝1+1",
    "＋1",
    "－1",
    "＠SUM(A1)",
    "\ufeff=1",
    "\nplain",
    "'＝1",
    "'=1",
    "''-1",
    "it's",
    "'quoted'",
    'line\nbreak, "and" ; more',
]


@given(st.text() | st.text("'= \n\t\u3000＝－@a", max_size=6))
def test_every_text_survives_the_guard_and_none_begins_a_formula(text):
    assert unguard(guard(text)) == text
    assert guard(text)[:1] not in ("\t", "\r", "\n") and guard(text).strip("\ufeff\u200b \n\u3000")[:1] not in set(
        "=+-@＝＋－＠"
    )


@pytest.fixture
def proposed(tmp_path):
    return make_proposed(tmp_path, FORMULAS, names=["=1+1", "-x", "@y"])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_an_unedited_export_changes_nothing(proposed, tmp_path, suffix):
    path = tmp_path / f"batch{suffix}"
    assert write_batch(proposed.batch, path) == 12
    decision, notes = read_approval(path, proposed.batch)
    assert decision.changes_nothing and notes == [] and not list(tmp_path.glob("*.tmp"))
    assert proposed.revised(decision).picked.tolist() == proposed.terms.picked.tolist()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_export_of_another_proposal_is_refused_before_what_it_lacks_is_dropped(proposed, tmp_path, suffix):
    path = tmp_path / f"batch{suffix}"
    write_batch(proposed.batch, path)
    other = replace(proposed.batch, proposal=replace(proposed.artifact, fingerprint="f" * 20))
    with pytest.raises(DataError, match=rf"batch{suffix}:\d+: is an export of another proposal \({PROPOSAL}\)"):
        read_approval(path, other)


def test_no_cell_of_a_csv_is_a_formula_or_a_number_that_was_an_id(proposed, tmp_path):
    write_batch(proposed.batch, tmp_path / "batch.csv")
    with (tmp_path / "batch.csv").open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle))
    numeric = ("cluster", "tokens", "nll")
    for row in rows:
        assert row["id"].startswith("#") and row["proposal"] == f"#{PROPOSAL}"
        assert not [
            v for k, v in row.items() if k not in numeric and v.strip("\ufeff \u3000")[:1] in set("=+-@＝＋－＠\t\r\n")
        ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_spreadsheet_may_write_other_separators_and_quotes(proposed, tmp_path, delimiter):
    path = tmp_path / "batch.csv"
    write_batch(proposed.batch, path)
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows[4]["keep"] = "FALSE"
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    decision, notes = read_approval(path, proposed.batch)
    assert decision.drop == [rows[4]["id"].removeprefix("#")] and notes == []


def test_an_edited_text_gets_a_note_because_it_changes_nothing(proposed, tmp_path):
    path = tmp_path / "batch.jsonl"
    write_batch(proposed.batch, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["response"] = "a better answer"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    decision, (note,) = read_approval(path, proposed.batch)
    assert decision.changes_nothing and "first in line 3" in note and "pool import" in note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"b.jsonl:1: not valid JSON"),
        ('{"id": ' + "9" * 5000 + "}", r"b.jsonl:1: not valid JSON"),
        ("7", r"b.jsonl:1: expected an object with an id, found int"),
        ('{"id": 7}', r"b.jsonl:1: id: expected 16 hexadecimal digits"),
        ('{"id": "00000000000000ff"}', r"b.jsonl:1: no example of the pool"),
        ("", "contains none of the 12 proposed examples"),
    ],
)
def test_what_is_no_batch_is_refused(proposed, tmp_path, text, message):
    (tmp_path / "b.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_approval(tmp_path / "b.jsonl", proposed.batch)


def test_the_line_of_a_pin_that_cannot_be_is_named(proposed, tmp_path):
    path = tmp_path / "b.jsonl"
    write_batch(proposed.batch, path)
    waiting = proposed.batch.pool.ids[~proposed.batch.pool.labelled][0]
    with path.open("a") as handle:
        handle.write(json.dumps({"id": str(waiting)}) + "\n")
    with pytest.raises(DataError, match=r"b.jsonl:13: pin: \w+ cannot be picked: it has no response"):
        read_approval(path, proposed.batch)


def test_names_of_other_kinds_are_refused_before_anything_is_written(proposed, tmp_path):
    with pytest.raises(ConfigError, match="ends in .csv or .jsonl"):
        write_batch(proposed.batch, tmp_path / "batch.xlsx")
    with pytest.raises(ConfigError, match="expected (a name that ends in|an exported) .csv or .jsonl"):
        read_approval(tmp_path / "batch.xlsx", proposed.batch)
