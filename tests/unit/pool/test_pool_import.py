"""What an import keeps: one example per content, the same whatever the order, and everything of earlier versions."""

from __future__ import annotations

import json
import random
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al.errors import DataError, RunStateError
from al.pool import quarantine, spill, tables
from al.pool.store import Pool

ROWS = [{"question": f"What is {number}?", "answer": [f"It is {number}.", str(number)]} for number in range(60)]

EVERY_CHARACTER = "".join(chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000)
"""Save those beyond 16 bits, NUL, and halves of surrogate pairs."""


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

    @pytest.mark.parametrize(
        "question", ["plain", "Zwölf große 日本語 🎉\u2028", EVERY_CHARACTER], ids=["plain", "words", "all"]
    )
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

    def test_the_counts_of_a_file_are_those_of_its_newest_reading(self, importing):
        broken = [*ROWS[:10], {"ask": "?"}, ROWS[0], {"messages": []}]
        old = importing({"a.jsonl": broken, "b.jsonl": ROWS[5:12]})
        corrected = [*ROWS[:10], ROWS[20], ROWS[0], {"prompt": "p", "completion": "c"}]
        new = importing({"a.jsonl": corrected, "b.jsonl": ROWS[5:12]}, previous=old)
        assert [(file["file"], file["rows"], file["quarantined"]) for file in new.stats.files] == [
            ("in/a.jsonl", 13, 0),
            ("in/b.jsonl", 7, 0),
        ]
        assert new.refused == []
        assert new.stats.formats == {"prompt_completion": 1, "question_answer": 19}
        assert new.stats.rows == 20 == new.stats.examples + new.stats.duplicates
        assert new.duplicates == importing({"a.jsonl": corrected, "b.jsonl": ROWS[5:12]}).duplicates

    def test_duplicates_that_were_taken_out_of_a_file_are_forgotten(self, importing):
        old = importing({"a.jsonl": [ROWS[0], ROWS[0]], "b.jsonl": [ROWS[1], ROWS[1]]})
        new = importing({"a.jsonl": ROWS[:1], "b.jsonl": [ROWS[1], ROWS[1]]}, previous=old)
        assert new.duplicates == [("in/b.jsonl:2", "in/b.jsonl:1")]

    def test_rows_that_moved_in_their_file_are_no_duplicates_and_have_their_new_origin(self, importing):
        old = importing({"a.jsonl": ROWS[:3]})
        new = importing({"a.jsonl": [ROWS[9], *ROWS[:3], ROWS[1]]}, previous=old)
        assert new.duplicates == [("in/a.jsonl:5", "in/a.jsonl:3")]
        assert sorted(new.pool.origin(range(4))) == [f"in/a.jsonl:{line}" for line in (1, 2, 3, 4)]

    def test_a_duplicate_in_another_file_names_the_current_origin_of_its_example(self, importing):
        old = importing({"a.jsonl": ROWS[:3], "b.jsonl": [ROWS[1]]})
        new = importing({"a.jsonl": [ROWS[9], *ROWS[:3]], "b.jsonl": [ROWS[1]]}, previous=old)
        assert new.duplicates == [("in/b.jsonl:1", "in/a.jsonl:3")]

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
        monkeypatch.setattr(tables, "ROW_GROUP", 7)  # many row groups, as a large pool has
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

    def test_the_response_is_the_last_answer_or_nothing(self, pool):
        found = list(pool.texts(np.arange(len(pool)), part="response"))
        for text, messages, labelled in zip(found, pool.iter_messages(), pool.labelled, strict=True):
            assert text == (messages[-1]["content"] if labelled else "")
        assert "" in found and len(set(found)) > 3

    def test_parts_of_conversations_of_several_turns(self, importing):
        turns = [
            ("system", "Be brief."),
            ("user", "Où?"),
            ("assistant", "Là."),
            ("user", "And\nthen?"),
            ("assistant", "Home 🏠."),
        ]
        spoken = [turns, turns[:4], turns[1:3], turns[:2]]
        rows = [{"messages": [{"role": role, "content": text} for role, text in said]} for said in spoken]
        pool = importing({"turns.jsonl": rows}).pool
        for row, messages in enumerate(pool.iter_messages()):
            said = [message["content"] for message in messages]
            answered = messages[-1]["role"] == "assistant"
            expected = {
                "conversation": said,
                "prompt": said[:-1] if answered else said,
                "response": said[-1:] if answered else [],
            }
            parts = {part: pool.texts([row], part=part)[0] for part in expected}
            assert parts == {part: "\n".join(lines) for part, lines in expected.items()}
        assert 0 < pool.labelled.sum() < len(pool)

    def test_texts_slice_and_measure_themselves(self, pool):
        texts = pool.texts(np.arange(len(pool)))
        assert list(texts[5:9]) == [texts[row] for row in range(5, 9)]
        assert texts.lengths().tolist() == [len(text) for text in texts]
        assert texts.holding("WHO?").tolist() == ["who?" in text.lower() for text in texts]

    def test_texts_in_order_read_each_row_group_once_and_keep_one(self, pool, monkeypatch):
        read, plain = [], Pool.group_messages
        monkeypatch.setattr(Pool, "group_messages", lambda self, group: read.append(group) or plain(self, group))
        texts = pool.texts(np.arange(3, 40, 2))
        assert len(list(texts)) == 19 and read == [0, 1, 2, 3, 4, 5]
        assert [texts[i] for i in range(19)] == list(texts[:]) and read == 3 * [0, 1, 2, 3, 4, 5]

    def test_held_texts_are_those_that_are_read(self, pool):
        asked = [50, 3, 3, 20, 0]
        held, texts = pool.texts(asked).held(), pool.texts(asked)
        assert list(held) == list(texts) == [held[i] for i in range(5)] and list(held[1:3]) == list(texts[1:3])
        assert held.lengths().tolist() == texts.lengths().tolist() and list(pool.texts([]).held()) == []

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
        with pytest.raises(IndexError, match=r"0\.\.60"):
            pool.texts(rows)

    def test_a_folder_without_a_pool_is_an_error(self, tmp_path):
        with pytest.raises(RunStateError, match="not a pool"):
            Pool.open(tmp_path)

    def test_a_damaged_pool_is_an_error(self, tmp_path):
        (tmp_path / "examples.parquet").write_bytes(b"PAR1 and no more")
        with pytest.raises(RunStateError, match="damaged"):
            Pool.open(tmp_path)


class TestMemory:
    def test_bad_rows_go_to_the_disk_while_they_are_read(self, importing, monkeypatch):
        monkeypatch.setattr(quarantine, "_BUFFERED", 7)
        imported = importing({"a.jsonl": [ROWS[0], *[{"ask": number} for number in range(100)]]})
        assert imported.refused == [(f"in/a.jsonl:{line}", "unknown_format") for line in range(2, 102)]

    def test_row_groups_are_cut_by_size_too_and_do_not_depend_on_how_rows_came(self, importing, monkeypatch):
        monkeypatch.setattr(tables, "ROW_GROUP_BYTES", 2000)
        rows = [{"question": f"{number} " + "x" * (number * 37 % 900), "answer": "y"} for number in range(60)]
        whole = importing({"a.jsonl": rows})
        monkeypatch.setattr(spill, "RANGE_ROWS", 4)
        assert (importing({"a.jsonl": rows}).path / "examples.parquet").read_bytes() == (
            whole.path / "examples.parquet"
        ).read_bytes()
        groups = pq.read_metadata(whole.path / "examples.parquet")
        assert (
            groups.num_row_groups > 8 and sum(groups.row_group(i).num_rows for i in range(groups.num_row_groups)) == 60
        )

    def test_rows_on_one_line_of_an_array_have_places_of_their_own(self, importing):
        imported = importing({"a.json": json.dumps([*ROWS[:2], ROWS[0], ROWS[0]])})
        assert sorted(imported.pool.origin([0, 1])) == ["in/a.json:1", "in/a.json:1#2"]
        assert imported.duplicates == [("in/a.json:1#3", "in/a.json:1"), ("in/a.json:1#4", "in/a.json:1")]


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
    assert schema.names == ["id", "source", "messages", "alternatives", "labelled", "origin", "metadata", "unlearned"]
    assert schema.field("messages").type == pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
