"""Files as they are found: encodings, compression, damage. Nothing readable is lost, nothing unreadable goes unseen."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al.errors import DataError
from al.pool.convert import Converter
from al.pool.formats import RowError
from al.pool.sources import make_sources

ROWS = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(4)]
LINES = [json.dumps(row).encode() for row in ROWS]
JSONL = b"\n".join(LINES) + b"\n"


def parquet(table: dict) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer)
    return buffer.getvalue()


CSV = "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS)
FILES = {
    "a.jsonl": JSONL,
    "a.ndjson": JSONL,
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "lines.json": JSONL,
    "a.csv": CSV.encode(),
    "a.tsv": CSV.replace(",", "\t").encode(),
    "a.parquet": parquet({"question": [row["question"] for row in ROWS], "answer": [row["answer"] for row in ROWS]}),
}
FILES |= {f"{name}.gz": gzip.compress(content) for name, content in FILES.items() if name != "a.parquet"}


@pytest.mark.parametrize("name", FILES)
def test_every_file_type_gives_the_same_rows(importing, name):
    imported = importing({name: FILES[name]})
    assert sorted(imported.conversations) == [[("user", row["question"]), ("assistant", row["answer"])] for row in ROWS]
    assert imported.refused == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbf" + JSONL, id="byte order mark"),
        pytest.param(JSONL.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(JSONL.rstrip(), id="no line end at the end"),
        pytest.param(JSONL.replace(b"\n", b"\n\n  \n"), id="blank lines"),
    ],
)
def test_trap_31_harmless_oddities_cost_nothing(importing, content):
    imported = importing({"a.jsonl": content})
    assert (imported.stats.examples, imported.refused) == (4, [])


BROKEN_LINES = {
    "bad UTF-8": (b'{"question": "caf\xe9?", "answer": "x"}', "bad_utf8"),
    "lone surrogate": (b'{"question": "\\ud800", "answer": "x"}', "bad_unicode"),
    "NUL byte": (b'{"question": "a\0b", "answer": "x"}', "nul_character"),
    "NUL escape": (b'{"question": "a\\u0000b", "answer": "x"}', "nul_character"),
    "NUL in an alternative": (b'{"question": "q", "answer": ["x", "a\\u0000b"]}', "nul_character"),
    "NaN answer": (b'{"question": "q", "answer": NaN}', "not_finite"),
    "infinite answer": (b'{"question": "q", "answer": 1e999}', "not_finite"),
    "NaN in another field": (b'{"question": "q", "answer": "x", "weight": NaN}', "not_finite"),
    "cut off": (b'{"question": "q", "ans', "invalid_json"),
    "two values": (b'{"question": "q", "answer": "x"} 7', "invalid_json"),
    "nested without end": (b"[" * 200_000, "invalid_json"),
    "a number of 5,000 digits": (b'{"question": "q", "answer": ' + b"9" * 5000 + b"}", "invalid_json"),
    "an array": (b'["q", "x"]', "not_an_object"),
    "a string": (b'"q"', "not_an_object"),
    "unknown fields": (b'{"ask": "q", "tell": "x"}', "unknown_format"),
    "no fields": (b"{}", "unknown_format"),
    "wrong type": (b'{"question": ["q"], "answer": "x"}', "wrong_type"),
    "10 MB line": (b'{"question": "' + b"q" * 10_000_000 + b'", "answer": "x"}', "oversize_row"),
}


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_trap_31_a_broken_line_is_quarantined_and_its_neighbours_are_kept(importing, name):
    line, reason = BROKEN_LINES[name]
    imported = importing({"a.jsonl": b"\n".join([LINES[0], line, LINES[1], b""])})
    assert imported.refused == [("in/a.jsonl:2", reason)]
    assert imported.stats.examples == 2
    assert imported.stats.quarantined == {reason: 1}


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_trap_31_strict_stops_at_a_broken_line_and_says_where(importing, name):
    line, reason = BROKEN_LINES[name]
    with pytest.raises(DataError, match=rf"in/a\.jsonl:2: .*\[{reason}\]"):
        importing({"a.jsonl": LINES[0] + b"\n" + line + b"\n"}, strict=True)


@pytest.mark.parametrize("depth", [100, 900, 950, 970, 980, 990, 1000, 10_000])
def test_trap_31_deep_nesting_never_ends_the_import(importing, depth):
    nested = b'{"question": "q", "answer": "x", "more": ' + b"[" * depth + b"]" * depth + b"}"
    imported = importing({"a.jsonl": b"\n".join([LINES[0], nested])})
    assert imported.stats.examples + len(imported.refused) == 2


def test_trap_31_what_can_be_read_but_not_written_for_its_depth_is_refused():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    (source,) = make_sources(["a.jsonl"])
    with pytest.raises(RowError, match="nested too deeply"):
        Converter(source).convert({**ROWS[0], "more": nested})


def test_trap_31_rows_of_one_id_are_different_examples(importing):
    imported = importing({"a.jsonl": [{"id": 1, **ROWS[0]}, {"id": 1, **ROWS[1]}]})
    assert (imported.stats.examples, imported.stats.duplicates) == (2, 0)


def test_trap_31_one_file_may_mix_formats(importing):
    rows = [
        ROWS[0],
        {"prompt": "p", "completion": "c"},
        {"input": "i", "ideal": ["a", "b"]},
        {"conversations": ["u", "a"]},
    ]
    assert importing({"a.jsonl": rows}).stats.formats == {
        "evals": 1,
        "prompt_completion": 1,
        "question_answer": 1,
        "sharegpt": 1,
    }


def test_the_quarantine_shows_what_the_line_began_with(importing):
    (row,) = importing({"a.jsonl": LINES[0] + b'\n\x1b[2J{"question": "caf\xe9\n'}).quarantine
    assert row["snippet"] == '\\x1b[2J{"question": "caf\\xe9'
    assert row["message"]


def test_the_longest_line_can_be_set(importing):
    long = json.dumps({"question": "q" * 5000, "answer": "x"}) + "\n"
    imported = importing({"a.jsonl": LINES[0].decode() + "\n" + long}, max_row_bytes=1024)
    assert imported.refused == [("in/a.jsonl:2", "oversize_row")]
    assert f"{len(long) - 1:,} bytes" in imported.quarantine[0]["message"]


class TestDamagedFiles:
    def test_what_precedes_the_cut_of_a_compressed_file_is_kept(self, importing):
        whole = gzip.compress(JSONL)
        imported = importing({"a.jsonl.gz": whole[:-4]})  # all rows are there, the checksum is not
        assert imported.stats.examples == 4
        assert imported.refused == [("in/a.jsonl.gz:5", "truncated_gz")]

    def test_rubbish_after_a_compressed_file_costs_no_row(self, importing):
        imported = importing({"a.jsonl.gz": gzip.compress(JSONL) + b"rubbish"})
        assert (imported.stats.examples, imported.stats.quarantined) == (4, {"truncated_gz": 1})

    def test_what_precedes_the_damage_in_an_array_is_kept(self, importing):
        imported = importing({"a.json": b"[" + b",\n".join(LINES[:3]) + b',\n{"question": '})
        assert (imported.stats.examples, imported.refused) == (3, [("in/a.json:4", "invalid_json")])

    def test_a_bad_byte_in_an_array_costs_one_row(self, importing):
        imported = importing(
            {"a.json": b"[" + b",\n".join([LINES[0], b'{"question": "\xff", "answer": "x"}', LINES[1]]) + b"]"}
        )
        assert (imported.stats.examples, imported.refused) == (2, [("in/a.json:2", "bad_utf8")])

    def test_a_csv_line_with_too_many_columns_is_quarantined(self, importing):
        imported = importing({"a.csv": CSV + "a,b,c\n"})
        assert (imported.stats.examples, imported.refused) == (4, [("in/a.csv:6", "invalid_csv")])

    def test_a_truncated_parquet_file_is_an_error(self, importing):
        with pytest.raises(DataError, match="damaged_parquet"):
            importing({"a.parquet": FILES["a.parquet"][:-10]})

    def test_a_parquet_string_that_is_no_text_costs_one_row(self, importing):
        texts = pa.array([b"one", b"\xff", b"three"]).view(pa.string())
        imported = importing({"a.parquet": parquet({"question": texts, "answer": ["1", "2", "3"]})})
        assert (imported.stats.examples, imported.refused) == (2, [("in/a.parquet:2", "bad_utf8")])

    def test_a_parquet_value_that_python_cannot_hold_costs_one_row(self, importing):
        times = pa.array([0, 2**62], pa.timestamp("us"))
        imported = importing({"a.parquet": parquet({"question": ["one", "two"], "answer": ["1", "2"], "time": times})})
        assert imported.refused == [("in/a.parquet:2", "bad_value")]
        assert imported.pool.metadata([0]) == [{"time": str(datetime.datetime(1970, 1, 1))}]

    def test_missing_values_of_a_table_are_missing_fields(self, importing):
        imported = importing(
            {"a.parquet": parquet({"question": ["one", "two"], "answer": ["1", None], "note": [float("nan"), 1.5]})}
        )
        assert (imported.stats.labelled, imported.stats.unlabelled) == (1, 1)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_an_empty_file_is_named_and_an_error_if_there_is_no_other(importing, name):
    reason = importing({"good.jsonl": JSONL, name: b""}).stats.skipped[0]["reason"]
    assert reason.startswith("contains no rows")
    with pytest.raises(DataError, match=f"in/{name}: contains no rows"):
        importing({name: b""})


def test_a_file_without_one_usable_row_is_named_with_the_first(importing):
    rows = [{"ask": "q"}, {"ask": "r"}]
    reason = r"none of its 2 rows is usable\. The first is line 1: .*Known formats .*, messages"
    (skipped,) = importing({"a.jsonl": JSONL, "b.jsonl": rows}).stats.skipped
    assert skipped["file"] == "in/b.jsonl" and re.match(reason, skipped["reason"])
    with pytest.raises(DataError, match=rf"in/b\.jsonl: {reason}"):
        importing({"b.jsonl": rows})
