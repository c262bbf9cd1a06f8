"""Options are found in prompts as people write them, and each is spelled as the trained response is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al.evaluation.questions import judge_answers, options_of, read_question


def asked(prompt, *accepted, **metadata):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": accepted[0]}]
    return read_question(messages, accepted[1:], metadata)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("What boils?\n\nA. tea\nB. ice cream\nC. a stone", ("tea", "ice cream", "a stone")),
        ("What boils? (A) tea (B) ice", ("tea", "ice")),
        ("Which bound is it?  a) (2^n)-1  b) n-1  c) n", ("(2^n)-1", "n-1", "n")),
        ("Pick one:\nA: tea \nB: ice\nAnswer:", ("tea", "ice")),
        ("Options:\n\n- A: tea\n\n- B: ice\n", ("tea", "ice")),
        ("Choices:\n- tea\n - ice\n - stone\n", ("tea", "ice", "stone")),
        ("Steps:\n- boil\n- pour\nand then?\n\n- tea\n\n- ice\n\nA:\n", ("tea", "ice")),
        ("I met Dr. A. Smith (B) today.", ()),
        ("Plan A. Then plan C.", ()),
        ("What boils?", ()),
        ("- only one line", ()),
        ("", ()),
    ],
)
def test_the_options_of_a_prompt(prompt, options):
    assert options_of(prompt, {}) == options


@pytest.mark.parametrize(
    "metadata", [{"options": ["tea", "ice"]}, {"choices": {"text": ["tea", "ice"], "label": ["A", "B"]}}]
)
def test_options_in_the_metadata_count_before_the_prompts(metadata):
    assert options_of("A. red\nB. blue", metadata) == ("tea", "ice")


@given(st.text(max_size=300))
def test_any_prompt_is_read_without_an_error(prompt):
    assert all(options_of(prompt, {}))


@pytest.mark.parametrize(
    ("accepted", "responses", "right"),
    [
        (("B",), ("A", "B", "C"), (1,)),
        (("b",), ("a", "b", "c"), (1,)),
        (("(B)",), ("(A)", "(B)", "(C)"), (1,)),
        (("ice",), ("tea", "ice", "stone"), (1,)),
        (("Ice.",), ("tea", "Ice.", "stone"), (1,)),
        (("C. stone",), ("A. tea", "B. ice", "C. stone"), (2,)),
        (("c) stone",), ("a) tea", "b) ice", "c) stone"), (2,)),
        (("A", "stone"), ("A", "B", "C"), (0, 2)),
    ],
)
def test_each_option_is_spelled_as_the_trained_response(accepted, responses, right):
    question = asked("What boils?\nA. tea\nB. ice\nC. stone", *accepted)
    assert (question.kind, question.responses, question.right) == ("choice", responses, right)


def test_an_answer_that_is_no_option_makes_no_choice():
    question = asked("What boils?\nA. tea\nB. ice", "water")
    assert (question.kind, question.responses) == ("text", ())


@pytest.mark.parametrize(
    ("answer", "responses", "right"),
    [
        ("Yes", ("Yes", "No"), (0,)),
        ("no", ("yes", "no"), (1,)),
        ("FALSE", ("TRUE", "FALSE"), (1,)),
        ("No.", ("Yes.", "No."), (1,)),
        ("yEs", (), ()),
    ],
)
def test_yes_or_no_is_a_choice_of_two(answer, responses, right):
    question = asked("Is it so?", answer)
    assert (question.kind, question.responses, question.right) == ("yes_no", responses, right)


def test_texts_in_verdicts_out():
    questions = [
        asked("2 + 2?", "4"),
        asked("A. tea\nB. ice", "B"),
        asked("Is it?", "Yes"),
        asked("Who?", "Ada Lovelace"),
        asked("Sum it up.", "Six friends walked home along the river"),
    ]
    verdicts = judge_answers(["It is 4.", "tea", "yes", "Ada lovelace.", "Six friends walked home"], questions)
    assert [v.score for v in verdicts] == [1.0, 0.0, 1.0, 1.0, pytest.approx(8 / 11)]
    assert [v.kind for v in verdicts] == ["number", "choice", "yes_no", "text", "rouge_l"]


def test_programs_are_run_only_on_request():
    question = asked("Write one().", "def one(): return 1", test_list=["assert one() == 1"])
    assert question.kind == "code"
    assert judge_answers(["def one(): return 1"], [question], run_code=True)[0].right
    with pytest.raises(ValueError, match="run_code"):
        judge_answers(["def one(): return 1"], [question])


def test_a_conversation_without_a_response_is_no_question():
    with pytest.raises(ValueError, match="ends in a response"):
        read_question([{"role": "user", "content": "hello"}], [], {})
