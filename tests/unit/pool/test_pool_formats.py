"""Every row format keeps one contract. A format without a case here fails the first test."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest

from al.config.pool import FormatName
from al.pool.formats import FORMATS, detect

ASKED = [("user", "Say A."), ("assistant", "A")]
IN_CONTEXT = [("user", "Say it.\n\nA"), ("assistant", "A")]
DEFINED = [
    ("user", "Definition: Say it.\n\nNow complete the following example -\nInput: A\nOutput:"),
    ("assistant", "A"),
]


def said(*turns: tuple[str, str], role: str = "role", content: str = "content") -> list[dict[str, str]]:
    return [{role: who, content: what} for who, what in turns]


@dataclass(frozen=True)
class Case:
    """Rows of one format: a whole one with what becomes of it, others that lack something."""

    row: dict[str, Any]
    turns: list[tuple[str, str]]
    unlabelled: dict[str, Any] | None  # None where such a row is refused
    missing: dict[str, Any]
    reason: str = "missing_field"
    several: dict[str, Any] = field(default_factory=dict)  # with answers A and B, where the format knows alternatives
    metadata: dict[str, Any] = field(default_factory=dict)  # besides the fields that are no part of the format
    adjusted: dict[str, int] = field(default_factory=dict)


CASES = {
    "labelling": Case(
        {"messages": said(("user", "Say A.")), "response": "A", "suggestion": "B"},
        ASKED,
        None,
        {"messages": None, "response": "A", "suggestion": "B"},
        "wrong_type",
    ),
    "preference": Case(
        {"prompt": "Say A.", "chosen": "A", "rejected": "B"},
        ASKED,
        {"prompt": "Say A.", "chosen": "", "rejected": "B"},
        {"prompt": "Say A.", "chosen": {}, "rejected": "B"},
        "wrong_type",
        metadata={"rejected": "B"},
        adjusted={"rejected_set_aside": 1},
    ),
    "messages": Case(
        {"messages": said(("system", "Be brief."), *ASKED)},
        [("system", "Be brief."), *ASKED],
        {"messages": said(("user", "Say A."))},
        {"messages": None},
        "wrong_type",
    ),
    "sharegpt": Case(
        {"system": "Be brief.", "conversations": said(("human", "Say A."), ("gpt", "A"), role="from", content="value")},
        [("system", "Be brief."), *ASKED],
        {"conversations": said(("human", "Say A."), role="from", content="value")},
        {"conversations": [{"from": "human"}]},
        "wrong_type",
    ),
    "ultrachat": Case(
        {"id": "1", "data": ["Say A.", "A"]},
        ASKED,
        {"id": "1", "data": ["Say A."]},
        {"id": "1", "data": ["Say A.", None]},
        "wrong_type",
        metadata={"id": "1"},
    ),
    "self_instruct": Case(
        {"instruction": "Say it.", "instances": [{"input": "A", "output": "A"}]},
        IN_CONTEXT,
        {"instruction": "Say it.", "instances": [{"input": "A", "output": ""}]},
        {"instances": [{"input": "A", "output": "A"}]},
        several={"instruction": "Say it.", "instances": [{"input": "A", "output": ["A", "B"]}]},
    ),
    "natural_instructions": Case(
        {"definition": "Say it.", "inputs": "A", "targets": "A"},
        DEFINED,
        {"definition": "Say it.", "inputs": "A", "targets": ""},
        {"definition": "Say it.", "inputs": None, "targets": "A"},
        several={"definition": "Say it.", "inputs": "A", "targets": ["A", "B"]},
    ),
    "dolly": Case(
        {"instruction": "Say it.", "context": "A", "response": "A"},
        IN_CONTEXT,
        {"instruction": "Say it.", "context": "A", "response": ""},
        {"instruction": None, "context": "A", "response": "A"},
        several={"instruction": "Say it.", "context": "A", "response": ["A", "B"]},
    ),
    "alpaca": Case(
        {"instruction": "Say it.", "input": "A", "output": "A"},
        IN_CONTEXT,
        {"instruction": "Say it.", "input": "A"},
        {"instruction": None, "input": "", "output": "A"},
        several={"instruction": "Say it.", "input": "A", "output": ["A", "B"]},
    ),
    "multiple_choice": Case(
        {"question": "Which?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "A"},
        [("user", "Which?\n\nA. one\nB. two"), ("assistant", "A")],
        {"question": "Which?", "choices": ["one", "two"], "answer": -1},
        {"question": "Which?", "choices": None, "answer": 0},
        "wrong_type",
    ),
    "evals": Case(
        {"input": said(("user", "Say A.")), "ideal": "A"},
        ASKED,
        {"input": said(("user", "Say A.")), "ideal": None},
        {"input": said(("user", "Say A."))},
        several={"input": "Say A.", "ideal": ["A", "B"]},
    ),
    "input_target": Case(
        {"input": "Say A.", "target": "A"},
        ASKED,
        {"input": "Say A.", "target": None},
        {"input": None, "target": "A"},
        several={"input": "Say A.", "target": ["A", "B"]},
    ),
    "prompt_completion": Case(
        {"prompt": "Say A.", "completion": "A"},
        ASKED,
        {"prompt": "Say A."},
        {"prompt": None, "completion": "A"},
        several={"prompt": "Say A.", "completion": ["A", "B"]},
    ),
    "squad": Case(
        {"context": "It is A.", "question": "What is it?", "answers": {"text": ["A"], "answer_start": [6]}},
        [("user", "It is A.\n\nWhat is it?"), ("assistant", "A")],
        {"context": "It is A.", "question": "What is it?", "answers": {"text": [], "answer_start": []}},
        {"context": None, "question": "What is it?", "answers": {"text": ["A"]}},
        several={"context": "It is A.", "question": "What is it?", "answers": {"text": ["A", "B", "A"]}},
    ),
    "question_answer": Case(
        {"question": "Say A.", "answer": "A"},
        ASKED,
        {"question": "Say A.", "answer": None},
        {"question": None, "answer": "A"},
        several={"question": "Say A.", "answer": ["A", "B"]},
    ),
    "flan": Case(
        {"inputs": "Say A.", "targets": "A"},
        ASKED,
        {"inputs": "Say A.", "targets": None},
        {"inputs": None, "targets": "A"},
        several={"inputs": "Say A.", "targets": ["A", "B"]},
    ),
}
# Formats that need more than one row, or more than a row, and the files that test them.
ELSEWHERE = {
    "exported": "test_pool_export.py",
    "oasst": "test_pool_trees.py",
    "oasst_tree": "test_pool_trees.py",
    "text": "test_pool_text_template.py",
}
every_format = pytest.mark.parametrize("name", CASES)
with_alternatives = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.several])


def test_every_format_has_a_case_and_can_be_named_in_the_config():
    assert set(FORMATS) == set(CASES) | set(ELSEWHERE)
    assert [file for file in ELSEWHERE.values() if not (Path(__file__).parent / file).exists()] == []
    assert {"auto", *FORMATS} == set(get_args(FormatName))


@every_format
def test_a_format_is_recognised_by_its_field_names(name):
    assert detect(CASES[name].row) == name


@every_format
@pytest.mark.parametrize("asked", ["auto", "by name"])
def test_a_row_becomes_canonical_messages(importing, name, asked):
    imported = importing({"a.jsonl": [CASES[name].row]}, format="auto" if asked == "auto" else name)
    assert imported.only == CASES[name].turns
    assert imported.stats.formats == {name: 1}
    assert imported.stats.adjusted == CASES[name].adjusted
    assert imported.pool.labelled.tolist() == [True]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.unlabelled])
def test_a_row_without_a_response_is_unlabelled(importing, name):
    imported = importing({"a.jsonl": [CASES[name].unlabelled]})
    assert imported.only == [turn for turn in CASES[name].turns if turn[0] == "user"]
    assert (imported.stats.labelled, imported.stats.unlabelled) == (0, 1)


@every_format
def test_a_row_without_a_needed_field_is_quarantined_with_file_and_line(importing, good, name):
    imported = importing({"a.jsonl": [good, CASES[name].missing]})
    assert imported.refused == [("in/a.jsonl:2", CASES[name].reason)]
    assert imported.stats.examples == 1


@with_alternatives
def test_the_first_answer_is_the_response_and_the_others_are_kept(importing, name):
    imported = importing({"a.jsonl": [CASES[name].several]})
    assert imported.only[-1] == ("assistant", "A")
    assert imported.pool.alternatives([0]) == [["B"]]


@pytest.mark.parametrize("response", ["", " \n", None])
def test_a_prompt_that_was_handed_out_and_not_answered_is_quarantined(importing, good, response):
    asked = {"messages": said(("user", "Say A.")), "response": response, "suggestion": "B"}
    imported = importing({"a.jsonl": [good, asked]})
    assert imported.refused == [("in/a.jsonl:2", "not_filled_in")] and imported.stats.examples == 1


def test_a_prompt_that_was_handed_out_ends_with_what_is_to_be_answered(importing, good):
    imported = importing({"a.jsonl": [good, {"messages": said(*ASKED), "response": "A", "suggestion": "B"}]})
    assert imported.refused == [("in/a.jsonl:2", "no_prompt")]


def test_why_a_prompt_was_handed_out_is_no_metadata_of_its_example(importing):
    why = {"id": "0" * 16, "entropy": 1.5, "disagreement": None, "cluster": 3, "reason": "number 1", "source": "tasks"}
    imported = importing({"a.jsonl": [{**CASES["labelling"].row, **why}]})
    assert imported.pool.metadata([0]) == [{"source": "tasks"}] and imported.pool.sources.tolist() == ["tasks"]


@every_format
def test_other_fields_are_metadata(importing, name):
    imported = importing({"a.jsonl": [{**CASES[name].row, "licence": "MIT"}]})
    assert imported.pool.metadata([0]) == [{"licence": "MIT"} | CASES[name].metadata]


@every_format
def test_a_format_uses_only_fields_that_it_declares(name):
    row = {**CASES[name].row, "system": "Be brief.", "context": "It is A.", "licence": "MIT"}
    examples = FORMATS[name].convert(row)
    assert row.keys() & set(examples[0].used) == row.keys() & FORMATS[name].uses - {"rejected"}


def test_a_forced_format_refuses_rows_of_another(importing, good):
    imported = importing({"a.jsonl": [good, {"prompt": "Say A.", "completion": "A"}]}, format="question_answer")
    assert imported.refused == [("in/a.jsonl:2", "missing_field")]


def test_the_answers_to_a_question_may_be_a_list_of_that_name(importing):
    imported = importing({"a.jsonl": [{"question": "Say A.", "answers": ["A", "B"]}]})
    assert (imported.only, imported.pool.alternatives([0])) == (ASKED, [["B"]])


def test_bare_strings_of_a_conversation_alternate(importing):
    assert importing({"a.jsonl": [{"conversations": ["Say A.", "A"]}]}).only == ASKED


def test_a_row_with_several_instances_becomes_several_examples(importing):
    row = {"instruction": "Say it.", "instances": [{"input": "A", "output": "A"}, {"input": "B", "output": "B"}]}
    imported = importing({"a.jsonl": [row]})
    assert sorted(imported.pool.origin([0, 1])) == ["in/a.jsonl:1", "in/a.jsonl:1#2"]


def test_the_speaker_name_of_a_few_shot_message_decides_its_role(importing):
    shown = [
        {"role": "system", "name": "example_user", "content": "Say B."},
        {"role": "system", "name": "example_assistant", "content": "B"},
    ]
    imported = importing({"a.jsonl": [{"input": [*shown, {"role": "user", "content": "Say A."}], "ideal": "A"}]})
    assert imported.only == [("user", "Say B."), ("assistant", "B"), *ASKED]


@pytest.mark.parametrize("name", [["x"], {"x": 1}, 7, None])
def test_a_speaker_name_of_any_type_is_ignored(importing, name):
    assert (
        importing({"a.jsonl": [{"messages": [{"role": "user", "content": "Say A.", "name": name}]}]}).only == ASKED[:1]
    )


class TestCanonicalForm:
    def test_neighbouring_messages_of_one_role_are_joined(self, importing):
        imported = importing({"a.jsonl": [{"messages": said(("user", "Say"), ("user", "A."), ("assistant", "A"))}]})
        assert imported.only == [("user", "Say\n\nA."), ("assistant", "A")]
        assert imported.stats.adjusted == {"merged_turns": 1}

    def test_a_system_message_in_the_middle_becomes_a_user_message(self, importing):
        imported = importing({"a.jsonl": [{"messages": said(*ASKED, ("system", "Louder."), ("assistant", "AA"))}]})
        assert imported.only == [*ASKED, ("user", "Louder."), ("assistant", "AA")]
        assert imported.stats.adjusted == {"system_as_user": 1}

    def test_a_system_message_alone_is_the_question(self, importing):
        assert importing({"a.jsonl": [{"input": said(("system", "Say A.")), "ideal": "A"}]}).only == ASKED

    def test_numbers_and_booleans_as_answers_are_written_out(self, importing):
        rows = [{"question": "How many?", "answer": 4}, {"question": "Is it?", "answer": True}]
        assert {turns[-1][1] for turns in importing({"a.jsonl": rows}).conversations} == {"4", "True"}

    @pytest.mark.parametrize(
        ("messages", "reason"),
        [
            ([], "no_prompt"),
            (said(("assistant", "A")), "no_prompt"),
            (said(("user", "  ")), "empty_field"),
            (said(("user", "Say A."), ("assistant", ""), ("user", "Again.")), "empty_field"),
            (said(("narrator", "Say A.")), "unknown_role"),
            (said(("user", ["Say A."])), "wrong_type"),
            (["Say A."], "wrong_type"),
            ("Say A.", "wrong_type"),
        ],
    )
    def test_a_conversation_that_no_template_accepts_is_quarantined(self, importing, good, messages, reason):
        assert importing({"a.jsonl": [good, {"messages": messages}]}).refused == [("in/a.jsonl:2", reason)]


class TestSourceNames:
    def test_the_source_is_the_file_name_unless_the_row_names_one(self, importing, good):
        imported = importing({"a.jsonl": [good], "b.jsonl": [{"question": "Who?", "answer": "I.", "task": "names"}]})
        assert imported.stats.sources == {"a": 1, "names": 1}

    def test_a_named_field_decides(self, importing, good):
        assert importing({"a.jsonl": [{**good, "task": "x", "kind": "sums"}]}, source_field="kind").stats.sources == {
            "sums": 1
        }

    def test_files_of_one_name_get_their_folder_in_the_label(self, importing, good):
        imported = importing({"x/samples.jsonl": [good], "y/samples.jsonl": [{"question": "Who?", "answer": "I."}]})
        assert imported.stats.sources == {"x/samples": 1, "y/samples": 1}
