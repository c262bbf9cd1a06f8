"""Plain text that holds a whole conversation, taken apart by `pool.text_template`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al.errors import ConfigError, DataError
from al.pool.formats import RowError
from al.pool.formats.template import TextTemplate

GUANACO = "### Human: {user}### Assistant: {assistant}"
INSTRUCT = "<s>[INST] {user} [/INST] {assistant} </s>"
SYSTEM = "{system}\n\nUSER: {user}\nASSISTANT: {assistant}"


@pytest.mark.parametrize(
    ("template", "text", "turns"),
    [
        (GUANACO, "### Human: a### Assistant: b", "ab"),
        (GUANACO, "### Human: a### Assistant: b### Human: c### Assistant: d", "abcd"),
        (GUANACO, "  ### Human:\na\n### Assistant:\nb\n", "ab"),
        (GUANACO, "### Human: a### Assistant: b### Human: c", "abc"),
        (INSTRUCT, "<s>[INST] a [/INST] b </s><s>[INST] c [/INST] d</s>", "abcd"),
        ("\n\nHuman: {user}\n\nAssistant: {assistant}", "\n\nHuman: a\n\nAssistant: b", "ab"),
        ("{user}\n###\n{assistant}", "a\n###\nb", "ab"),
        ("Q: {user}\n{assistant}", "Q: a\nb", "ab"),
    ],
)
def test_a_text_is_cut_at_the_markers(template, text, turns):
    roles = ("user", "assistant")
    assert TextTemplate(template).split(text) == [(roles[i % 2], said) for i, said in enumerate(turns)]


def test_text_before_the_first_question_is_the_system_message():
    assert TextTemplate(SYSTEM).split("Be brief.\n\nUSER: a\nASSISTANT: b")[0] == ("system", "Be brief.")


def test_a_template_with_a_system_message_takes_texts_without_one():
    assert [role for role, _ in TextTemplate(SYSTEM).split("USER: a\nASSISTANT: b")] == ["user", "assistant"]


def test_a_marker_of_a_line_start_is_not_found_inside_a_line():
    text = "\n\nHuman: What does Assistant: mean?\n\nAssistant: A role."
    turns = TextTemplate("\n\nHuman: {user}\n\nAssistant: {assistant}").split(text)
    assert turns == [("user", "What does Assistant: mean?"), ("assistant", "A role.")]


@given(
    st.lists(st.text("abc \n", min_size=1).filter(str.strip), min_size=2, max_size=8).filter(lambda t: len(t) % 2 == 0)
)
def test_any_conversation_comes_back_but_for_the_space_around_its_turns(said):
    text = "".join(f"{'### Assistant: ' if i % 2 else '### Human: '}{turn}" for i, turn in enumerate(said))
    assert [turn for _, turn in TextTemplate(GUANACO).split(text)] == [turn.strip() for turn in said]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", r"text: has no `### Human:`, which pool\.text_template asks for"),
        ("### Human: a", "text: has no `### Assistant:`"),
        ("Hello. ### Human: a### Assistant: b", "text: does not start with `### Human:`"),
    ],
)
def test_a_text_that_does_not_fit_says_what_it_lacks(text, message):
    with pytest.raises(RowError, match=message) as caught:
        TextTemplate(GUANACO).split(text)
    assert caught.value.reason == "template_mismatch"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("no placeholder", "found no placeholder"),
        ("{user}", "found user in"),
        ("{assistant} {user}", "found assistant, user in"),
        ("{user}{assistant}", "no text separates the placeholders"),
        ("{system}{user}: {assistant}", "no text separates the placeholders"),
        ("{user", "pool.text_template: "),
    ],
)
def test_a_template_that_cannot_work_is_refused_before_anything_is_read(importing, good, template, message):
    with pytest.raises(ConfigError, match=message):
        importing({"a.jsonl": [good]}, text_template=template)


def test_rows_of_text_are_imported_through_the_template(importing):
    rows = [{"text": "### Human: a### Assistant: b", "kind": "x"}, {"question": "c", "answer": "d"}, {"text": "e"}]
    imported = importing({"a.jsonl": rows}, text_template=GUANACO)
    assert sorted(imported.conversations) == [[("user", who), ("assistant", what)] for who, what in ("ab", "cd")]
    assert imported.stats.formats == {"text": 1, "question_answer": 1}
    assert imported.refused == [("in/a.jsonl:3", "template_mismatch")]
    assert {"kind": "x"} in imported.pool.metadata([0, 1])


def test_rows_of_text_without_a_template_name_the_key_to_set(importing):
    with pytest.raises(DataError, match=r"line 1: text: set `pool\.text_template`.*\[no_template\]"):
        importing({"a.jsonl": [{"text": "### Human: a### Assistant: b"}]})


def test_a_text_that_is_empty_after_a_marker_is_an_empty_field(importing, good):
    imported = importing({"a.jsonl": [good, {"text": "### Human: ### Assistant: b"}]}, text_template=GUANACO)
    assert imported.refused == [("in/a.jsonl:2", "empty_field")]
