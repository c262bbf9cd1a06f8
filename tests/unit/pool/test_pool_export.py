"""What is exported comes back as it was: ids, sources, responses, accepted answers, metadata."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al.config.pool import PoolConfig
from al.errors import ConfigError, EnvironmentProblem
from al.pool.export import COMPRESSION, export_examples
from al.pool.importer import import_pool
from al.pool.sources import find_sources
from al.pool.store import Pool

SUFFIXES = (*COMPRESSION, ".parquet")
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
said = texts.filter(lambda text: not text.isspace())
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2), max_leaves=4
)
names = texts | st.sampled_from(
    ["id", "source", "alternatives", "labelled", "metadata", "task", "lang", "group", "origin"]
)
reserved = {"input", "ideal", "messages", "chosen", "rejected"}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row in evals form: a conversation, no, one or several answers, and any other fields, those of an export too."""
    roles = st.sampled_from(["system", "user", "assistant", "tool"])
    turns = draw(st.lists(st.tuples(roles, said), max_size=4))
    turns = [("user", draw(said)), *turns, ("user", draw(said))]
    metadata = draw(st.dictionaries(names.filter(lambda name: name not in reserved), values, max_size=4))
    conversation = [{"role": role, "content": content} for role, content in turns]
    return {**metadata, "input": conversation, "ideal": draw(st.lists(said, max_size=3))}


def imported(path: Path, out: Path) -> Pool:
    out.mkdir()
    import_pool(find_sources(PoolConfig(files=[str(path)])), out)
    return Pool.open(out)


def content(pool: Pool) -> list[tuple[Any, ...]]:
    """Everything of every example but where it was read."""
    every = np.arange(len(pool))
    columns = pool.messages(every), pool.alternatives(every), pool.metadata(every)
    return list(zip(pool.ids.tolist(), pool.sources.tolist(), pool.labelled.tolist(), *columns, strict=True))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.lists(rows(), min_size=1, max_size=6))
def test_import_export_import_gives_the_same_pool(suffix: str, data: list[dict[str, Any]]):
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "odd name.jsonl"
        first.write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
        before = imported(first, Path(folder) / "before")
        assert export_examples(before.path, Path(folder) / f"out{suffix}") == len(before)
        after = imported(Path(folder) / f"out{suffix}", Path(folder) / "after")
        assert content(after) == content(before)
        assert after.stats["formats"] == {"exported": len(before)} and after.stats["quarantined"] == {}


@pytest.fixture
def pool(importing, good) -> Path:
    unanswered = {"question": "Why?", "answer": ""}
    several = {"input": "2+2", "ideal": ["4", "four"], "id": 7, "source": "sums"}
    return importing({"a.jsonl": [good, unanswered, several]}).path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_comes_back(pool, tmp_path, suffix):
    assert export_examples(pool, tmp_path / f"out{suffix}") == 3
    assert content(imported(tmp_path / f"out{suffix}", tmp_path / "again")) == content(Pool.open(pool))


def test_a_row_is_messages_with_id_source_answers_and_metadata(pool, tmp_path):
    export_examples(pool, tmp_path / "out.jsonl")
    written = {row["source"]: row for row in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    assert written["sums"] == {
        "id": written["sums"]["id"],
        "messages": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}],
        "source": "sums",
        "alternatives": ["four"],
        "labelled": True,
        "metadata": {"id": 7, "source": "sums"},
    }


def test_an_example_without_a_response_ends_with_the_user(pool, tmp_path):
    export_examples(pool, tmp_path / "out.jsonl")
    (row,) = [row for row in map(json.loads, (tmp_path / "out.jsonl").open()) if not row["labelled"]]
    assert row["messages"] == [{"role": "user", "content": "Why?"}]


def test_only_chosen_examples_are_written_in_the_pools_order(pool, tmp_path):
    assert export_examples(pool, tmp_path / "out.jsonl", chosen=np.array([True, False, True])) == 2
    written = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").open()]
    assert written == Pool.open(pool).ids[[0, 2]].tolist()


def test_a_file_that_is_there_is_replaced_only_when_asked(pool, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="exists already.*--force"):
        export_examples(pool, out)
    assert out.read_text() == "mine"
    assert export_examples(pool, out, force=True) == 3 and out.read_text() != "mine"


def test_an_export_that_breaks_off_leaves_what_was_there(pool, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("mine")

    def stop(written: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_examples(pool, out, force=True, progress=stop)
    assert [path.name for path in tmp_path.glob("*out*")] == ["out.jsonl"] and out.read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.csv", "expected a name that ends in .jsonl"), ("no/such/out.jsonl", "folder that does not exist")],
)
def test_a_name_that_cannot_be_written_is_refused_with_what_to_do(pool, tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        export_examples(pool, tmp_path / name)


def test_a_full_disk_is_an_error_and_leaves_nothing(pool):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises((EnvironmentProblem, ConfigError)):
        export_examples(pool, full / "out.jsonl")


def test_parquet_holds_metadata_as_json(pool, tmp_path):
    export_examples(pool, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "messages", "source", "alternatives", "labelled", "metadata"]
    assert {json.loads(text).get("id") for text in table["metadata"].to_pylist()} == {7, None}


def test_memory_does_not_grow_with_the_pool(importing, tmp_path):
    import pyarrow as pa

    pool = importing({"a.jsonl": [{"question": f"{i} {'word ' * 400}", "answer": "a"} for i in range(9000)]}).path
    before = pa.total_allocated_bytes()
    peak = 0

    def look(written: int) -> None:
        nonlocal peak
        peak = max(peak, pa.total_allocated_bytes() - before)

    export_examples(pool, tmp_path / "out.jsonl", progress=look)
    assert peak < (tmp_path / "out.jsonl").stat().st_size / 1.5


@pytest.mark.parametrize(
    ("changed", "reason", "message"),
    [
        ({"metadata": "{"}, "invalid_json", "metadata"),
        ({"metadata": [1]}, "wrong_type", "metadata"),
        ({"alternatives": "four"}, "wrong_type", "alternatives"),
        ({"source": " "}, "empty_field", "source"),
        ({"messages": None}, "wrong_type", "messages"),
    ],
)
def test_an_exported_row_that_was_damaged_is_quarantined_naming_the_field(importing, good, changed, reason, message):
    row = {
        "id": "0",
        "messages": [{"role": "user", "content": "hi"}],
        "source": "s",
        "alternatives": [],
        "labelled": False,
    }
    result = importing({"a.jsonl": [good, {**row, "metadata": {}, **changed}]})
    (bad,) = result.quarantine
    assert bad["reason"] == reason and message in bad["message"] and bad["line"] == 2


def test_a_row_with_more_fields_than_an_export_has_is_messages_and_loses_nothing(importing):
    row = {
        "id": "x",
        "messages": [{"role": "user", "content": "hi"}],
        "source": "s",
        "labelled": False,
        "metadata": {"a": 1},
    }
    result = importing({"a.jsonl": [{**row, "alternatives": [], "stars": 5}]})
    assert result.stats.formats == {"messages": 1}
    (metadata,) = result.pool.metadata([0])
    assert metadata["stars"] == 5 and metadata["id"] == "x" and metadata["metadata"] == {"a": 1}
