"""Wrong answers planted in a pool, and what else its rows could have answered.

    exchanged   a tenth of the rows have the answer of a row of another task
    inside      a tenth of the rows of tasks with several answers have another answer of their own task: it fits the prompt and is wrong

Prompts, keys, sources and tasks stay, so a strategy that measures nothing picks the same places as on the clean pool.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.study_pools import shuffled

PLANTED = 0.1
KINDS = ("exchanged", "inside")
MOST_WORDS, MOST_ANSWERS, LEAST_REPEATED = 5, 8, 2
"""Rows are compared with other answers where the task's answers have so few words; with at most so many, each given so often."""
Row = dict[str, Any]


def answer(row: Row) -> str:
    """The response of the row."""
    return row["messages"][-1]["content"]


def with_answer(row: Row, text: str) -> Row:
    """The row with another response."""
    return {**row, "messages": [*row["messages"][:-1], {**row["messages"][-1], "content": text}]}


def planted(rows: Sequence[Row], kind: str) -> tuple[list[Row], np.ndarray]:
    """The rows in their order, and (n,) bool: which have a wrong answer."""
    numbered = [{**row, "number": i} for i, row in enumerate(rows)]
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in shuffled(numbered, f"planted {kind}"):
        by_task[row["task"]].append(row)
    if kind == "inside":
        several = [of_task for of_task in by_task.values() if len({answer(row) for row in of_task}) > 1]
        chosen = [(row, of_task) for of_task in several for row in of_task[: round(PLANTED * len(of_task))]]
    else:
        everything = shuffled(numbered, "planted exchanged")
        chosen = [(row, everything) for row in everything[: round(PLANTED * len(everything))]]
    result, wrong = list(rows), np.zeros(len(rows), dtype=bool)
    for turn, (row, donors) in enumerate(chosen):
        other = _other(row, donors, turn, kind)
        if other is not None:
            result[row["number"]] = with_answer(rows[row["number"]], other)
            wrong[row["number"]] = True
    return result, wrong


def _other(row: Row, donors: list[Row], turn: int, kind: str) -> str | None:
    """The answer of the next donor that differs, of another task if answers are exchanged across tasks."""
    for step in range(1, len(donors)):
        donor = donors[(turn * 7 + step) % len(donors)]
        apart = donor["task"] != row["task"] or kind == "inside"
        if apart and answer(donor).strip().casefold() != answer(row).strip().casefold():
            return answer(donor)
    return None


def alternatives(rows: Sequence[Row], count: int) -> tuple[list[Row], np.ndarray]:
    """Rows with every answer that their task often gives, the one that they have first; and (m,) the number of the row of each.

    Only of tasks with short answers of which at least two are common; `count` rows are drawn from these, tasks alike.
    """
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    members: dict[str, list[Row]] = defaultdict(list)
    for number, row in enumerate(rows):
        answers[row["task"]][answer(row)] += 1
        members[row["task"]].append({**row, "number": number})
    common = {
        task: [text for text, times in found.most_common(MOST_ANSWERS) if times >= LEAST_REPEATED]
        for task, found in answers.items()
        if all(len(text.split()) <= MOST_WORDS for text in found)
    }
    common = {task: texts for task, texts in common.items() if len(texts) > 1}
    each = max(1, count // max(1, len(common)))
    made, of = [], []
    for task, texts in sorted(common.items()):
        for row in shuffled(members[task], "alternatives")[:each]:
            given = answer(row)
            for text in [given, *(text for text in texts if text != given)]:
                made.append({"messages": with_answer(row, text)["messages"]})
                of.append(row["number"])
    return made, np.array(of, dtype=np.int64)
