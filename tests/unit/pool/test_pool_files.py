"""Kinds of files beyond JSON Lines, compressed and not: the same rows come out, and damage costs what it damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest
import zstandard

from al.errors import DataError
from al.pool.reading.rows import read_rows
from al.pool.sources import make_sources

ROWS = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(4)]
LINES = [json.dumps(row) for row in ROWS]
JSONL = "\n".join(LINES) + "\n"
EXPECTED = [[("user", row["question"]), ("assistant", row["answer"])] for row in ROWS]
TABLE = pa.Table.from_pylist(ROWS)

PACK = {"gz": gzip.compress, "bz2": bz2.compress, "zst": lambda content: zstandard.ZstdCompressor().compress(content)}


def ipc(table: pa.Table, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "feather":
        feather.write_feather(table, buffer)
    else:
        with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(buffer, table.schema) as writer:
            writer.write_table(table)
    return buffer.getvalue()


def pretty(rows: list) -> str:
    return "\n".join(json.dumps(row, indent=2) for row in rows)


CSV = "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS)
SHAPES = {
    "one row a line in .json": ("a.json", JSONL),
    "an array in .jsonl": ("a.jsonl", json.dumps(ROWS, indent=1)),
    "an array of one row a line": ("a.json", "[" + ",\n".join(LINES) + "]"),
    "an array on one line": ("a.json", json.dumps(ROWS)),
    "an array without commas": ("a.json", "[" + "\n".join(LINES) + "]"),
    "an array that ends in a comma": ("a.json", "[" + ",\n".join(LINES) + ",]"),
    "two arrays": ("a.json", json.dumps(ROWS[:2]) + "\n" + json.dumps(ROWS[2:], indent=1)),
    "lines that end in commas": ("a.jsonl", ",\n".join(LINES)),
    "written-out objects one after another": ("a.json", pretty(ROWS)),
    "written-out objects in .jsonl": ("a.jsonl", pretty(ROWS)),
    "an object around the rows": ("a.json", json.dumps({"data": ROWS})),
    "an object around the rows, other fields after": ("a.json", json.dumps({"rows": ROWS, "count": 4}, indent=1)),
    "an object around the rows, other fields before": (
        "a.json",
        json.dumps({"version": "1.1", "train": ROWS, "n": {}}),
    ),
    "CSV with semicolons": ("a.csv", CSV.replace(",", ";")),
    "CSV in UTF-16": ("a.csv", CSV.encode("utf-16")),
    "JSON Lines in UTF-16": ("a.jsonl", JSONL.encode("utf-16")),
    "CSV with CRLF and blank lines": ("a.csv", "\r\n" + CSV.replace("\n", "\r\n\r\n")),
    "an Arrow file": ("a.arrow", ipc(TABLE, "file")),
    "an Arrow stream": ("a.arrow", ipc(TABLE, "stream")),
    "Feather": ("a.feather", ipc(TABLE, "feather")),
    "compressed under a plain name": ("a.jsonl", gzip.compress(JSONL.encode())),
    "plain under a compressed name": ("a.jsonl.gz", JSONL),
    "several members": (
        "a.jsonl.gz",
        gzip.compress(JSONL[:30].encode()) + gzip.compress(JSONL[30:].encode()) + b"\0" * 9,
    ),
}
SHAPES |= {f"{name}.{codec}": (f"{name}.{codec}", pack(content.encode())) for codec, pack in PACK.items()
           for name, content in {"a.jsonl": JSONL, "a.json": json.dumps(ROWS), "a.csv": CSV}.items()}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_file_gives_the_same_rows(importing, shape):
    name, content = SHAPES[shape]
    imported = importing({name: content})
    assert sorted(imported.conversations) == EXPECTED
    assert imported.refused == []


SNIFFED = {
    "lines": JSONL.encode(),
    "array": json.dumps(ROWS).encode(),
    "csv": CSV.encode(),
    "tsv": CSV.replace(",", "\t").encode(),
    "arrow": ipc(TABLE, "stream"),
    **{codec: pack(JSONL.encode()) for codec, pack in PACK.items()},
}


@pytest.mark.parametrize("kind", SNIFFED)
def test_a_file_without_a_known_suffix_is_identified_by_its_first_bytes(importing_one, kind):
    assert sorted(importing_one("rows", SNIFFED[kind]).conversations) == EXPECTED


@pytest.mark.parametrize("content", [b"PK\x03\x04rest", b"\x00\x01\x02", b"a sentence without a table"])
def test_a_file_that_is_nothing_known_is_an_error_that_says_what_is(importing_one, content):
    with pytest.raises(DataError, match=r"rows: unknown file type.*\.jsonl"):
        importing_one("rows", content)


def test_an_object_around_two_lists_of_rows_loses_none_in_silence(importing):
    imported = importing({"a.json": json.dumps({"train": ROWS, "test": ROWS}, indent=1)})
    assert (imported.stats.examples, imported.stats.quarantined) == (4, {"several_lists": 1})
    assert "`test`" in imported.quarantine[0]["message"]


def test_the_instances_of_a_task_file_are_not_taken_for_rows(importing):
    task = {
        "Definition": ["Say the number."],
        "Positive Examples": [],
        "Instances": [{"id": "x", "input": "1", "output": ["one"]}],
    }
    imported = importing({"a.json": json.dumps(task, indent=1)})
    assert imported.stats.formats == {"natural_instructions": 1}


def test_an_object_that_is_the_whole_file_may_be_longer_than_a_row(importing):
    instances = [{"id": str(n), "input": f"{n} " + "x" * 100, "output": ["y"]} for n in range(50)]
    imported = importing(
        {"a.json": json.dumps({"Definition": "D.", "Instances": instances}, indent=1)}, max_row_bytes=1024
    )
    assert (imported.stats.examples, imported.refused) == (50, [])


class TestDocuments:
    def test_a_line_of_three_dashes_separates_two_documents(self, importing):
        content = "user: A\n\nbot: B\n---\n\nuser: C\nbot: D\n---\n---\n"
        imported = importing({"a.txt": content}, text_template="user: {user}\nbot: {assistant}")
        assert imported.conversations and {c[0][1] for c in imported.conversations} == {"A", "C"}
        assert sorted(imported.pool.origin([0, 1])) == ["in/a.txt:1", "in/a.txt:6"]

    def test_text_files_of_a_folder_are_notes_unless_there_is_a_template(self, importing):
        assert importing({"a.jsonl": JSONL, "LICENSE.txt": "Do as you like."}).stats.examples == 4

    def test_a_document_that_is_too_long_is_quarantined(self, importing):
        content = "user: A\nbot: B\n---\nuser: " + "x\n" * 2000
        imported = importing({"a.txt": content}, text_template="user: {user}\nbot: {assistant}", max_row_bytes=1024)
        assert imported.refused == [("in/a.txt:4", "oversize_row")]


MANY = [{"question": f"Which is {random.Random(n).random()}?", "answer": "This one."} for n in range(20_000)]
MANY_LINES = "".join(json.dumps(row) + "\n" for row in MANY).encode()


@pytest.mark.parametrize("codec", PACK)
class TestDamagedCompression:
    def test_what_precedes_the_cut_is_kept(self, importing, codec):
        packed = PACK[codec](MANY_LINES)
        imported = importing({f"a.jsonl.{codec}": packed[: len(packed) * 9 // 10]})
        assert (
            imported.stats.examples >= {"gz": 17_900, "zst": 16_000, "bz2": 8_000}[codec]
        )  # bzip2 packs 900 kB at a time
        assert imported.refused == [(f"in/a.jsonl.{codec}:{imported.stats.examples + 1}", f"truncated_{codec}")]

    def test_what_precedes_a_damaged_byte_is_kept(self, importing, codec):
        packed = bytearray(PACK[codec](MANY_LINES))
        packed[len(packed) * 3 // 4] ^= 255
        imported = importing({f"a.jsonl.{codec}": bytes(packed)})
        assert imported.stats.examples > 8_000
        assert imported.stats.quarantined.get(f"truncated_{codec}") == 1

    def test_rubbish_behind_it_costs_no_row(self, importing, codec):
        imported = importing({f"a.jsonl.{codec}": PACK[codec](JSONL.encode()) + b"rubbish"})
        assert (imported.stats.examples, imported.stats.quarantined) == (4, {f"truncated_{codec}": 1})

    @pytest.mark.parametrize("filling", [b"\n", b"\0", b" "])
    @pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
    def test_a_bomb_is_not_unpacked_and_what_precedes_it_is_kept(self, importing, codec, filling, kind):
        head = {"jsonl": JSONL, "json": "[" + ",".join(LINES) + ",", "csv": CSV}[kind].encode()
        filled = PACK[codec](filling * 2**24)
        imported = importing({f"a.{kind}.{codec}": PACK[codec](head) + filled * (4 if codec == "bz2" else 8)})
        assert imported.stats.examples == 4
        assert imported.stats.quarantined == {"zip_bomb": 1}
        assert "pool.max_unpack_ratio" in imported.quarantine[0]["message"]

    def test_how_well_a_file_may_be_packed_can_be_set(self, importing, codec):
        packed = PACK[codec](JSONL.encode() + b"\n" * 2**25)
        assert importing({f"a.jsonl.{codec}": packed}, max_unpack_ratio=1e9).refused == []


class TestBrokenArrays:
    """After a broken element reading goes on where the next one begins for certain."""

    def broken(self, importing, content: str) -> tuple[int, list]:
        imported = importing({"a.json": content})
        return imported.stats.examples, imported.refused

    def test_one_element_a_line(self, importing):
        content = "[" + ",\n".join([LINES[0], '{"question": "x", "answer": oops}', *LINES[1:]]) + "]"
        assert self.broken(importing, content) == (4, [("in/a.json:2", "invalid_json")])

    def test_one_element_a_line_a_quote_is_missing(self, importing):
        content = "[\n" + ",\n".join([LINES[0], '{"question": "x", "answer": "cut', *LINES[1:]]) + "\n]"
        assert self.broken(importing, content) == (4, [("in/a.json:3", "invalid_json")])

    def test_one_element_a_line_a_bracket_is_missing(self, importing):
        content = "[\n" + ",\n".join([LINES[0], '{"question": "x", "answer": ["y"', *LINES[1:]]) + "\n]"
        assert self.broken(importing, content) == (4, [("in/a.json:3", "invalid_json")])

    @pytest.mark.parametrize("indent", [1, 2, 4])
    def test_indented_elements(self, importing, indent):
        content = json.dumps(ROWS, indent=indent).replace('"What is 1?"', "What is 1?")
        assert self.broken(importing, content) == (3, [("in/a.json:6", "invalid_json")])

    def test_written_out_objects(self, importing):
        content = pretty(ROWS).replace('"What is 1?"', "What is 1?")
        assert self.broken(importing, content) == (3, [("in/a.json:5", "invalid_json")])

    def test_inner_objects_are_not_taken_for_elements(self, importing):
        row = {"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}
        content = json.dumps([row, {**row, "x": "BREAK"}, {**row, "messages": row["messages"] * 2}], indent=1)
        imported = importing({"a.json": content.replace('"BREAK"', "BREAK")})
        assert (imported.stats.rows, imported.stats.examples, imported.stats.quarantined) == (3, 2, {"invalid_json": 1})

    def test_inner_objects_on_lines_of_their_own_without_indentation_are_not_taken_for_elements_either(self, importing):
        row = '{"instruction": "Say", "instances": [\n{"input": "1", "output": "one"},\n{"input": "2", "output": "two"}\n]}'
        imported = importing({"a.json": "[\n" + ",\n".join([row, row.replace('"Say"', "oops"), row]) + "\n]"})
        assert imported.stats.formats == {"self_instruct": 1}
        assert "the rest of the file cannot be read" in imported.quarantine[0]["message"]

    def test_where_the_next_is_not_certain_the_rest_is_given_up_and_that_is_said(self, importing):
        imported = importing({"a.json": "[" + ", ".join([LINES[0], "{oops}", *LINES[1:]]) + "]"})
        assert (imported.stats.examples, imported.stats.quarantined) == (1, {"invalid_json": 1})
        assert "the rest of the file cannot be read" in imported.quarantine[0]["message"]

    def test_an_element_that_is_too_long_costs_no_other(self, importing):
        content = "[" + ",\n".join([LINES[0], json.dumps({"question": "x" * 5_000_000}), *LINES[1:]]) + "]"
        imported = importing({"a.json": content}, max_row_bytes=2048)
        assert (imported.stats.examples, imported.refused) == (4, [("in/a.json:2", "oversize_row")])

    def test_an_array_that_is_never_closed_is_reported(self, importing):
        assert self.broken(importing, "[" + ",\n".join(LINES)) == (4, [("in/a.json:4", "invalid_json")])

    def test_rows_of_a_large_array_are_read_across_the_edges_of_what_is_in_memory(self, importing):
        rows = [{"question": f"{n} ä {'é' * (n % 700)}", "answer": "日本語"} for n in range(6000)]
        imported = importing({"a.json": json.dumps(rows, ensure_ascii=False, indent=1)})
        assert (imported.stats.examples, imported.refused) == (6000, [])
        assert "in/a.json:" + str(2 + 4 * 5999) in imported.pool.origin(range(6000))


def test_values_that_are_no_objects_are_read_unchanged(tmp_path):
    values = [number * 7919 % 100_003 for number in range(200_000)] + [True, None, "x", 1.5, [2]]
    (tmp_path / "a.json").write_text(json.dumps(values))
    (source,) = make_sources([str(tmp_path / "a.json")])
    assert [row for _, row, _ in read_rows(source)] == values


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_git_lfs_pointer_is_named_in_the_error(importing, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    with pytest.raises(DataError, match=rf"in/{name}: a Git LFS pointer, .*`git lfs pull`"):
        importing({name: pointer})


class TestTables:
    def test_a_quote_that_is_never_closed_costs_its_line_alone(self, importing):
        lines = CSV.splitlines()
        imported = importing({"a.csv": "\n".join([*lines[:2], '"open,1', *lines[2:]])})
        assert (imported.stats.examples, imported.refused) == (4, [("in/a.csv:3", "invalid_csv")])

    def test_a_quote_that_another_line_seems_to_close_costs_those_two_lines(self, importing):
        lines = CSV.splitlines()
        imported = importing({"a.csv": "\n".join([*lines[:2], '"open,1', *lines[2:4], 'x,"quoted" text', lines[4]])})
        assert (imported.stats.examples, imported.refused) == (
            4,
            [("in/a.csv:3", "invalid_csv"), ("in/a.csv:6", "invalid_csv")],
        )

    def test_a_field_may_hold_line_ends(self, importing):
        imported = importing({"a.csv": 'question,answer\n"one\ntwo",x\ny,z,\n'})
        assert ("user", "one\ntwo") in imported.only
        assert imported.refused == [("in/a.csv:4", "invalid_csv")]

    def test_messages_in_a_column_may_be_json_text(self, importing):
        messages = json.dumps([{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B"}])
        imported = importing({"a.csv": 'messages,n\n"{}",1\n[cut,2\n'.format(messages.replace('"', '""'))})
        assert imported.only == [("user", "A?"), ("assistant", "B")]
        assert imported.refused == [("in/a.csv:3", "wrong_type")]

    def test_a_lone_carriage_return_is_named_in_the_error(self, importing):
        imported = importing({"a.csv": CSV + "old\rmac,line\nlast?,yes\n"})
        assert (imported.stats.examples, imported.refused) == (5, [("in/a.csv:6", "invalid_csv")])
        assert "a single carriage return" in imported.quarantine[0]["message"]

    def test_columns_of_one_name_are_kept_apart(self, importing):
        imported = importing({"a.csv": "question,answer,answer\nA?,B,C\n"})
        assert imported.only == [("user", "A?"), ("assistant", "B")]
        assert imported.pool.metadata([0]) == [{"answer (2)": "C"}]

    def test_a_column_that_is_not_utf8_is_named(self, importing):
        imported = importing({"a.csv": "question,answer\nA?,caf\xe9\nB?,C\n".encode("latin-1")})
        assert imported.refused == [("in/a.csv:2", "bad_utf8")]
        assert "column answer: byte 4 (0xe9)" in imported.quarantine[0]["message"]

    def test_a_long_line_costs_no_other(self, importing):
        imported = importing({"a.csv": CSV + "x" * 10_000_000 + ",y\nlast?,yes\n"})
        assert (imported.stats.examples, imported.refused) == (5, [("in/a.csv:6", "oversize_row")])

    @pytest.mark.parametrize("columns", [20_000, 1_000_000])
    def test_a_header_of_a_million_columns_is_refused(self, importing, columns):
        header = ",".join(f"c{number}" for number in range(columns))
        with pytest.raises(DataError, match=rf"a\.csv: none of .*the header has {columns:,} columns"):
            importing({"a.csv": f"{header}\n1,2\n"}, max_row_bytes=2**25)

    def test_a_cut_arrow_stream_keeps_what_precedes_the_cut(self, importing):
        content = ipc(pa.Table.from_batches(pa.Table.from_pylist(MANY).to_batches(max_chunksize=1000)), "stream")
        imported = importing({"a.arrow": content[: len(content) // 2]})
        assert imported.stats.examples >= 9000
        assert imported.stats.quarantined == {"damaged_arrow": 1}

    def test_an_arrow_string_that_is_no_text_costs_one_row(self, importing):
        texts = pa.array([b"one", b"\xff", b"three"]).view(pa.string())
        imported = importing({"a.arrow": ipc(pa.table({"question": texts, "answer": ["1", "2", "3"]}), "file")})
        assert (imported.stats.examples, imported.refused) == (2, [("in/a.arrow:2", "bad_utf8")])
        assert imported.quarantine[0]["message"].startswith("question: ")

    def test_arrow_offsets_that_point_outside_of_the_data_are_refused_not_followed(self, importing):
        content = ipc(pa.table({"question": ["one", "two", "three"], "answer": ["1", "2", "3"]}), "stream")
        true, lie = (np.array(ends, dtype=np.int32).tobytes() for ends in ([0, 3, 6, 11], [0, 3, 2**30, 11]))
        assert content.count(true) == 1
        imported = importing({"good.jsonl": JSONL, "a.arrow": content.replace(true, lie)})
        assert imported.stats.examples >= 4
        assert {("in/a.arrow:2", "bad_value"), ("in/a.arrow:3", "bad_value")} <= set(imported.refused)
