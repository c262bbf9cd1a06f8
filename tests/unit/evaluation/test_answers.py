"""Answers are compared by what they say."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al.evaluation.answers import answer_kind, chosen, final_number, judge, normalised, truth

TEAS = ["green tea", "black tea", "Water", "coffee"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("She earns 3 * 4 = 12 a day, so 60 a week.\n#### 60", 60),
        ("#### $1,234.50 per month", Fraction(2469, 2)),
        ("so #### 3\n\nQuestion: and now?\n#### 4", 3),
        ("#### Step 1\nadd 2\n#### 9", 9),
        ("#### 5 + 3 = 8", 8),
        ("\\boxed{-\\dfrac{1}{4}}", Fraction(-1, 4)),
        ("\\boxed{\\frac34}", Fraction(3, 4)),
        ("\\boxed{12{,}500 \\text{ m}}", 12500),
        ("The answer is $6 \\times 7 = 42$.", 42),
        ("The answer is 3 + 4 = 7. It is not 8 = 9 - 1.", 7),
        ("**Answer:** **17**", 17),
        ("The final answer is:\n18 boats", 18),
        ("a loss of -$20", -20),
        ("1\u202f234 km", 1234),
        ("pages 3-4", 4),
        ("the 5th", 5),
        ("so it is \\boxed{\\frac{3}{4}} of 7", Fraction(3, 4)),
        ("\\boxed{x^{2} = 49}", 49),
        ("\\boxed{1} and then \\boxed{ 2 }", 2),
        ("The answer is 42, because 6 * 7.", 42),
        ("The answer: -3.5 degrees, measured at 12", Fraction(-7, 2)),
        ("temperature fell to −5", -5),
        ("12 apples and 7 pears", 7),
        ("half, 1/2", Fraction(1, 2)),
        (".75", Fraction(3, 4)),
        ("1.5e3 m", 1500),
        ("50%", 50),
        ("in 3.", 3),
        ("It costs 2,500,000 in all", 2500000),
        ("no number here", None),
        ("1/0", None),
        ("9e999999999", None),
        ("version a1b", None),
        ("", None),
    ],
)
def test_the_final_number_of_a_text(text, value):
    assert final_number(text) == value


@given(st.fractions(max_denominator=10**6))
def test_a_number_written_in_any_way_is_the_same_number(value):
    ways = [f"#### {value}", f"The answer is {value}.", f"\\boxed{{{value}}}"]
    if value.denominator == 1:
        ways += [f"#### {value.numerator:,}", f"$ {value.numerator}.00"]
    assert {final_number(text) for text in ways} == {value}


@given(st.text())
def test_any_text_is_read_without_an_error(text):
    final_number(text), truth(text), chosen(text, TEAS), normalised(text)
    assert judge(text, [text]).right or judge(text, [text]).read in (None, "")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 1),
        ("(b)", 1),
        ("B.", 1),
        ("C) Water", 2),
        ("[D]", 3),
        ("The answer is (B).", 1),
        ("Answer: D", 3),
        ("The answer is B because it is strong", 1),
        ("Of these, option c.", 2),
        ("The answer is a warm drink", None),
        ("I think black tea, as always", 1),
        ("the Water", 2),
        ("water!", 2),
        ("green tea or coffee", None),
        ("E", None),
        ("A lot of people drink it", None),
        ("nothing", None),
        ("**B**", 1),
        ("The correct answer is **(c)** here.", 2),
        ("option $\\D$", None),
        ("Answer: B) black tea", 1),
    ],
)
def test_the_option_that_a_text_chooses(text, index):
    assert chosen(text, TEAS) == index


def test_an_option_inside_another_one_that_is_named_does_not_count():
    assert chosen("It would have no effect at all", ["effect", "no effect"]) == 1
    assert chosen("an effect", ["effect", "no effect"]) == 0


def test_the_words_of_an_option_count_before_a_letter_that_they_look_like():
    assert chosen("a", ["b", "a"]) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Yes.", True),
        ("no, it is not true", False),
        ("True", True),
        ("It may look false, but the answer is yes", True),
        ("I do not know", None),
        ("nowhere", None),
        ("That is not true.", False),
        ("It isn't false", True),
    ],
)
def test_yes_or_no(text, value):
    assert truth(text) is value


@pytest.mark.parametrize(
    ("accepted", "options", "kind"),
    [
        (["18"], (), "number"),
        (["$1,200"], (), "number"),
        (["She has 3.\n#### 3"], (), "number"),
        (["18 apples"], (), "text"),
        (["Yes"], (), "yes_no"),
        (["yes", "true"], (), "yes_no"),
        (["Paris"], (), "text"),
        (["yes", "perhaps"], (), "text"),
        (["B"], TEAS, "choice"),
        (["coffee"], TEAS, "choice"),
        (["B"], (), "text"),
        (["7"], ["6", "7"], "choice"),
        (["People like green tea and coffee with their breakfast"], TEAS, "rouge_l"),
        (["I would say water, as I do at every meal"], TEAS, "rouge_l"),
        (["D. coffee", "D"], TEAS, "choice"),
        (["so \\boxed{2\\sqrt{3}}"], (), "boxed"),
        (["so \\boxed{-\\frac{1}{2}}"], (), "number"),
        (["They met in the old town to write a song"], (), "rouge_l"),
        (["10 - 6 * 2 = -2"], (), "text"),
        (["5,4,3"], (), "text"),
    ],
)
def test_the_kind_is_that_of_the_accepted_answers(accepted, options, kind):
    assert answer_kind(accepted, options) == kind


@pytest.mark.parametrize(
    ("written", "accepted", "options", "right"),
    [
        ("6 * 3 makes 18, so #### 18.0", ["18"], (), True),
        ("#### 17", ["18"], (), False),
        ("eighteen", ["18"], (), False),
        ("The answer is no.", ["No"], (), True),
        ("The Eiffel Tower!", ["eiffel tower"], (), True),
        ("the eiffel tower in Paris", ["eiffel tower"], (), False),
        ("(C)", ["Water"], TEAS, True),
        ("coffee", ["D"], TEAS, True),
        ("5 or 6", ["5", "6"], (), True),
        ("", ["anything"], (), False),
        ("", ["a"], (), False),
        ("the", ["a"], (), False),
        ("a", ["a"], (), True),
        ("]", [")"], (), False),
        ("5,-4", ["5,4"], (), False),
        ("3 + 4", ["3 - 4"], (), False),
        ("august 4 1977", ["August 4, 1977."], (), True),
        ("\\boxed{ 2 \\sqrt{3} }", ["\\boxed{2\\sqrt{3}}"], (), True),
        ("\\boxed{3}", ["\\boxed{2\\sqrt{3}}"], (), False),
        ("$2\\sqrt{3}$", ["\\boxed{2\\sqrt{3}}"], (), False),
    ],
)
def test_a_written_answer_is_judged(written, accepted, options, right):
    assert judge(written, accepted, options).right is right


def test_what_was_read_is_kept_for_people_to_see():
    assert judge("so 3/6 it is", ["0.5"]).read == "1/2"
    assert judge("no idea", ["12"]).read is None
    assert judge("I would take the second", ["B"], TEAS).read is None


def test_nothing_accepted_is_an_error():
    with pytest.raises(ValueError, match="at least one accepted"):
        judge("x", [])


def test_a_kind_can_be_set():
    assert judge("The colour is red", ["the colour is blue"], kind="rouge_l").score == pytest.approx(0.75)
    assert judge("7.0", ["7"], kind="text").right is False


def test_a_kind_that_texts_do_not_decide_is_an_error():
    with pytest.raises(ValueError, match="found 'code'"):
        judge("x", ["x"], kind="code")
