"""What a row says is in the conversation, is listed as left over, or is refused with a count. Nothing disappears."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al.commands.pool import describe_pool
from al.errors import ConfigError, DataError
from al.pool.convert import Converter, Record
from al.pool.formats import FORMATS, RowError
from al.pool.formats.leftovers import EXAMINED, Leftovers, listed_leftovers
from al.pool.sources import make_sources

SOURCE = make_sources(["a.jsonl"])[0]
NOTE = "Planted by hand in the spring of {} near the old mill"
ASKED = {"question": "Which tree stands there?", "answer": "An oak."}


def rows(count: int = 20, **fields: str) -> list[dict[str, Any]]:
    """Questions with other fields; {} in a field's text becomes the row's number."""
    made = {name: [text.format(number) for number in range(count)] for name, text in fields.items()}
    return [
        {
            **ASKED,
            "question": f"Which tree is number {number}?",
            **{name: texts[number] for name, texts in made.items()},
        }
        for number in range(count)
    ]


def left(imported) -> list[tuple[str, int, bool]]:
    """(field, rows, looks like content) of the left-over fields."""
    return [(entry["field"], entry["rows"], entry["content"]) for entry in listed_leftovers(imported.pool.stats)]


def test_a_field_that_reads_like_content_stops_the_import_and_the_ways_out_are_named(importing):
    with pytest.raises(
        DataError, match=r"`remark` in 20 rows.*Planted by.*--map.*--ignore remark.*pool\.leftover: warn"
    ):
        importing({"a.jsonl": rows(remark=NOTE)})


def test_trap_42_an_unused_column_that_is_half_of_the_question_is_not_lost(importing):
    with pytest.raises(DataError, match="`options`"):
        importing({"a.jsonl": [{"instruction": "Pick one.", "output": "A", "options": ["oak", "elm"]}]})


@pytest.mark.parametrize("way", [{"ignore": ["remark"]}, {"leftover": "warn"}])
def test_a_field_that_is_ignored_or_only_warned_of_is_metadata_and_listed(importing, way):
    imported = importing({"a.jsonl": rows(remark=NOTE)}, **way)
    assert left(imported) == [("remark", 20, True)]
    assert all(metadata["remark"].startswith("Planted") for metadata in imported.pool.metadata(range(20)))


def test_a_mapped_field_is_part_of_the_conversation(importing):
    imported = importing(
        {"a.jsonl": rows(1, remark=NOTE)}, map={"question": "{remark}. {question}", "answer": "answer"}
    )
    assert imported.only[0] == ("user", f"{NOTE.format(0)}. Which tree is number 0?") and left(imported) == []


def test_what_is_left_out_of_a_map_is_listed_and_stops_nothing(importing):
    imported = importing({"a.jsonl": rows(remark=NOTE)}, map={"question": "question", "answer": "answer"})
    assert left(imported) == [("remark", 20, False)]


@pytest.mark.parametrize(
    "field",
    [
        {"grade": "B"},  # short
        {"species": "quercus_robur_the_common_oak_{}"},  # no spaces
        {"collection": "Trees of the northern valleys"},  # the same in every row
        {"answer_again": "An oak."},  # repeated in the conversation
        {"functions": "An oak."},  # the same under a name of content
        {"as_text": "Q: Which tree is number {}? A: An oak."},  # a rendered copy of it
    ],
)
def test_labels_and_copies_are_listed_and_stop_nothing(importing, field):
    imported = importing({"a.jsonl": rows(**field)})
    assert left(imported) == [(next(iter(field)), 20, False)]


def test_an_answered_export_of_label_brings_its_metadata_back(importing):
    asked = {"messages": [{"role": "user", "content": "Which tree?"}], "response": "An oak.", "suggestion": ""}
    assert left(importing({"a.jsonl": [{**asked, "remark": NOTE}]})) == [("remark", 1, False)]


def test_a_field_of_few_rows_stops_nothing(importing):
    few = rows(200)
    few[7]["remark"] = NOTE
    assert left(importing({"a.jsonl": few})) == [("remark", 1, False)]


def test_the_judgement_uses_the_first_values_and_the_count_all():
    leftovers = Leftovers()
    for number in range(EXAMINED + 10):
        row = {"note": "always the very same words" if number < EXAMINED else NOTE.format(number)}
        leftovers.add("question_answer", row, (), [[("user", "Which?"), ("assistant", "An oak.")]])
    (entry,) = leftovers.listed({"question_answer": EXAMINED + 10})
    assert (entry["rows"], entry["share"], entry["content"]) == (EXAMINED + 10, 1.0, False)


def test_import_lists_what_is_left_out_with_share_and_example(importing):
    document = {**importing({"a.jsonl": rows(4, grade="B{}")}).pool.stats, "version": 1, "run": "r", "added": True}
    assert "in/a.jsonl: grade (question_answer), 4 rows (100%), for example 'B0'" in describe_pool(document)


def test_different_rows_that_become_one_example_are_no_exact_duplicates(importing):
    same, other = {**ASKED, "grade": "A"}, {**ASKED, "grade": "B"}
    stats = importing({"a.jsonl": [same, same, other]}).stats
    assert (stats.examples, stats.duplicates, stats.merged_after_conversion) == (1, 1, 1)


def test_rows_merged_after_conversion_stay_so_in_the_next_version(importing):
    first = importing({"a.jsonl": [ASKED, {**ASKED, "grade": "B"}]})
    second = importing({"b.jsonl": [ASKED]}, previous=first)
    assert (second.stats.duplicates, second.stats.merged_after_conversion) == (1, 1)


def test_a_mapped_field_that_the_format_does_not_use_is_an_error_before_anything_is_read(importing):
    with pytest.raises(
        ConfigError, match=r"pool\.map: the format flan, which has inputs, targets, does not use criterion"
    ):
        importing({"a.jsonl": "not read"}, map={"inputs": "q", "targets": "a", "criterion": "c"})


# The property: fields that each format uses, of any shape that it reads, with any other fields in addition.
words = st.integers(100, 10**9).map(lambda number: f"w{number}x")
extra = st.dictionaries(
    st.sampled_from(
        ["note", "system", "context", "passage", "history_of", "options", "title", "source", "response", "answer"]
    ),
    words,
    max_size=3,
)
messages = st.lists(
    st.fixed_dictionaries({"content": words}, optional={"name": words, "thought": words}), min_size=1, max_size=5
)


def alternating(contents: list[dict[str, str]], first: int = 0) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[(at + first) % 2], **message} for at, message in enumerate(contents)]


conversations = st.builds(alternating, messages, st.integers(0, 1))


def value_of(draw: st.DrawFn, format_name: str, field: str) -> Any:
    """A value that the format reads in this field."""
    special = {
        ("self_instruct", "instances"): st.lists(
            st.fixed_dictionaries({"input": words, "output": words}), min_size=1, max_size=2
        ),
        ("multiple_choice", "choices"): st.lists(words, min_size=2, max_size=3),
        ("multiple_choice", "answerKey"): st.sampled_from(["A", "B"]),
        ("squad", "answers"): st.fixed_dictionaries({"text": st.lists(words, max_size=2)}),
        ("ultrachat", "data"): st.lists(words, min_size=1, max_size=5),
        ("oasst_tree", "prompt"): st.fixed_dictionaries({"text": words, "role": st.just("prompter"), "model": words}),
        ("labelling", "messages"): st.builds(alternating, messages.filter(lambda found: len(found) % 2)),
    }
    if (format_name, field) in special:
        return draw(special[format_name, field])
    if field in ("messages", "conversations") or (format_name, field) == ("preference", "chosen"):
        return draw(conversations)
    return draw(st.just("prompter") if field == "role" else words)


def strings(value: Any) -> Iterator[str]:
    """Every string in a value, role and type tags aside."""
    if isinstance(value, str):
        yield value
    for key, item in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        if key not in ("role", "type"):
            yield from strings(item)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("text", "exported")])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_string_of_a_row_is_in_the_conversation_listed_or_refused(name, data):
    row = {field: value_of(data.draw, name, field) for field in FORMATS[name].expects} | data.draw(
        extra.map(lambda found: {key: value for key, value in found.items() if key not in FORMATS[name].expects})
    )
    if name == "oasst":
        row["parent_id"] = None
    converter = Converter(SOURCE)
    try:
        records = converter.convert(row)
        records += [found for _, found, _ in converter.finish() if isinstance(found, Record)]
    except RowError:
        return  # refused, and counted in quarantine
    listed = {entry["field"] for entry in converter.leftovers.listed(converter.formats)}
    kept = [json.loads(record.metadata) for record in records]
    assert all(
        listed >= {key for key, value in metadata.items() if any(strings(value))} - {"message_id", "message_tree_id"}
        for metadata in kept
    )
    said = "\n".join(text for record in records for text in (*(turn[1] for turn in record.turns), *record.alternatives))
    known = said + json.dumps(kept)
    # The suggestion of `label` is the model's own answer, which the person who filled the row in has seen and replaced.
    missing = [text for text in strings(row) if text not in known and text != row.get("suggestion")]
    assert missing == []
