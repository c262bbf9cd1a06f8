"""The choices of a multiple-choice question, however they are written, and the one that an answer names."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

from al.pool.formats.base import Row, RowError, kind, text

ASKED = ("question", "question_stem", "prompt", "query", "problem")
CHOICES = ("choices", "options")
KEYS = ("answerKey", "answer", "correct_answer", "correct_option", "answer_idx", "correct", "label")
"""Fields that name the right choice, by its letter, number or text."""
LETTERS = tuple("ABCDEFGHIJ")
_LABELLED = re.compile(r"\s*\(?([A-Za-z]|\d{1,2})[).:]\s*(.*)", re.DOTALL)


def is_multiple_choice(names: Collection[str]) -> bool:
    """Whether a row with these fields has a question, its choices and the right one."""
    if not ({"choices", "options"} & set(names) or {"A", "B"} <= set(names)):
        return False
    return not set(ASKED).isdisjoint(names) and not set(KEYS).isdisjoint(names)


class Choices(NamedTuple):
    """The texts of the choices and their labels, as many."""

    labels: list[str]
    texts: list[str]

    @classmethod
    def of(cls, value: Any, name: str) -> Choices:
        """The choices in field `name`: texts, "A) text", {label, text} objects, {label: [], text: []} or {label: text}.

        Raises:
            RowError: wrong_type.
        """
        labels, texts = None, value
        if isinstance(value, dict) and isinstance(value.get("text"), list):
            labels, texts = value.get("label"), value["text"]
        elif isinstance(value, dict) and value:
            labels, texts = list(value), list(value.values())
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            labels, texts = [item.get("label") for item in value], [item.get("text") for item in value]
        if not isinstance(texts, list) or not texts or len(texts) > 26:
            raise RowError("wrong_type", f"{name}: expected a list of texts, or text and label, found {kind(value)}")
        texts = [text({name: said}, name) for said in texts]
        if not isinstance(labels, list) or len(labels) != len(texts) or not all(isinstance(x, str) for x in labels):
            labels = [chr(ord("A") + index) for index in range(len(texts))]
            parts = [_LABELLED.fullmatch(said) for said in texts]
            if all(part and part[1].upper() == label for part, label in zip(parts, labels, strict=True)):
                texts = [part[2] for part in parts if part]
        return cls(labels, texts)

    @property
    def lines(self) -> list[str]:
        """One line per choice, as the question shows them."""
        return [f"{label}. {said}" for label, said in zip(self.labels, self.texts, strict=True)]

    def accepted(self, at: int) -> list[str]:
        """The letter of choice `at`, then other accepted forms of the answer."""
        return [self.labels[at], self.texts[at], f"{self.labels[at]}. {self.texts[at]}"]

    def position(self, answer: Any, name: str) -> int | None:
        """The choice that `answer` names; None if it is a text of its own.

        Raises:
            RowError: wrong_type, a number without a choice, or no text and no number.
        """
        if isinstance(answer, float) and answer.is_integer():
            answer = int(answer)
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        at = answer if isinstance(answer, int) and not isinstance(answer, bool) else None
        if isinstance(answer, str):
            at = self._named(answer.strip())
            if at is None:
                return None
        if at is None or not 0 <= at < len(self.labels):
            expected = f"expected one of {', '.join(self.labels)} or its number"
            raise RowError("wrong_type", f"{name}: {expected}, found {answer!r:.60}")
        return at

    def _named(self, answer: str) -> int | None:
        """By label or text; by "(B)", "B." or "b"; by "B) the text"; by a number from 0."""
        for where in (self.labels, self.texts):
            if answer in where:
                return where.index(answer)
        lowered = [label.lower() for label in self.labels]
        bare = answer.strip("().: ").lower()
        if bare in lowered:
            return lowered.index(bare)
        if (part := _LABELLED.fullmatch(answer)) and part[1].lower() in lowered:
            at = lowered.index(part[1].lower())
            return at if part[2].strip() == self.texts[at].strip() else None
        return int(answer) if answer.isdecimal() and int(answer) < len(self.labels) else None


def read_choices(row: Row) -> tuple[Choices, tuple[str, ...]]:
    """The choices of a row and the fields that hold them: `choices`, `options`, or columns A, B, … Raises RowError."""
    for name in CHOICES:
        if row.get(name) is not None:
            return Choices.of(row[name], name), (name,)
    named = [letter for letter in LETTERS if row.get(letter) not in (None, "")]
    if named:
        return Choices.of({letter: row[letter] for letter in named}, "A"), tuple(named)
    raise RowError("wrong_type", f"choices: expected a list of texts, or text and label, found {kind(None)}")
