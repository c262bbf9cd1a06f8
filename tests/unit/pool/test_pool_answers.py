"""An example without a response is answered once another example is the same conversation with one."""

from __future__ import annotations

import json

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "Say A."}
SAID = {"role": "assistant", "content": "A"}
MORE = {"role": "user", "content": "And B?"}


def row(*messages, **fields):
    return {"messages": list(messages), **fields}


def prompt(*messages):
    return {"prompt": list(messages), "completion": ""}


def answered(imported):
    """The conversations that are answered by another example."""
    texts = [tuple(content for _, content in turns) for turns in imported.conversations]
    return {text for text, flag in zip(texts, imported.pool.answered, strict=True) if flag}


def test_only_the_very_same_conversation_with_one_response_more_answers(importing):
    rows = [row(ASKED), row(ASKED, SAID), prompt(ASKED, SAID, MORE), row(SYSTEM, ASKED), row(MORE)]
    imported = importing({"a.jsonl": rows})
    assert answered(imported) == {("Say A.",)}
    assert (imported.stats.labelled, imported.stats.unlabelled, imported.stats.answered) == (1, 3, 1)


def test_a_conversation_of_several_turns_is_answered_at_its_last(importing):
    imported = importing({"a.jsonl": [prompt(ASKED, SAID, MORE), row(ASKED, SAID, MORE, {**SAID, "content": "B"})]})
    assert answered(imported) == {("Say A.", "A", "And B?")}


def test_an_answer_that_comes_later_counts_and_stays(importing):
    first = importing({"a.jsonl": [row(SYSTEM, ASKED), row(MORE)]})
    assert answered(first) == set() and first.stats.unlabelled == 2
    filled = {**row(SYSTEM, ASKED), "response": "A", "suggestion": "a"}
    second = importing({"b.jsonl": [filled]}, previous=first)
    assert answered(second) == {("Be brief.", "Say A.")}
    assert (second.stats.labelled, second.stats.unlabelled, second.stats.answered) == (1, 1, 1)
    third = importing({"c.jsonl": [row(MORE, SAID)]}, previous=second)
    assert (third.stats.labelled, third.stats.unlabelled, third.stats.answered) == (2, 0, 2)


def test_a_pool_that_was_imported_without_looking_for_answers_knows_of_none(importing):
    imported = importing({"a.jsonl": [row(ASKED), row(ASKED, SAID)]})
    (imported.path / "answered.npy").unlink()
    document = json.loads((imported.path / "pool.json").read_text())
    del document["answered"]
    (imported.path / "pool.json").write_text(json.dumps(document))
    assert not imported.pool.answered.any()
    assert importing({"b.jsonl": [row(MORE)]}, previous=imported).stats.answered == 1


def test_a_file_that_was_corrected_is_no_longer_in_quarantine(importing, good):
    empty = {**row(ASKED), "response": "", "suggestion": "a"}
    first = importing({"a.jsonl": [good, empty], "b.jsonl": [good, {"x": 1}]})
    assert first.refused == [("in/a.jsonl:2", "not_filled_in"), ("in/b.jsonl:2", "unknown_format")]
    same = importing({"a.jsonl": [good, empty]}, previous=first)
    assert sorted(same.refused) == first.refused
    filled = importing({"a.jsonl": [good, {**empty, "response": "A"}]}, previous=first)
    assert filled.refused == [("in/b.jsonl:2", "unknown_format")]
