"""Which examples the models answer in writing, and the questions that they ask. The same ones for every model and round."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np

from al.config.evaluation import EvaluateConfig
from al.evaluation.answers import LONGEST_SHORT_TEXT, count_words
from al.evaluation.breakdown import group_sources
from al.evaluation.generations import turns
from al.evaluation.questions import Question, read_question
from al.pool.store import Message, Pool
from al.preparation.holdout import held_out
from al.preparation.stages import Tokenized
from al.run.session import Session
from selection.holdout import DEV, TEST

PARTS = {DEV: "dev", TEST: "test"}


@dataclass(frozen=True)
class Asked:
    """n examples to answer: id, source, part ("dev", "test" or another name), conversation with its response, and question of each.

    `kinds`: {part: {kind: examples}} of all labelled examples that they were drawn from. `groups`: {source: task group}, by
    `evaluate.groups` or data presets.
    """

    ids: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    conversations: list[list[Message]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    kinds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    def of_groups(self, names: Collection[str]) -> Asked:
        """The examples whose source is in one of these task groups, whatever their case."""
        wanted = {name.lower() for name in names}
        return self.at([i for i, source in enumerate(self.sources) if self.groups.get(source, "all").lower() in wanted])

    def at(self, kept: Sequence[int]) -> Asked:
        """The examples at these positions."""
        lists = ("ids", "sources", "parts", "conversations", "questions")
        return replace(self, **{name: [getattr(self, name)[i] for i in kept] for name in lists})

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that answers and verdicts depend on; an id names the conversation, the question the rest."""
        rows = zip(self.ids, self.parts, self.sources, map(asdict, self.questions), strict=True)
        return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()


def ask_holdout(session: Session, prepared: Tokenized, part: str | None = None) -> Asked:
    """What is asked of dev and test, or of one `part`; nothing where `evaluate.generate` names no kind."""
    if not session.config.evaluate.kinds:
        return Asked()
    split = np.load(prepared.split.path / "split.npy")
    rows = held_out(split)
    rows = rows if part is None else rows[[PARTS[int(code)] == part for code in split[rows]]]
    return ask_examples(prepared.open_pool(), rows, [PARTS[int(code)] for code in split[rows]], session.config.evaluate)


def ask_examples(pool: Pool, rows: np.ndarray, parts: Sequence[str], config: EvaluateConfig) -> Asked:
    """At most `generate_examples` of each part's labelled examples at `rows` (n,) whose kind is in `kinds`.

    Sources take turns, and inside a source the examples' keys decide, so a pool that grows keeps most of the examples.
    """
    labelled = np.flatnonzero(pool.labelled[rows])
    rows, parts = rows[labelled], [parts[i] for i in labelled.tolist()]
    sources, conversations, metadata = pool.sources[rows].tolist(), pool.messages(rows), pool.metadata(rows)
    known = {
        s: facts["group"] for s, facts in zip(sources, metadata, strict=True) if isinstance(facts.get("group"), str)
    }
    questions = [
        read_question(messages, others or [], facts, _set_kind(source, config.generate_as))
        for source, messages, others, facts in zip(
            sources, conversations, pool.alternatives(rows), metadata, strict=True
        )
    ]
    questions = _agree_on_long_texts(sources, questions, config.generate_as)
    kinds = {part: Counter(q.kind for q, of in zip(questions, parts, strict=True) if of == part) for part in set(parts)}
    chosen: list[int] = []
    for part in sorted(kinds):
        mine = [i for i, of in enumerate(parts) if of == part and questions[i].kind in config.kinds]
        order = turns(
            [""] * len(mine), [sources[i] for i in mine], pool.keys[rows[mine]] if mine else np.empty(0, np.uint64)
        )
        chosen += [mine[at] for at in order[: config.generate_examples].tolist()]
    return Asked(
        pool.ids[rows[chosen]].tolist() if chosen else [],
        *([values[i] for i in chosen] for values in (sources, parts, conversations, questions)),
        kinds,
        group_sources(sorted(set(sources)), config.groups, known),
    )


def _set_kind(source: str, patterns: Mapping[str, str]) -> str | None:
    return next((kind for pattern, kind in patterns.items() if fnmatchcase(source, pattern)), None)


def _agree_on_long_texts(
    sources: Sequence[str], questions: list[Question], patterns: Mapping[str, str]
) -> list[Question]:
    """The texts of a source are all compared by ROUGE-L or all as short texts, as the median length of their first answers is."""
    lengths: dict[str, list[int]] = {}
    for source, question in zip(sources, questions, strict=True):
        if question.kind in ("text", "rouge_l"):
            lengths.setdefault(source, []).append(count_words(question.accepted[0]))
    kinds = {s: "rouge_l" if np.median(found) > LONGEST_SHORT_TEXT else "text" for s, found in lengths.items()}
    return [
        replace(question, kind=kinds[source])
        if question.kind in ("text", "rouge_l") and _set_kind(source, patterns) is None
        else question
        for source, question in zip(sources, questions, strict=True)
    ]
