"""Whatever a file holds, an import ends in a pool or in an error that a user can read; it loses no good row and no bad one.

The cases are always the same ones: good rows among broken ones, in every kind of file that has lines. With WINNOW_FUZZ=full there
are 2,000.
"""

from __future__ import annotations

import gzip
import json
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from command_line import winnow
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al.config.pool import PoolConfig
from al.errors import DataError, UserError
from al.pool.importer import import_pool
from al.pool.sources import find_sources
from al.pool.stats import PoolStats
from al.pool.store import Pool

LONGEST_SECONDS = 5
KEYS = """messages role content name conversations from value instruction instances context input output response ideal
prompt completion question answer system source text tools chosen rejected data message_id parent_id inputs targets""".split()
WORDS = ["user", "assistant", "system", "tool", "human", "gpt", "example_user", "", " ", "a", "\0", "\ud800", "é"]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=6,
)
json_lines = st.dictionaries(st.sampled_from(KEYS), values, max_size=6).map(lambda row: json.dumps(row).encode())
damaged_lines = st.tuples(json_lines, st.integers(0, 200), st.binary(max_size=3)).map(
    lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
)

# One line each → the reason it is refused for, and what the message must name.
BROKEN_LINES = {
    b'{"question": "caf\xe9?", "answer": "x"}': ("bad_utf8", "question: byte 18"),
    b'{"question": "x", "answer": ["a", "\xff"]}': ("bad_utf8", "answer[1]: "),
    b'{"messages": [{"role": "user", "content": "\xc3"}]}': ("bad_utf8", "messages[0].content: "),
    b"\xff\xfe\xfd": ("bad_utf8", "byte 1"),
    b'{"question": "\\ud800", "answer": "x"}': ("bad_unicode", "message 0 (user)"),
    b'{"question": "x", "answer": "\\udc80"}': ("bad_unicode", "message 1 (assistant)"),
    b'{"question": "a\0b", "answer": "x"}': ("nul_character", "question: byte 16"),
    b'{"question": "a\\u0000b", "answer": "x"}': ("nul_character", "message 0 (user)"),
    b"\0\0\0\0": ("nul_character", "byte 1"),
    b'{"question": "q", "answer": NaN}': ("not_finite", "answer: "),
    b'{"question": Infinity, "answer": "x"}': ("not_finite", "question: "),
    b'{"question": "q", "answer": 1e999}': ("not_finite", "answer: "),
    b'{"question": "q", "answer": "x", "weight": -Infinity}': ("not_finite", "weight: "),
    b'{"question": "q", "answer": "x", "more": {"score": [NaN]}}': ("not_finite", "more: "),
    b'{"question": "q", "ans': ("invalid_json", "character 19"),
    b'{"question": "q", "answer": }': ("invalid_json", "character 29"),
    b"{'question': 'q', 'answer': 'x'}": ("invalid_json", "character 2"),
    b'{"question": "q", "answer": "x"} 7': ("invalid_json", "more after"),
    b'{"question": "q", "answer": "a\tb"}': ("invalid_json", "control character"),
    b'{"question": "q", "answer": ' + b"9" * 5000 + b"}": ("invalid_json", "digits"),
    b"[" * 100_000: ("invalid_json", "deep"),
    b'{"a":' * 100_000: ("invalid_json", "deep"),
    b'["q", "x"]': ("not_an_object", "list"),
    b'"q"': ("not_an_object", "str"),
    b"null": ("not_an_object", "NoneType"),
    b"12": ("not_an_object", "int"),
    b"<html>404</html>": ("invalid_json", "character 1"),
    b"{}": ("unknown_format", "none"),
    b'{"ask": "q", "tell": "x"}': ("unknown_format", "ask ('q'), tell ('x')"),
    b'{"question": ["q"], "answer": "x"}': ("wrong_type", "question: "),
    b'{"question": null, "answer": "x"}': ("missing_field", "question: "),
    b'{"question": " ", "answer": "x"}': ("empty_field", "message 0 (user)"),
    b'{"question": "q", "answer": {"text": null}}': ("wrong_type", "answer: "),
    b'{"messages": null}': ("wrong_type", "messages: "),
    b'{"messages": [null]}': ("wrong_type", "messages[0]: "),
    b'{"messages": [{"role": null, "content": "x"}]}': ("unknown_role", "messages[0].role: "),
    b'{"messages": [{"role": "wizard", "content": "x"}]}': ("unknown_role", "messages[0].role: "),
    b'{"messages": [{"role": "assistant", "content": "x"}]}': ("no_prompt", "user message first"),
    b'{"messages": []}': ("no_prompt", "no message"),
    b'{"conversations": {"from": "human"}}': ("wrong_type", "conversations: "),
    b'{"instruction": "i", "output": {"nested": {"null": null}}}': ("wrong_type", "output: "),
}


@dataclass(frozen=True)
class Found:
    """What an import made of a file: the questions of its examples, and every bad row."""

    stats: PoolStats
    questions: set[str]
    bad: list[dict]
    lines: set[int]
    """Lines that are an example, a duplicate of one, or in quarantine."""


def import_bytes(name: str, content: bytes, **config) -> Found | None:
    """What was found (consistent, or this fails), or None where the import refused with an error for the user."""
    with TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        out = Path(folder) / "pool"
        out.mkdir()
        started = time.process_time()
        try:
            stats = import_pool(find_sources(PoolConfig(files=[f"{folder}/{name}"], **config)), out)
        except UserError as error:
            assert str(error)
            return None
        finally:
            assert time.process_time() - started < LONGEST_SECONDS
        return consistent(out, stats)


def consistent(out: Path, stats: PoolStats) -> Found:
    """The pool as it can be read, checked against its own counts."""
    pool = Pool.open(out)
    assert len(pool) == stats.examples == len(set(pool.ids.tolist()))
    conversations = list(pool.iter_messages())
    assert all(messages and all(m["content"].strip() for m in messages) for messages in conversations)
    pool.metadata(range(len(pool)))
    bad = pq.read_table(out / "quarantine.parquet").to_pylist()
    merged = pq.read_table(out / "duplicates.parquet", columns=["origin"])["origin"].to_pylist()
    assert sum(stats.quarantined.values()) == len(bad) == sum(file["quarantined"] for file in stats.files)
    assert len(merged) == stats.duplicates
    assert all(row["line"] > 0 and row["reason"] and row["message"] and row["snippet"].isprintable() for row in bad)
    origins = [*pool.origin(range(len(pool))), *merged]
    lines = {int(origin.rpartition(":")[2].split("#")[0]) for origin in origins} | {row["line"] for row in bad}
    return Found(stats, {messages[0]["content"] for messages in conversations}, bad, lines)


def good_row(number: int) -> bytes:
    return json.dumps({"question": f"Is row {number} usable?", "answer": f"Yes, {number}."}).encode()


def planted(found: Found | None, count: int) -> bool:
    return found is not None and found.questions >= {f"Is row {number} usable?" for number in range(count)}


def drawn(few: int, full: int) -> settings:
    return settings(
        max_examples=cases(few, full),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


Piece = bytes | None
"""A broken line, or None for the place of a good row."""


def fill(pieces: list[Piece], good=good_row) -> tuple[list[bytes], int]:
    """The lines, good rows put in their places and one at the start; how many good rows there are."""
    lines, count = [good(0)], 1
    for piece in pieces:
        lines.append(good(count) if piece is None else piece)
        count += piece is None
    return lines, count


one_line = st.binary(max_size=60).map(lambda junk: junk.replace(b"\n", b" "))
known_bad = st.sampled_from(sorted(BROKEN_LINES))
pieces = st.lists(
    st.none() | known_bad | one_line | json_lines | damaged_lines.map(lambda b: b.replace(b"\n", b" ")), max_size=7
)
endings = st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n"])


class TestDrawnCases:
    @drawn(100, 800)
    @given(
        pieces,
        endings,
        st.sampled_from([b"", b"\xef\xbb\xbf"]),
        st.sampled_from(["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz"]),
    )
    def test_trap_31_no_line_costs_another(self, pieces, ending, start, name):
        lines, count = fill(pieces)
        content = start + ending.join(lines)
        found = import_bytes(name, gzip.compress(content) if name.endswith(".gz") else content)
        assert planted(found, count)
        assert found.lines == {number for number, line in enumerate(content.split(b"\n"), 1) if line.strip()}
        reasons = {(row["line"], row["reason"]) for row in found.bad}
        for number, line in enumerate(content.split(b"\n"), 1):
            if line.strip() in BROKEN_LINES:
                assert (number, BROKEN_LINES[line.strip()][0]) in reasons

    @drawn(40, 400)
    @given(
        st.lists(
            st.none() | known_bad.filter(lambda line: b"[" * 9 not in line and not line.startswith((b"[", b'{"a":{'))),
            max_size=6,
        )
    )
    def test_trap_31_no_element_of_an_array_of_lines_costs_another(self, pieces):
        lines, count = fill(pieces)
        assert planted(import_bytes("a.json", b"[\n" + b",\n".join(lines) + b"\n]"), count)

    @drawn(30, 200)
    @given(st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=6), max_size=5), st.sampled_from([None, 1]))
    def test_no_element_of_an_array_costs_another(self, rows, indent):
        good = [json.loads(good_row(0)), json.loads(good_row(1))]
        content = json.dumps([good[0], *rows, good[1]], indent=indent).encode()
        found = import_bytes("a.json", content)
        assert planted(found, 2) and found.stats.rows == len(rows) + 2

    @drawn(50, 300)
    @given(st.lists(st.none() | st.sampled_from(
        [b'"open,1', b"a,b,c", b"caf\xe9,x", b"x,\xff\xff", b'x,"quoted" text', b"a\0b,c", b",", b",x", b"only", b"\r"]
    ) | st.text("ab, ;\t'\\", max_size=8).map(str.encode), max_size=8), endings)  # fmt: skip
    def test_trap_31_no_csv_line_costs_another(self, pieces, ending):
        lines, count = fill(pieces, lambda number: b"Is row %d usable?,Yes" % number)
        assert planted(
            import_bytes("a.csv", b"question,answer\n" + ending.join([*lines, b"Is row 999 usable?,Yes"])), count
        )

    @drawn(50, 300)
    @given(
        st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.arrow", "a.feather", "rows"]),
        st.sampled_from(["", ".gz", ".bz2", ".zst"]),
        st.lists(st.binary(max_size=60) | json_lines | damaged_lines, max_size=6).map(b"\n".join),
        st.sampled_from([b"", b"\x1f\x8b\x08", b"BZh9", b"\x28\xb5\x2f\xfd", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff"])
        | st.sampled_from([b"\xff\xfe", b"{", b"[", b'{"data": [']),
    )  # fmt: skip
    def test_any_bytes_under_any_name_give_a_pool_or_a_readable_error(self, name, codec, content, start):
        import_bytes(name + codec, start + content)


@pytest.mark.parametrize("line", BROKEN_LINES, ids=lambda line: repr(line[:40]))
class TestEveryKnownBreakage:
    """A broken line between two good ones: its place, its reason, and the field or character that is to blame."""

    def test_is_reported_with_its_place_and_cause(self, line):
        reason, named = BROKEN_LINES[line]
        found = import_bytes("a.jsonl", b"\n".join([good_row(0), line, good_row(1)]))
        (row,) = found.bad
        assert planted(found, 2)
        assert (row["file"].rpartition("/")[2], row["line"], row["reason"]) == ("a.jsonl", 2, reason)
        assert named in row["message"]

    def test_stops_a_strict_import(self, line, tmp_path):
        (tmp_path / "a.jsonl").write_bytes(b"\n".join([good_row(0), line, good_row(1)]))
        (tmp_path / "pool").mkdir()
        with pytest.raises(DataError, match=rf"a\.jsonl:2: .*\[{BROKEN_LINES[line][0]}\]"):
            import_pool(find_sources(PoolConfig(files=[str(tmp_path / "a.jsonl")])), tmp_path / "pool", strict=True)


GOOD = b"\n".join([good_row(0), good_row(1)])
# Name, content → reasons it is quarantined for. Both good rows must come out.
BROKEN_FILES = {
    "a byte order mark and CRLF": ("a.jsonl", b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"), []),
    "a line of 10 MB": ("a.jsonl", GOOD + b'\n{"question": "' + b"q" * 10_000_000 + b'"}', ["oversize_row"]),
    "10 MB of nothing": ("a.jsonl", GOOD + b"\n" + b" " * 10_000_000, ["oversize_row"]),
    "10 MB of line ends": ("a.jsonl", GOOD + b"\n" * 10_000_000, []),
    "a file cut in a character": ("a.jsonl", GOOD + '\n{"question": "é'.encode()[:-1], ["bad_utf8"]),
    "a cut gzip": ("a.jsonl.gz", gzip.compress(GOOD)[:-6], ["truncated_gz"]),
    "a gzip with a wrong checksum": ("a.jsonl.gz", gzip.compress(GOOD + b"\n")[:-8] + b"12345678", ["truncated_gz"]),
    "a zip bomb": ("a.jsonl.gz", gzip.compress(GOOD + b"\n" + b"\0" * 2**27), ["zip_bomb"]),
    "ids twice and missing": ("a.jsonl", GOOD.replace(b'{"question"', b'{"id": 7, "question"') + b"\n" + good_row(2), []),
    "a row twice": ("a.jsonl", GOOD + b"\n" + good_row(0), []),
    "an array cut off": ("a.json", b"[" + GOOD.replace(b"\n", b",\n") + b",\n" + good_row(2)[:20], ["invalid_json"]),
    "zeros at the end, as after a crash": ("a.jsonl", GOOD + b"\n" + b"\0" * 4096, ["nul_character"]),
    "an error page at the end": ("a.jsonl", GOOD + b"\n<html>504</html>", ["invalid_json"]),
    "a row and a number on a line": ("a.jsonl", GOOD + b"\n" + good_row(2) + b"7", ["invalid_json"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_trap_31_a_broken_file_gives_all_its_good_rows(name):
    file, content, reasons = BROKEN_FILES[name]
    found = import_bytes(file, content)
    assert planted(found, 2)
    assert [row["reason"] for row in found.bad] == reasons


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", b"{}", b" ", b"\xef\xbb\xbf", b"null", b"\0"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet", "a.arrow", "a.txt", "rows"])
def test_a_file_without_rows_is_an_error(name, content):
    assert import_bytes(name, gzip.compress(content) if name.endswith(".gz") else content) is None


def test_strict_ends_the_command_with_its_code_and_quarantine_does_not(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD + b'\n{"question": NaN, "answer": "x"}')
    command = ("pool", "import", tmp_path / "a.jsonl", "--run", tmp_path / "run")
    strict = winnow(*command, "--strict")
    assert (strict.code, "a.jsonl:3: question: " in strict.err, "[not_finite]" in strict.err) == (3, True, True)
    assert "Traceback" not in strict.err
    assert winnow(*command).code == 0
