"""What an import keeps: one example per content, the same whatever the order, and everything of earlier versions."""

from __future__ import annotations

import json
import random
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest

from al.errors import DataError, RunStateError
from al.pool import spill
from al.pool.store import Pool

ROWS = [{"question": f"What is {number}?", "answer": [f"It is {number}.", str(number)]} for number in range(60)]


class TestExactDuplicates:
    def test_equal_conversations_are_one_example_whatever_their_file_and_format(self, importing, good):
        other = {
            "messages": [
                {"role": "user", "content": good["question"]},
                {"role": "assistant", "content": good["answer"]},
            ]
        }
        imported = importing({"a.jsonl": [good, good], "b.jsonl": [other]})
        assert imported.stats.examples == 1
        assert imported.duplicates == [("in/a.jsonl:2", "in/a.jsonl:1"), ("in/b.jsonl:1", "in/a.jsonl:1")]
        assert imported.stats.duplicates == 2

    def test_the_first_by_file_and_line_is_kept(self, importing, good):
        imported = importing({"b.jsonl": [{**good, "note": "b"}], "a.jsonl": [ROWS[0], {**good, "note": "a"}]})
        kept = next(row for row in range(2) if imported.pool.metadata([row]) != [{}])
        assert (imported.pool.origin([kept]), imported.pool.metadata([kept])) == (["in/a.jsonl:2"], [{"note": "a"}])

    @pytest.mark.parametrize("change", [{"answer": "Five."}, {"answer": None}, {"question": "what is two and two?"}])
    def test_conversations_that_differ_are_kept_apart(self, importing, good, change):
        assert importing({"a.jsonl": [good, {**good, **change}]}).stats.examples == 2


class TestIdentity:
    def test_the_id_of_a_content_never_changes(self, importing, good):
        """Runs, caches and reports are keyed by it: another value here orphans every run on disk."""
        assert importing({"a.jsonl": [good]}).pool.ids.tolist() == ["3190cce077b43ad4"]

    @pytest.mark.parametrize("question", ["plain", 'a "quoted" \\ line\n\tend\x7f', "Zwölf große 日本語 🎉\u2028"])
    def test_the_id_is_a_hash_of_the_canonical_json_of_the_messages(self, importing, question):
        pool = importing({"a.jsonl": [{"question": question, "answer": "x"}]}).pool
        document = json.dumps(pool.messages([0])[0], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert pool.ids.tolist() == [blake2b(document.encode(), digest_size=8).hexdigest()]

    def test_metadata_and_place_are_no_part_of_the_id(self, importing, good):
        plain, moved = importing({"a.jsonl": [good]}), importing({"b.jsonl": [ROWS[0], {**good, "note": "x"}]})
        assert set(plain.pool.ids) <= set(moved.pool.ids)

    def test_keys_are_the_ids_as_numbers_ascending(self, importing):
        pool = importing({"a.jsonl": ROWS}).pool
        assert pool.keys.tolist() == [int(name, 16) for name in pool.ids] == sorted(pool.keys.tolist())
        assert pool.keys.dtype == np.uint64

    def test_the_order_of_rows_in_files_does_not_change_the_examples(self, importing):
        shuffled = random.Random(1).sample(ROWS, len(ROWS))
        first, second = importing({"a.jsonl": ROWS}).pool, importing({"a.jsonl": shuffled}).pool
        assert first.ids.tolist() == second.ids.tolist()
        assert list(first.iter_messages()) == list(second.iter_messages())

    def test_the_same_files_in_any_order_give_the_same_bytes(self, tmp_path):
        from al.pool.importer import import_pool
        from al.pool.sources import make_sources

        for part in range(4):
            (tmp_path / f"{part}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in ROWS[part * 10 : part * 10 + 20])
            )
        sources = make_sources([str(tmp_path / f"{part}.jsonl") for part in range(4)])
        written = []
        for order in (sources, sources[::-1]):
            out = tmp_path / f"out-{len(written)}"
            out.mkdir()
            import_pool(order, out)
            written.append({path.name: path.read_bytes() for path in out.iterdir()})
        assert written[0] == written[1]

    def test_the_same_bytes_whether_rows_pass_through_the_disk_or_not(self, importing, monkeypatch):
        in_memory = importing({"a.jsonl": ROWS, "b.jsonl": ROWS[:20]})
        monkeypatch.setattr(spill.Spill.__init__, "__defaults__", (2000,))
        monkeypatch.setattr(spill, "RANGE_ROWS", 7)
        spilled = importing({"a.jsonl": ROWS, "b.jsonl": ROWS[:20]})
        for name in ("examples.parquet", "duplicates.parquet", "pool.json"):
            assert (spilled.path / name).read_bytes() == (in_memory.path / name).read_bytes()


class TestGrowth:
    def test_everything_of_the_earlier_version_is_kept(self, importing):
        old = importing({"a.jsonl": [*ROWS[:20], {"ask": "?"}]})
        new = importing({"b.jsonl": ROWS[15:40]}, previous=old)
        assert set(old.pool.ids) <= set(new.pool.ids)
        assert new.stats.examples == 40
        assert new.refused == old.refused == [("in/a.jsonl:21", "unknown_format")]
        assert new.stats.rows == 21 + 25

    def test_an_equal_new_row_is_a_duplicate_of_the_old_example(self, importing, good):
        new = importing({"a.jsonl": [{**good, "note": "new"}]}, previous=importing({"b.jsonl": [good]}))
        assert new.duplicates == [("in/a.jsonl:1", "in/b.jsonl:1")]
        assert new.pool.metadata([0]) == [{}]

    def test_a_file_that_is_already_in_is_not_read_again(self, importing):
        old = importing({"a.jsonl": [*ROWS, ROWS[0]]})
        new = importing({"a.jsonl": [*ROWS, ROWS[0]]}, previous=old)
        assert new.stats == old.stats
        assert (new.path / "examples.parquet").read_bytes() == (old.path / "examples.parquet").read_bytes()

    def test_a_file_that_grew_adds_its_new_rows_and_no_duplicates(self, importing):
        new = importing({"a.jsonl": ROWS[:30]}, previous=importing({"a.jsonl": ROWS[:20]}))
        assert (new.stats.examples, new.duplicates) == (30, [])

    def test_alternatives_metadata_and_sources_survive(self, importing):
        old = importing({"a.jsonl": [{**ROWS[0], "task": "sums", "level": 3}]})
        pool = importing(
            {"a.jsonl": [{**ROWS[0], "task": "sums", "level": 3}], "b.jsonl": [ROWS[1]]}, previous=old
        ).pool
        row = pool.ids.tolist().index(old.pool.ids[0])
        assert pool.alternatives([row]) == [["0"]]
        assert pool.metadata([row]) == [{"level": 3, "task": "sums"}]
        assert pool.sources[row] == "sums"


class TestReading:
    @pytest.fixture
    def pool(self, importing, monkeypatch) -> Pool:
        monkeypatch.setattr(spill, "ROW_GROUP", 7)  # many row groups, as a large pool has
        return importing({"a.jsonl": [*ROWS, {"question": "Who?", "answer": None}]}).pool

    def test_rows_come_in_the_order_asked_for_and_may_repeat(self, pool):
        everything = list(pool.iter_messages())
        asked = [50, 3, 3, 20, 0]
        assert pool.messages(asked) == [everything[row] for row in asked]
        assert list(pool.texts(asked)) == ["\n".join(m["content"] for m in everything[row]) for row in asked]

    def test_the_prompt_is_the_text_without_the_response(self, pool):
        rows = np.arange(len(pool))
        for prompt, messages in zip(pool.texts(rows, part="prompt"), pool.iter_messages(), strict=True):
            assert prompt == messages[0]["content"]

    def test_texts_slice_and_measure_themselves(self, pool):
        texts = pool.texts(np.arange(len(pool)))
        assert list(texts[5:9]) == [texts[row] for row in range(5, 9)]
        assert texts.lengths().tolist() == [len(text) for text in texts]

    def test_flags_sources_and_origins_line_up(self, pool):
        assert len(pool) == len(pool.labelled) == len(pool.sources) == len(pool.ids) == 61
        (unlabelled,) = np.flatnonzero(~pool.labelled)
        assert pool.origin([unlabelled]) == ["in/a.jsonl:61"]
        assert pool.alternatives([unlabelled]) == [[]]

    def test_no_rows_are_no_rows(self, pool):
        assert (pool.messages([]), list(pool.texts([])), pool.metadata([])) == ([], [], [])

    @pytest.mark.parametrize("rows", [[61], [-1], [0, 99]])
    def test_a_row_outside_the_pool_is_an_error(self, pool, rows):
        with pytest.raises(IndexError, match=r"0\.\.60"):
            pool.messages(rows)

    def test_a_folder_without_a_pool_is_an_error(self, tmp_path):
        with pytest.raises(RunStateError, match="not a pool"):
            Pool.open(tmp_path)

    def test_a_damaged_pool_is_an_error(self, tmp_path):
        (tmp_path / "examples.parquet").write_bytes(b"PAR1 and no more")
        with pytest.raises(RunStateError, match="damaged"):
            Pool.open(tmp_path)


def test_nothing_but_the_files_of_a_pool_stays(importing):
    imported = importing({"a.jsonl": ROWS})
    assert {path.name for path in imported.path.iterdir()} == {
        "answered.npy",
        "examples.parquet",
        "quarantine.parquet",
        "duplicates.parquet",
        "pool.json",
    }


def test_an_import_that_fails_leaves_no_pool(importing, tmp_path):
    with pytest.raises(DataError):
        importing({"a.jsonl": [ROWS[0], {"ask": "?"}]}, strict=True)
    assert list((tmp_path / "pool-1").iterdir()) == []


def test_the_schema_on_disk(importing):
    import pyarrow.parquet as pq

    schema = pq.read_schema(importing({"a.jsonl": ROWS}).path / "examples.parquet")
    assert schema.names == ["id", "source", "messages", "alternatives", "labelled", "origin", "metadata"]
    assert schema.field("messages").type == pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
