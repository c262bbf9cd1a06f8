"""How a row's format is detected from its field names, and the message for a row without one."""

from __future__ import annotations

import pytest

from al.errors import DataError
from al.pool.formats import FORMATS, detect, recognise, unknown_row

ASKED = [("user", "Say A."), ("assistant", "A")]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"input": "", "output": "A", "instruction": "Say A.", "data_source": "x"}, "alpaca"),  # Open-Platypus
        ({"instruction": "Say A.", "response": "A"}, "alpaca"),
        ({"system_prompt": "", "question": "Say A.", "response": "A", "id": "1"}, "question_answer"),  # OpenOrca
        (
            {"query": "Say A.", "response": "A", "type": "x", "original_question": "?"},
            "prompt_completion",
        ),  # MetaMathQA
        (
            {"problem": "Say A.", "solution": "A", "answer": "7", "lang": "python"},
            "prompt_completion",
        ),  # Magicoder, NuminaMath
        ({"input": "Say A.", "answer": "A"}, "prompt_completion"),
        ({"inputs": "Say A.", "targets": "A", "task": "x"}, "flan"),
        (
            {"inputs": [7], "inputs_pretokenized": "Say A. ", "targets": [1], "targets_pretokenized": "\nA"},
            "flan",
        ),  # P3
        ({"Question": "Say A.", "Answer ": "A"}, "question_answer"),
        ({"INSTRUCTION": "Say A.", "OUTPUT": "A"}, "alpaca"),
    ],
)
def test_rows_of_well_known_sets_are_recognised(importing, row, name):
    imported = importing({"a.jsonl": [row]})
    assert (imported.only, imported.stats.formats) == (ASKED, {name: 1})


def test_nought_and_false_are_answers_where_another_field_is_empty(importing):
    assert importing({"a.jsonl": [{"prompt": "Say it.", "completion": "", "answer": 0}]}).only[-1] == ("assistant", "0")


def test_fields_that_had_to_be_renamed_are_counted(importing):
    assert importing({"a.csv": "Question,Answer\nSay A.,A\n"}).stats.adjusted == {"renamed_fields": 1}


def test_a_name_is_not_changed_into_one_that_is_taken():
    assert recognise(("Question", "question", "answer")) == ("question_answer", {})
    assert recognise(("Question", "QUESTION", "id")) == ("question_answer", {"Question": "question"})


@pytest.mark.parametrize("name", FORMATS)
def test_the_fields_that_a_format_expects_are_recognised_as_it(name):
    assert not FORMATS[name].expects or detect(FORMATS[name].expects) in (name, "natural_instructions")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["output", "data"], None),
        (["output", "q"], "looks like alpaca, but has no `instruction` and no `input`"),
        (["instructions", "output"], "no `instruction` (`instructions`?)"),
        (["chosen", "score"], "looks like preference, but has no `rejected`"),
        (["targets"], "looks like flan, but has no `inputs`"),
        (["x", "y"], "no known format has these; map the fields with --map"),
        ([], "fields none"),
    ],
)
def test_the_message_for_an_unknown_row_names_the_nearest_format_and_what_is_missing(names, message):
    assert detect(names) is not None if message is None else message in unknown_row(dict.fromkeys(names, 1))


def test_an_unknown_file_is_refused_with_the_way_to_map_it(importing):
    with pytest.raises(
        DataError,
        match=r"fields q \('Say A\.'\), a \('A'\): no known format has these; .*--map instruction=q,output=a.*docs/pools\.md",
    ):
        importing({"a.jsonl": [{"q": "Say A.", "a": "A"}]})


class TestMultipleChoice:
    @pytest.mark.parametrize(
        "row",
        [
            {"question": "Which?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "B"},
            {"question_stem": "Which?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "B"},
            {"question": "Which?", "choices": ["one", "two"], "answer": 1, "subject": "x"},
            {"question": "Which?", "choices": ["one", "two"], "answer": "two"},
        ],
    )
    def test_the_letter_is_the_response_and_its_text_is_accepted(self, importing, row):
        imported = importing({"a.jsonl": [row]})
        assert imported.only == [("user", "Which?\n\nA. one\nB. two"), ("assistant", "B")]
        assert imported.pool.alternatives([0]) == [["two", "B. two"]]

    def test_an_answer_in_other_words_is_the_response(self, importing):
        row = {"question": "Which?", "choices": ["one", "two"], "answer": "neither"}
        assert importing({"a.jsonl": [row]}).only[-1] == ("assistant", "neither")

    @pytest.mark.parametrize("answer", [2, True, 1.5])
    def test_an_answer_that_is_no_choice_is_quarantined(self, importing, good, answer):
        row = {"question": "Which?", "choices": ["one", "two"], "answer": answer}
        assert importing({"a.jsonl": [good, row]}).refused == [("in/a.jsonl:2", "wrong_type")]


class TestNaturalInstructions:
    TASK = {
        "Definition": ["Say it."],
        "Categories": ["Copying"],
        "Positive Examples": [{"input": "X", "output": "X", "explanation": ""}],
        "Negative Examples": [],
        "Instances": [{"id": "t-1", "input": "A", "output": ["A", "B"]}, {"id": "t-2", "input": "C", "output": ["C"]}],
    }

    def test_a_task_file_gives_an_example_per_instance(self, importing):
        imported = importing({"task1_copy.json": [self.TASK]})
        assert imported.stats.examples == 2 and imported.stats.sources == {"task1_copy": 2}
        row = [turns[-1][1] for turns in imported.conversations].index("A")
        assert imported.pool.alternatives([row]) == [["B"]]
        assert imported.pool.metadata([row]) == [{"Categories": ["Copying"], "id": "t-1"}]

    def test_its_worked_examples_are_counted_as_left_out(self, importing):
        assert importing({"a.json": [self.TASK]}).stats.adjusted == {"task_examples_left_out": 1}

    def test_the_hub_writes_the_same_examples(self, importing):
        rows = [{"definition": "Say it.", "inputs": text, "targets": text, "task_name": "copy"} for text in "AC"]
        hub, files = importing({"a.jsonl": rows}), importing({"a.json": [self.TASK]})
        assert hub.pool.ids.tolist() == files.pool.ids.tolist() and hub.stats.sources == {"copy": 2}

    @pytest.mark.parametrize("instances", [[], None, [7], [{"id": "t-1"}]])
    def test_a_task_without_usable_instances_is_quarantined(self, importing, good, instances):
        imported = importing({"a.jsonl": [good, {**self.TASK, "Instances": instances}]})
        assert imported.refused == [("in/a.jsonl:2", "wrong_type")]
