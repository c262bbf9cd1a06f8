"""OpenAssistant's message trees: one thread of each, the one that people ranked best."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from al.errors import DataError

READY = "ready_for_export"


def message(name: str, parent: str | None, rank: int | None = None, **fields: Any) -> dict[str, Any]:
    """A row as the hub has it; a name in capitals is the assistant's. Its text is its name."""
    role = "assistant" if name.isupper() else "prompter"
    row = {"message_id": name, "parent_id": parent, "text": f"text of {name}", "role": role, "lang": "en", "rank": rank}
    return {**row, "message_tree_id": "a", "tree_state": READY, "deleted": False, "review_result": True, **fields}


def nested(rows: list[dict[str, Any]], name: str = "a") -> dict[str, Any]:
    """The same tree as one row, the way OpenAssistant's own exports write it."""
    (row,) = (row for row in rows if row["message_id"] == name)
    replies = [nested(rows, reply["message_id"]) for reply in rows if reply["parent_id"] == name]
    return {**row, "replies": replies}


TREE = [
    message("a", None),
    message("B", "a", 1),
    message("C", "a", 0),
    message("D", "a"),
    message("e", "C", 0),
    message("F", "e", 0),
    message("g", "B", 0),
]
BEST = [f"text of {name}" for name in "aCeF"]


def texts(imported: Any) -> list[str]:
    return [content for _, content in imported.only]


def test_the_best_ranked_reply_is_followed_to_the_end(importing):
    imported = importing({"a.jsonl": TREE})
    assert texts(imported) == BEST
    assert [role for role, _ in imported.only] == ["user", "assistant"] * 2
    assert imported.pool.labelled.tolist() == [True]


def test_the_order_of_the_rows_does_not_matter(importing):
    rows = random.Random(3).sample(TREE, len(TREE))
    assert texts(importing({"a.jsonl": rows})) == BEST


def test_a_whole_tree_in_one_row_gives_the_same_example(importing):
    row = {"message_tree_id": "a", "tree_state": READY, "prompt": nested(TREE)}
    flat, whole = importing({"a.jsonl": TREE}), importing({"a.jsonl": [row]})
    assert flat.pool.ids.tolist() == whole.pool.ids.tolist()
    assert flat.stats.adjusted == whole.stats.adjusted
    assert (flat.stats.formats, whole.stats.formats) == ({"oasst": 7}, {"oasst_tree": 1})


def test_messages_that_are_not_on_the_thread_are_counted(importing):
    assert importing({"a.jsonl": TREE}).stats.adjusted == {"replies_not_best": 3}  # B with the g below it, and D


def test_language_and_tree_are_kept_as_metadata(importing):
    assert importing({"a.jsonl": TREE}).pool.metadata([0]) == [
        {"lang": "en", "message_tree_id": "a", "message_id": "a", "last_message_id": "F"}
    ]


def test_the_example_has_the_line_of_its_first_prompt(importing):
    assert importing({"a.jsonl": [*TREE[1:], TREE[0]]}).pool.origin([0]) == ["in/a.jsonl:7"]


def test_a_reply_without_a_rank_comes_after_all_that_have_one(importing):
    assert texts(importing({"a.jsonl": [message("a", None), message("B", "a"), message("C", "a", 5)]}))[1:] == [
        "text of C"
    ]


def test_message_ids_break_ties_of_rank(importing):
    assert texts(importing({"a.jsonl": [message("a", None), message("C", "a"), message("B", "a")]}))[1:] == [
        "text of B"
    ]


@pytest.mark.parametrize("why", [{"deleted": True}, {"review_result": False}])
def test_a_reply_that_was_turned_down_is_not_followed_and_counted_with_all_below_it(importing, why):
    rows = [message("a", None), message("B", "a", 0, **why), message("c", "B", 0), message("D", "a", 1)]
    imported = importing({"a.jsonl": rows})
    assert texts(imported)[1:] == ["text of D"]
    assert imported.stats.adjusted == {"replies_turned_down": 2}


def test_a_message_without_a_review_is_used(importing):
    assert len(texts(importing({"a.jsonl": [message("a", None), message("B", "a", review_result=None)]}))) == 2


def test_a_final_prompt_without_a_reply_is_cut_and_counted(importing):
    imported = importing({"a.jsonl": [*TREE[:1], TREE[2], TREE[4]]})
    assert texts(imported) == ["text of a", "text of C"]
    assert imported.stats.adjusted == {"unanswered_turn_cut": 1}


def test_a_first_prompt_without_a_reply_is_an_unlabelled_example(importing):
    imported = importing({"a.jsonl": TREE[:1]})
    assert (texts(imported), imported.stats.unlabelled) == (["text of a"], 1)


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        ([message("x", None, tree_state="growing"), message("Y", "x", 0)], ("in/a.jsonl:8", "tree_not_ready")),
        ([message("x", None, deleted=True)], ("in/a.jsonl:8", "turned_down")),
        ([message("y", "lost")], ("in/a.jsonl:8", "missing_parent")),
        ([message("y", "y")], ("in/a.jsonl:8", "missing_parent")),
        ([message("F", "e", 0)], ("in/a.jsonl:8", "duplicate_message")),
        ([message("x", None, role="narrator")], ("in/a.jsonl:8", "unknown_role")),
        ([message("x", None, text=None)], ("in/a.jsonl:8", "missing_field")),
        ([message("x", None, text=" ")], ("in/a.jsonl:8", "empty_field")),
        ([message("x", None), message("Y", "x", "first")], ("in/a.jsonl:8", "wrong_type")),
    ],
)
def test_what_cannot_be_used_is_quarantined_at_its_line_and_the_other_tree_comes_out(importing, rows, refused):
    imported = importing({"a.jsonl": [*TREE, *rows]})
    assert imported.refused == [refused]
    assert texts(imported) == BEST


def test_every_message_without_a_tree_is_reported(importing):
    imported = importing(
        {"a.jsonl": [*TREE, message("x", "lost"), message("Y", "x"), message("z", "W"), message("W", "z")]}
    )
    assert imported.refused == [(f"in/a.jsonl:{line}", "missing_parent") for line in (8, 9, 10, 11)]


def test_a_tree_that_is_left_out_says_how_many_messages_it_has(importing):
    rows = [*TREE, message("x", None, tree_state="growing"), message("Y", "x", 0)]
    assert "its 2 message(s) are excluded" in importing({"a.jsonl": rows}).quarantine[0]["message"]


def test_strict_stops_at_a_tree_that_cannot_be_used(importing):
    with pytest.raises(DataError, match=r"in/a\.jsonl:8: tree_state: growing.*\[tree_not_ready\]"):
        importing({"a.jsonl": [*TREE, message("x", None, tree_state="growing")]}, strict=True)


@pytest.mark.parametrize("prompt", ["text", {"message_id": "a", "role": "prompter", "text": "a", "replies": "none"}])
def test_a_nested_tree_of_another_shape_is_quarantined(importing, good, prompt):
    imported = importing({"a.jsonl": [good, {"message_tree_id": "a", "prompt": prompt}]})
    assert imported.refused == [("in/a.jsonl:2", "wrong_type")]


def test_a_deep_tree_is_read_without_recursion(importing):
    rows = [message("a", None)]
    for depth in range(3000):
        name = f"{'m' if depth % 2 else 'M'}{depth}"
        rows.append(message(name, rows[-1]["message_id"], 0))
    imported = importing({"a.jsonl": json.dumps(rows[0]) + "\n" + "\n".join(map(json.dumps, rows[1:]))})
    assert len(imported.only) == 3000
