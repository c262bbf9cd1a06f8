"""Whatever a file holds, an import ends in a pool or in an error that a user can read."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al.errors import UserError
from al.pool.config import PoolConfig
from al.pool.importer import import_pool
from al.pool.sources import find_sources
from al.pool.stats import PoolStats
from al.pool.store import Pool

KEYS = """messages role content name conversations from value instruction instances context input output response ideal
prompt completion question answer system source""".split()
WORDS = ["user", "assistant", "system", "tool", "human", "gpt", "example_user", "", " ", "a", "\0", "\ud800", "é"]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)
json_lines = st.dictionaries(st.sampled_from(KEYS), values, max_size=6).map(lambda row: json.dumps(row).encode())
damaged_lines = st.tuples(json_lines, st.integers(0, 200), st.binary(max_size=3)).map(
    lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
)
contents = st.lists(st.binary(max_size=60) | json_lines | damaged_lines, max_size=6).map(b"\n".join)

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
GOOD = b'{"question": "Is one row usable?", "answer": "Yes."}\n'


def import_bytes(name: str, content: bytes) -> PoolStats | None:
    """Stats of the pool (consistent, or this fails), or None where the import refused with an error for the user."""
    with TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        out = Path(folder) / "pool"
        out.mkdir()
        try:
            stats = import_pool(find_sources(PoolConfig(files=[f"{folder}/{name}"])), out)
        except UserError as error:
            assert str(error)
            return None
        pool = Pool.open(out)
        assert len(pool) == stats.examples == len(set(pool.ids.tolist()))
        assert all(messages and all(m["content"].strip() for m in messages) for messages in pool.iter_messages())
        pool.metadata(range(len(pool)))
        return stats


@quick
@given(contents)
def test_trap_31_no_line_can_stop_the_import_of_the_good_ones(content):
    stats = import_bytes("a.jsonl", GOOD + content)
    assert stats is not None and stats.examples >= 1


@quick
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=6), max_size=5))
def test_no_array_can_stop_the_import_of_a_good_row(rows):
    good = {"question": "Is one row usable?", "answer": "Yes."}
    assert import_bytes("a.json", json.dumps([good, *rows]).encode()) is not None


@quick
@given(contents)
def test_trap_31_no_csv_line_can_stop_the_import(content):
    assert import_bytes("a.csv", b"question,answer\nIs one row usable?,Yes.\n" + content) is not None


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.json.gz", "a.csv.gz"]
)
@settings(quick, max_examples=25)
@given(content=contents)
def test_any_bytes_under_any_name_give_a_pool_or_a_readable_error(name, content):
    import_bytes(name, content)
