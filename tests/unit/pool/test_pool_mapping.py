"""`pool.map` and `--map`: which of the user's fields is which."""

from __future__ import annotations

import pytest

from al.config.pool import PoolConfig
from al.errors import ConfigError
from al.pool.formats import RowError
from al.pool.identity import describe_sources
from al.pool.mapping import FieldMap, parse_map
from al.pool.sources import find_sources

ROW = {"q": "Say A.", "a": "A", "kind": "x"}
ASKED = [("user", "Say A."), ("assistant", "A")]


def test_mapped_fields_make_the_conversation_and_the_others_are_metadata(importing):
    imported = importing({"a.jsonl": [ROW]}, map={"instruction": "q", "output": "a"})
    assert imported.only == ASKED
    assert imported.stats.formats == {"alpaca": 1}
    assert imported.pool.metadata([0]) == [{"kind": "x"}]


@pytest.mark.parametrize(
    "mapping",
    [{"question": "q", "answer": "a"}, {"prompt": "q", "completion": "a"}, {"inputs": "q", "targets": "a"}],
)
def test_names_of_any_format_may_be_mapped_onto(importing, mapping):
    assert importing({"a.jsonl": [ROW]}, map=mapping).only == ASKED


def test_a_conversation_may_be_mapped(importing):
    row = {"log": [{"role": "user", "content": "Say A."}, {"role": "assistant", "content": "A"}]}
    assert importing({"a.jsonl": [row]}, map={"messages": "log"}).only == ASKED


def test_a_text_made_of_fields_may_hold_commas_and_braces(importing):
    mapping = {"question": "{{Read}}, then answer.\n{d.text}\n{q}", "answer": "{a}!"}
    imported = importing({"a.jsonl": [{**ROW, "d": {"text": "It is A."}}]}, map=mapping)
    assert imported.only == [("user", "{Read}, then answer.\nIt is A.\nSay A."), ("assistant", "A!")]


def test_paths_lead_into_objects_and_lists(importing):
    row = {"task": {"ask": "Say A."}, "answers": [{"text": "B"}, {"text": "A"}]}
    imported = importing({"a.jsonl": [row]}, map={"question": "task.ask", "answer": "answers.1.text"})
    assert imported.only == ASKED and imported.pool.metadata([0]) == [{}]


def test_a_field_whose_name_has_a_dot_is_taken_first():
    assert FieldMap([("question", "a.b")]).apply({"a.b": "this", "a": {"b": "that"}}) == (
        {"question": "this"},
        {"a": {"b": "that"}},
    )


def test_what_is_not_mapped_does_not_speak(importing):
    row = {"q": "Say A.", "a": "A", "messages": [{"role": "user", "content": "Not this."}], "response": "Not this."}
    assert importing({"a.jsonl": [row]}, map={"prompt": "q", "completion": "a"}).only == ASKED


def test_a_mapped_field_names_the_source(importing):
    imported = importing({"a.jsonl": [ROW]}, map={"question": "q", "answer": "a", "source": "kind"})
    assert imported.stats.sources == {"x": 1}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"question": "q", "answer": "b"}, "b: missing; pool.map needs it for `answer`"),
        ({"question": "{q} {b}", "answer": "a"}, "b: missing; pool.map needs it for `question`"),
        ({"question": "q.x", "answer": "a"}, "q.x: missing"),
        ({"question": "{none}", "answer": "a"}, "none: null"),
    ],
)
def test_a_row_without_a_mapped_field_is_quarantined_and_names_it(importing, mapping, message):
    whole = (
        {"q": {"x": "Say B."}, "b": "B", "a": "A", "none": "n"}
        if "q.x" in mapping.values()
        else {**ROW, "b": "B", "none": "n"}
    )
    imported = importing({"a.jsonl": [whole, {**ROW, "none": None}]}, map=mapping)
    (row,) = imported.quarantine
    assert (row["line"], row["reason"]) == (2, "missing_field") and message in row["message"]


def test_null_in_a_plain_field_is_no_response(importing):
    imported = importing({"a.jsonl": [{"q": "Say A.", "a": None}]}, map={"question": "q", "answer": "a"})
    assert imported.stats.unlabelled == 1


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"instrucion": "q"}, "did you mean `instruction` for `instrucion`"),
        ({"question": "{q"}, "pool.map: question: "),
        ({"question": "{}"}, "expected the name of a field in each pair of braces"),
        ({"question": "{q!r}"}, "expected the name of a field"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_before_anything_is_read(importing, mapping, message):
    with pytest.raises(ConfigError, match=message):
        importing({"a.jsonl": [ROW]}, map=mapping)


@pytest.mark.parametrize(
    ("given", "mapping"),
    [
        (["instruction=q,output=a"], {"instruction": "q", "output": "a"}),
        (["instruction=q", "output=a"], {"instruction": "q", "output": "a"}),
        (["question={a}, then {b}", "answer=c"], {"question": "{a}, then {b}", "answer": "c"}),
        (["question=x=1: {a},answer=c"], {"question": "x=1: {a}", "answer": "c"}),
        ([], {}),
    ],
)
def test_the_flag_takes_pairs_between_commas_or_one_by_one(given, mapping):
    assert parse_map(given) == mapping


@pytest.mark.parametrize("given", ["instruction", "=q", "instruction=", "a b=c"])
def test_a_flag_that_is_no_pair_is_an_error_that_shows_one(given):
    with pytest.raises(ConfigError, match="--map"):
        parse_map([given])


def test_another_mapping_is_another_pool_and_none_leaves_its_description_as_it_was(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "Say A.", "a": "A"}')

    def described(**config):
        return describe_sources(find_sources(PoolConfig(files=[str(tmp_path / "a.jsonl")], **config)))[0]

    plain = described()
    assert set(plain) == {"label", "format", "source_field", "sha256"}
    assert described(map={"question": "q"}) == {**plain, "map": {"question": "q"}}
    assert described(text_template="Q{user}A{assistant}") == {**plain, "text_template": "Q{user}A{assistant}"}


def test_a_file_is_read_again_with_another_mapping(importing):
    files = {"a.jsonl": [{"q": "Say A.", "a": "A", "b": "B"}]}
    first = importing(files, map={"question": "q", "answer": "a"})
    second = importing(files, previous=first, map={"question": "q", "answer": "b"})
    assert sorted(turns[-1][1] for turns in second.conversations) == ["A", "B"]


def test_a_missing_field_is_a_row_error():
    with pytest.raises(RowError, match="b: missing"):
        FieldMap([("question", "b")]).apply({"a": 1})
