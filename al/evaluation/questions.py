"""What is asked of a model and what counts as an answer: the options of a multiple-choice question, and how each would be written.

Options are read from the `options` or `choices` of the example's metadata, else from its last message: a run of letters (`A. tea`,
`(b) coffee`, in lines or in one line), else the last list of lines that begin with a dash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from al.evaluation.answers import Verdict, answer_kind, chosen, judge, normalised
from al.evaluation.code import ProgramTests, find_tests, passes_tests
from al.pool.store import Message

_MARKER = re.compile(r"(?<![\w(\[])([(\[]?)([A-Za-z])([)\].:])(?:(?=\s)|(?<=[)\]]))\s*")
_BULLET = re.compile(r"\s*[-*•]\s+(\S.*)")
_MOST_OPTIONS = 64
_MARKS = ("{}.", "{})", "({})", "{}:")
_FORMS = ("{text}", *(form for case in ("{upper}", "{lower}") for form in (
    case, *(mark.format(case) for mark in _MARKS), *(mark.format(case) + " {text}" for mark in _MARKS)
)))  # fmt: skip
"""The ways to write an option in an answer."""
_PAIRS = {word: pair for pair in (("yes", "no"), ("true", "false")) for word in pair}


@dataclass(frozen=True)
class Question:
    """The last message of a conversation as a question.

    `accepted`: right answers, the trained response first. `kind`: how answers are compared (al.evaluation.answers). `options`: the
    choices in order. `responses`: each choice as a response in the form of the first accepted one, whose likelihoods can be compared;
    empty if the question has no choices or its answers are in no known form. `right`: positions in `responses` of accepted ones.
    """

    accepted: tuple[str, ...]
    kind: str
    options: tuple[str, ...] = ()
    responses: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    tests: ProgramTests | None = None


def read_question(
    messages: Sequence[Message], alternatives: Sequence[str], metadata: Mapping[str, Any], kind: str | None = None
) -> Question:
    """The question that a labelled conversation asks, with the other answers that it accepts.

    Args:
        kind: how to compare answers; None for what the accepted answers show.

    Raises:
        ValueError: the conversation does not end in a response.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError("read_question: expected a conversation that ends in a response.")
    accepted = (messages[-1]["content"], *alternatives)
    prompt = messages[-2]["content"] if len(messages) > 1 else ""
    tests, options = find_tests(prompt, metadata), options_of(prompt, metadata)
    kind = kind or ("code" if tests else answer_kind(accepted, options))
    if kind == "choice" and any(chosen(text, options) is not None for text in accepted):
        responses = _written_like(accepted[0], options)
        right = {chosen(text, options) for text in accepted} - {None}
        return Question(accepted, kind, options, responses, tuple(sorted(right)) if responses else ())
    if kind == "yes_no":
        responses = _yes_and_no(accepted[0])
        return Question(accepted, kind, (), responses, (responses.index(accepted[0].strip()),) if responses else ())
    return Question(accepted, kind, tests=tests)


def judge_answers(written: Sequence[str], questions: Sequence[Question], run_code: bool = False) -> list[Verdict]:
    """A verdict on each written text. Programs are run only with `run_code` (al/evaluation/code.py), else they raise ValueError."""
    found = []
    for text, question in zip(written, questions, strict=True):
        if question.tests is None or question.kind != "code":
            found.append(judge(text, question.accepted, question.options, question.kind))
        elif run_code:
            found.append(Verdict(float(passes_tests(text, question.tests)), "code", text.strip() or None))
        else:
            raise ValueError("judge_answers: code is run only with run_code (evaluate.run_code).")
    return found


def options_of(prompt: str, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The choices of a question in order; () if it has none."""
    for name in ("options", "choices"):
        value = metadata.get(name)
        value = value.get("text") if isinstance(value, Mapping) else value
        if (
            isinstance(value, list)
            and 2 <= len(value) <= _MOST_OPTIONS
            and all(isinstance(item, str) for item in value)
        ):
            return tuple(value)
    lettered = max(_lettered(prompt), key=len, default=())
    if 2 <= len(lettered) <= 26:
        return lettered
    bullets = _last_bullets(prompt)
    return tuple(bullets) if 2 <= len(bullets) <= _MOST_OPTIONS else ()


def _last_bullets(prompt: str) -> list[str]:
    """The last list of lines that begin with a dash; empty lines may separate them."""
    found: list[str] = []
    closed = True
    for line in prompt.split("\n"):
        bullet = _BULLET.fullmatch(line)
        if bullet:
            found = [*([] if closed else found), bullet[1].strip()]
        closed = bullet is None and (closed or bool(line.strip()))
    return found


def _lettered(prompt: str) -> Iterator[tuple[str, ...]]:
    """Each run of markers A, B, C, … of one style as the texts after them; the last text ends with its line."""
    by_style: dict[tuple[str, str, bool], list[re.Match[str]]] = {}
    for marker in _MARKER.finditer(prompt):
        by_style.setdefault((marker[1], marker[3], marker[2].isupper()), []).append(marker)
    for markers in by_style.values():
        letters = [marker[2].upper() for marker in markers]
        for first in (at for at, letter in enumerate(letters) if letter == "A"):
            run = [first]
            for at in range(first + 1, len(markers)):
                if ord(letters[at]) == ord(letters[run[-1]]) + 1:
                    run.append(at)
            ends = [markers[at].start() for at in run[1:]] + [len(prompt)]
            texts = [prompt[markers[at].end() : end].strip(" \n\t-*•;,") for at, end in zip(run, ends, strict=True)]
            texts[-1] = texts[-1].partition("\n")[0].strip()
            if all(texts):
                yield tuple(texts)


def _written_like(answer: str, options: Sequence[str]) -> tuple[str, ...]:
    """Each option in the form of `answer`, which is one of them; () if it is in none of _FORMS."""
    at = chosen(answer, options)
    if at is None:
        return ()
    letters = [chr(ord("A") + index) if index < 26 else "" for index in range(len(options))]
    for form in _FORMS:
        spelled = [
            form.format(text=option, upper=letter, lower=letter.lower())
            for letter, option in zip(letters, options, strict=True)
        ]
        if spelled[at] == answer.strip():
            return tuple(spelled)
    if normalised(answer) == normalised(options[at]):
        return (*options[:at], answer.strip(), *options[at + 1 :])
    return ()


def _yes_and_no(answer: str) -> tuple[str, ...]:
    """Yes and no, or true and false, in the capitals and with the end of `answer`."""
    word = answer.strip().rstrip(".")
    pair = _PAIRS.get(word.lower())
    style = next((style for style in (str.lower, str.capitalize, str.upper) if style(word) == word), None)
    if pair is None or style is None:
        return ()
    end = answer.strip()[len(word) :]
    return tuple(style(each) + end for each in pair)
