"""Tables of a few kilobytes that stand for gigabytes: found while they are read, in bounded memory, with the rows before them kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import ROOT
from fuzz import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from al.errors import DataError
from al.pool.formats import RowError
from al.pool.importer import import_pool
from al.pool.reading.arrow_messages import unpacked_bytes
from al.pool.reading.parquet_pages import pages_of
from al.pool.reading.tables import read_arrow, read_parquet
from al.pool.reading.unfolding import Unfolding, unfolded_sizes
from al.pool.sources import make_sources

LONGEST, RATIO = 8 * 2**20, 200.0
BIG = "x" * (LONGEST - 100)
ROWS = 400


def repeated(text: str = BIG, rows: int = ROWS) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([text]))


def lists(values: pa.Array) -> pa.ListArray:
    """Each value in a list of its own."""
    return pa.ListArray.from_arrays(np.arange(len(values) + 1, dtype=np.int32), values)


def table(completion: pa.Array) -> pa.Table:
    return pa.table({"prompt": [f"question {i}" for i in range(len(completion))], "completion": completion})


def messages(rows: int = ROWS) -> pa.Table:
    role = pa.array(["assistant"] * rows)
    turns = pa.StructArray.from_arrays([role, repeated(rows=rows)], ["role", "content"])
    return pa.table({"messages": lists(turns)})


PARQUET = {
    "a dictionary": (table(repeated()), {}),
    "a dictionary in lists": (table(lists(repeated())), {}),
    "a dictionary in messages": (messages(), {}),
    "texts that repeat the start of the one before": (
        table(pa.array([BIG[:-4] + f"{i:04}" for i in range(60)])),
        {"use_dictionary": False, "column_encoding": {"prompt": "PLAIN", "completion": "DELTA_BYTE_ARRAY"}},
    ),
    "compressed pages": (table(pa.array([f"{i}" + BIG for i in range(6)])), {"use_dictionary": False}),
    "many nulls": (pa.table({"prompt": pa.nulls(30_000_000, pa.string())}), {}),
    "lists of many nulls": (
        pa.table({"prompt": pa.ListArray.from_arrays([0, 30_000_000], pa.nulls(30_000_000, pa.int8()))}),
        {},
    ),
}
ARROW = {
    "a dictionary": table(repeated()),
    "lists of many nulls": pa.table({"prompt": pa.ListArray.from_arrays([0, 2**30], pa.nulls(2**30))}),
    "run lengths": pa.table(
        {"prompt": pa.RunEndEncodedArray.from_arrays(pa.array([30_000_000], pa.int32()), pa.array(["x" * 1000]))}
    ),
}
COMPRESSED = pa.table({"prompt": pa.array(["x" * (3 * 2**20)] * 100)})
"""300 MiB."""
READ = """
import resource, sys
from pathlib import Path
from al.pool.reading.arrow_messages import unpacked_bytes
from al.pool.reading.tables import read_arrow, read_parquet

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

for path in map(Path, sys.argv[1:]):
    before, last = used(), None
    for _, last, _ in (read_arrow if path.suffix == ".arrow" else read_parquet)(path, 8 * 2**20, 200.0):
        pass
    print(used() - before, getattr(last, "reason", "a row"), path.name, sep="\\t")
"""


def write(path: Path, content: pa.Table, **how: object) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(content, path, compression="zstd", store_schema=False, **how)
    else:
        options = pa.ipc.IpcWriteOptions(compression=how.get("codec"))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, content.schema, options=options) as writer:
            writer.write_table(content)
    return path


def test_bombs_are_found_in_bounded_memory(tmp_path):
    paths = [write(tmp_path / f"{name}.parquet", content, **how) for name, (content, how) in PARQUET.items()]
    paths += [write(tmp_path / f"{name}.arrow", content) for name, content in ARROW.items()]
    paths += [write(tmp_path / f"{codec}.arrow", COMPRESSED, codec=codec) for codec in ("zstd", "lz4")]
    done = subprocess.run([sys.executable, "-c", READ, *paths], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for _, _, name in found] == [path.name for path in paths]
    assert all(int(mebibytes) < 250 and reason == "zip_bomb" for mebibytes, reason, _ in found), done.stdout


def test_rows_before_a_bomb_are_kept_and_its_file_is_in_quarantine(tmp_path):
    path, good = tmp_path / "given.parquet", table(pa.array([f"answer {i}" for i in range(50)]))
    with pq.ParquetWriter(path, good.schema, dictionary_pagesize_limit=2**24) as writer:
        writer.write_table(good)
        writer.write_table(table(pa.array(["x" * 2**20] * 40)))
    (tmp_path / "pool").mkdir()
    stats = import_pool(make_sources([str(path)]), tmp_path / "pool")
    assert stats.examples >= 50 and stats.quarantined == {"zip_bomb": 1}


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_row_above_the_limit_is_refused_and_its_neighbours_are_read(tmp_path, suffix):
    path = write(tmp_path / f"t.{suffix}", table(pa.array(["a", "b" * 5000, "c"]).dictionary_encode()))
    read = read_arrow if suffix == "arrow" else read_parquet
    found = [row for _, row, _ in read(path, 4000, RATIO)]
    assert [row["completion"] for row in (found[0], found[2])] == ["a", "c"]
    assert isinstance(found[1], RowError) and found[1].reason == "oversize_row"


def test_a_table_whose_name_is_not_text_is_read(tmp_path):
    plain = write(tmp_path / "t.parquet", table(pa.array(["a"])))
    for suffix, read in ((".parquet", read_parquet), (".arrow", read_arrow)):
        plain = write(tmp_path / f"t{suffix}", table(pa.array(["a"])))
        odd = plain.rename(tmp_path / f"caf\udce9{suffix}")
        assert [row for _, row, _ in read(odd, LONGEST, RATIO)] == [{"prompt": "question 0", "completion": "a"}]


TEXT = st.none() | st.text(max_size=20)
VALUES = st.one_of(
    TEXT,
    st.lists(TEXT, max_size=3),
    st.fixed_dictionaries({"role": TEXT, "parts": st.none() | st.lists(TEXT, max_size=3)}),
    st.integers(-5, 5),
)


@settings(max_examples=60)
@given(st.data())
def test_any_nesting_is_read_as_it_was_written_with_and_without_dictionaries(data):
    shape = data.draw(st.sampled_from([TEXT, st.none() | st.lists(TEXT, max_size=3), st.lists(
        st.fixed_dictionaries({"role": TEXT, "parts": st.none() | st.lists(TEXT, max_size=3)}), max_size=3)]))  # fmt: skip
    values = data.draw(st.lists(shape, min_size=1, max_size=6))
    column = pa.array(values)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"c": column}), sink)
    plain = pq.read_table(pa.BufferReader(sink.getvalue()))["c"].combine_chunks()
    for found in (column, column.dictionary_encode() if pa.types.is_string(column.type) else column, plain):
        batch = pa.record_batch([found], names=["c"])
        assert [row["c"] for row in Unfolding(LONGEST, 0, RATIO).rows(batch, check=True)] == values
        assert len(unfolded_sizes(found)) == len(values)


def test_sizes_are_those_of_the_texts(tmp_path):
    texts = ["", "é" * 3, None, "abc"]
    expected = [8, 14, 8, 11]
    column = pa.array(texts)
    maps = pa.array([[(text or "", 1)] for text in texts], pa.map_(pa.string(), pa.int64()))
    assert unfolded_sizes(column).tolist() == expected
    assert unfolded_sizes(column.dictionary_encode()).tolist() == expected
    assert unfolded_sizes(lists(column)).tolist() == [size + 8 for size in expected]
    assert unfolded_sizes(lists(column).slice(1, 2)).tolist() == [22, 16]
    assert unfolded_sizes(pa.array([{"a": text} for text in texts])).tolist() == [size + 8 for size in expected]
    assert unfolded_sizes(maps)[1] == 8 + 8 + 14 + 16
    assert unfolded_sizes(pa.array([1.5, None])).tolist() == [16, 16]


@pytest.mark.parametrize("codec", [None, "zstd", "lz4"])
def test_a_compressed_table_is_read_and_its_bytes_are_known_before(tmp_path, codec):
    content = pa.table({"prompt": [f"question {i}" for i in range(3000)], "completion": ["the same answer"] * 3000})
    content = content.set_column(1, "completion", content["completion"].dictionary_encode())
    path = write(tmp_path / "t.arrow", content, codec=codec)
    assert [row for _, row, _ in read_arrow(path, LONGEST, RATIO)] == content.to_pylist()
    with pa.OSFile(str(path)) as file:
        file.seek(8)
        found = sum(map(unpacked_bytes, pa.ipc.MessageReader.open_stream(file)))
    assert (found == 0) if codec is None else (content.nbytes * 0.9 < found < content.nbytes * 1.2)


UNPACKED, PACKED, VALUES = "bytes once unpacked", "bytes in the file", "values of the dictionary"


def claiming(whole: bytes, what: str, claim: int) -> bytes:
    """A Parquet file whose first page header, that of a dictionary, has another number; the footer stays as it was."""
    at = 4  # behind PAR1; then the kind of the page, its bytes unpacked and packed: a byte for the field, and a varint
    for _ in range({UNPACKED: 1, PACKED: 2, VALUES: 3}[what]):
        at = after_varint(whole, at + 1)
    if what == VALUES:
        assert whole[at] == 4 << 4 | 12, "the header of the dictionary, a struct, is four fields further"
        at += 1
    return whole[: at + 1] + varint(2 * claim if claim >= 0 else -2 * claim - 1) + whole[after_varint(whole, at + 1) :]


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def after_varint(data: bytes, at: int) -> int:
    return at + 1 if data[at] < 128 else after_varint(data, at + 1)


@pytest.fixture
def arrow_memory():
    """A memory pool of Arrow that counts from zero."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(before)


@pytest.mark.parametrize(
    ("what", "claim", "reason"),
    [
        (UNPACKED, 2**31 - 1, "zip_bomb"),
        (UNPACKED, 2**24 + 1, "zip_bomb"),
        (PACKED, 2**31 - 1, "damaged_parquet"),
        (VALUES, 2**30, "damaged_parquet"),
        (UNPACKED, -1, "damaged_parquet"),
    ],
)
def test_a_page_that_claims_more_than_the_footer_is_refused_before_there_is_room_for_it(
    tmp_path, arrow_memory, what, claim, reason
):
    path = write(tmp_path / "given.parquet", table(pa.array([f"answer {i}" for i in range(500)])))
    path.write_bytes(claiming(path.read_bytes(), what, claim))
    found = [row for _, row, _ in read_parquet(path, LONGEST, RATIO)]
    assert [row.reason for row in found] == [reason], str(found[0])
    assert arrow_memory.max_memory() < 2**24
    (tmp_path / "pool").mkdir()
    with pytest.raises(DataError, match=f"given.parquet.*{reason}") as error:
        import_pool(make_sources([str(path)]), tmp_path / "pool")
    assert "\n" not in str(error.value)


HOW = [
    {},
    {"data_page_version": "2.0", "data_page_size": 500},
    {"use_dictionary": False, "data_page_size": 100, "write_page_index": True},
    {"write_page_checksum": True, "write_statistics": False, "row_group_size": 90},
]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_the_pages_of_an_honest_file_are_those_of_its_footer(tmp_path, how):
    """The footer counts the headers too, which are of some dozens of bytes each."""
    content = table(pa.array([[{"text": f"part {i}", "n": [i, None]}] * (i % 4) for i in range(300)]))
    path = write(tmp_path / "t.parquet", content.append_column("none", pa.nulls(300, pa.string())), **how)
    with path.open("rb") as file:
        metadata = pq.read_metadata(file)
        for group in range(metadata.num_row_groups):
            for column in map(metadata.row_group(group).column, range(metadata.num_columns)):
                pages = list(pages_of(file, column, path.stat().st_size))
                assert 0 <= column.total_uncompressed_size - sum(pages) <= 150 * len(pages)
    assert [row for _, row, _ in read_parquet(path, LONGEST, RATIO)][:300] == pq.read_table(path).to_pylist()


@settings(max_examples=cases(60, 5_000), deadline=None)
@given(st.data())
def test_any_damage_to_page_headers_is_rows_or_one_error(tmp_path_factory, data):
    sink = pa.BufferOutputStream()
    pq.write_table(table(pa.array([f"answer {i % 7}" for i in range(40)])), sink, compression="zstd")
    content = bytearray(sink.getvalue().to_pybytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(4, 60))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "t.parquet"
    path.write_bytes(content)
    found = [row for _, row, _ in read_parquet(path, LONGEST, RATIO)]
    reasons = [row.reason for row in found if isinstance(row, RowError)]
    assert set(reasons[:-1]) <= {"bad_utf8"} and set(reasons[-1:]) <= {"bad_utf8", "damaged_parquet", "zip_bomb"}


@pytest.mark.parametrize("rows", [90, 1000, 1500])
def test_conversations_in_several_row_groups_are_read_to_the_end(tmp_path, rows):
    """`datasets` writes groups of 1,000 rows, and a batch is of up to 1,024."""
    turns = [
        [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": f"a {i % 5}"}] for i in range(3100)
    ]
    content = pa.table({"messages": turns, "tags": [[f"t {i % 3}"] for i in range(3100)]})
    pq.write_table(content, tmp_path / "t.parquet", row_group_size=rows)
    assert [row for _, row, _ in read_parquet(tmp_path / "t.parquet", LONGEST, RATIO)] == content.to_pylist()
