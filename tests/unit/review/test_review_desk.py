"""The draft of a review: every change is saved immediately, and its effect is shown before the approval."""

from __future__ import annotations

import json

import pytest
from review_desk import PROPOSAL, make_desk, make_proposed

from al.errors import DataError, RunStateError
from al.review.decision import Decision
from al.review.desk import Desk
from al.review.draft import load_draft, supersede_draft


@pytest.fixture
def desk(tmp_path) -> Desk:
    return make_desk(tmp_path)


def ids(desk, view="batch", **more):
    query = {"cluster": None, "source": None, "search": "", "offset": 0, "limit": 200, **more}
    return [row["id"] for row in desk.examples(view, **query)["rows"]]


def test_nothing_changed_shows_the_proposal(desk):
    state = desk.state()
    assert state["counts"] == {
        "proposed": 12, "kept": 12, "out": 0, "pinned": 0, "filled": 0, "dropped": 0, "answered": 0, "edited": 0, "unlabelled": 3,
    }  # fmt: skip
    assert state["spent"] == state["budget"] == 12 and state["problem"] is None
    assert ids(desk) == desk.proposed.batch.pool.ids[desk.proposed.batch.picked].tolist()


def test_a_drop_is_written_at_once_and_the_next_candidate_comes_in(desk, tmp_path):
    before = ids(desk)
    state = desk.change("drop", before[0], True)
    assert state["counts"]["filled"] == state["counts"]["dropped"] == 1 and state["spent"] == 12
    assert json.loads((tmp_path / "review/draft.json").read_text())["drop"] == [before[0]]
    assert before[0] not in ids(desk) and set(before[1:]) < set(ids(desk))
    changed = {row["id"]: row["state"] for row in desk.examples("changed", None, None, "", 0, 50)["rows"]}
    assert sorted(changed.values()) == ["dropped", "filled"] and changed[before[0]] == "dropped"
    desk.change("drop", before[0], False)
    assert ids(desk) == before


def test_a_draft_is_taken_up_again_and_one_of_another_proposal_is_set_aside(desk, tmp_path):
    desk.change("pin", ids(desk, "left")[0], True)
    again = Desk(desk.proposed, desk.folder)
    assert again.draft == desk.draft and again.notice is None
    path = tmp_path / "review/draft.json"
    path.write_text(path.read_text().replace(PROPOSAL, "f" * 20))
    other = Desk(desk.proposed, desk.folder)
    assert not other.draft.pin and "is on another proposal" in other.notice
    assert (tmp_path / "review/draft-1.json").exists() and not path.exists()
    path.write_text("{")
    assert "cannot be read" in Desk(desk.proposed, desk.folder).notice


@pytest.mark.parametrize("text", ["{", '{"drop": []}'])
def test_a_draft_that_cannot_be_taken_up_gives_way_to_a_decision_from_elsewhere(tmp_path, text):
    decision = Decision(proposal=PROPOSAL, note="from a file")
    assert supersede_draft(tmp_path, decision) is None and not (tmp_path / "draft.json").exists()
    (tmp_path / "draft.json").write_text(text)
    assert "kept as draft-1.json" in supersede_draft(tmp_path, decision)
    assert (tmp_path / "draft-1.json").read_text() == text
    assert load_draft(tmp_path, PROPOSAL) == (decision, None)
    assert supersede_draft(tmp_path, decision) is None


def test_the_later_word_counts_between_drop_and_pin(desk):
    name = ids(desk)[0]
    desk.change("drop", name, True)
    draft = desk.change("pin", name, True)["draft"]
    assert draft["pin"] == [name] and draft["drop"] == []


def test_an_edit_takes_the_example_out_and_the_corrected_one_is_imported_with_its_origin(desk, tmp_path):
    from al.pool.importer import import_pool
    from al.pool.sources import make_sources
    from al.pool.store import Pool
    from al.review.apply import answer_rows

    name, waiting = ids(desk)[0], ids(desk, "unlabelled")[0]
    before = desk.example(name)
    desk.change("pin", name, True)
    state = desk.change("edit", name, "corrected")
    assert state["draft"]["edits"] == {name: "corrected"} and state["draft"]["pin"] == [], "the later change counts"
    assert name not in ids(desk) and state["counts"]["filled"] == state["counts"]["edited"] == 1
    assert state["spent"] == 12 and not state["draft"]["drop"]
    shown = {row["id"]: row for row in desk.examples("changed", None, None, "", 0, 50)["rows"]}[name]
    assert (shown["state"], shown["edit"], shown["response"]) == (
        "edited",
        "corrected",
        before["response"][:400] + "…" * (len(before["response"]) > 400),
    )
    desk.change("answer", waiting, "an answer")
    rows = answer_rows(desk.proposed.batch, desk.draft)
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "out").mkdir()
    import_pool(make_sources([str(tmp_path / "answers.jsonl")]), tmp_path / "out")
    pool = Pool.open(tmp_path / "out")
    found = {
        said[-1]["content"]: (said, of)
        for said, of in zip(pool.messages(range(2)), pool.metadata(range(2)), strict=True)
    }
    said, metadata = found["corrected"]
    assert [m["content"] for m in said[:-1]] == [m["content"] for m in before["messages"][:-1]]
    assert metadata["edited_from"] == name and "edited_from" not in found["an answer"][1]
    assert name not in pool.ids, "another response is another example"


def test_a_decision_without_edits_is_the_document_of_earlier_versions():
    assert "edits" not in Decision(note="x").document()
    assert Decision(edits={"00000000000000ff": "y"}).document()["edits"] == {"00000000000000ff": "y"}


def test_undo_takes_back_the_last_change_and_saves_the_draft(desk):
    first, second = ids(desk)[:2]
    desk.change("drop", first, True)
    desk.change("edit", second, "corrected")
    state = desk.undo()
    assert state["draft"]["drop"] == [first] and state["draft"]["edits"] == {} and state["undoable"] == 1
    assert json.loads((desk.folder / "draft.json").read_text())["drop"] == [first]
    revision = state["revision"]
    state = desk.undo()
    assert state["draft"]["drop"] == [] and first in ids(desk) and state["undoable"] == 0
    assert state["revision"] > revision, "what was not seen cannot be approved"
    with pytest.raises(RunStateError, match="no change to undo"):
        desk.undo()
    desk.change("note", "", "x")
    desk.approve(desk.state()["revision"])
    with pytest.raises(RunStateError, match="approved"):
        desk.undo()


def test_what_cannot_be_met_is_said_kept_and_not_approved(desk):
    for c in (0, 1, 2):
        state = desk.change("quota", str(c), 1)
    assert "9 of 12 places cannot be filled" in state["problem"]
    with pytest.raises(DataError, match="cannot be filled"):
        desk.approve(state["revision"])
    state = desk.change("quota", "0", None)
    assert state["problem"] is None and state["clusters"][0]["now"] == 10
    assert desk.approve(state["revision"])["approved"]


def test_an_approval_of_what_was_not_seen_is_refused_and_nothing_changes_after_one(desk):
    first = desk.state()["revision"]
    state = desk.change("note", "", "why not")
    with pytest.raises(RunStateError, match="another window"):
        desk.approve(first)
    desk.approve(state["revision"])
    for again in (lambda: desk.approve(state["revision"]), lambda: desk.change("note", "", "x")):
        with pytest.raises(RunStateError, match="approved"):
            again()


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("drop", "00000000000000ff", True, "no example of the pool has the id"),
        ("drop", "no id", True, "pattern"),
        ("quota", "9", 3, "no group 9; the groups are 0 to 2"),
        ("quota", "0", -1, "greater than or equal to 0"),
        ("quota", "0", True, "expected a number"),
        ("quota", "zero", 1, "expected a number, found 'zero'"),
        ("ban_source", "nowhere", True, "no example of the pool has the source 'nowhere'"),
        ("answer", "LABELLED", "text", "has a response"),
        ("answer", "WAITING", "a\0b", "NUL"),
        ("edit", "WAITING", "text", "has no response to correct; answer it instead"),
        ("edit", "LABELLED", "  ", "the answer is empty"),
        ("edit", "LABELLED", "SAME", "the response is the pool's own"),
        ("edit", "00000000000000ff", "text", "no example of the pool has the id"),
        ("pin", "WAITING", True, "cannot be picked: it has no response"),
        ("shuffle", "", True, "expected drop, pin"),
    ],
)
def test_a_change_that_cannot_be_leaves_the_draft_as_it_was(desk, kind, key, value, message):
    waiting = ids(desk, "unlabelled")[0]
    if value == "SAME":
        value = desk.example(ids(desk)[0])["response"]
    key = {"LABELLED": ids(desk)[0], "WAITING": waiting}.get(key, key)
    with pytest.raises(DataError, match=message):
        desk.change(kind, key, value)
    assert desk.state()["revision"] == 0 and not (desk.folder / "draft.json").exists()


def test_a_pin_in_a_banned_cluster_names_the_contradiction(desk):
    desk.change("ban_cluster", "1", True)
    assert all(row["cluster"] != 1 for row in desk.examples("batch", None, None, "", 0, 50)["rows"])
    name = ids(desk, "left", cluster=1)[0]
    with pytest.raises(DataError, match="its group or source is banned"):
        desk.change("pin", name, True)


def test_lists_filter_by_cluster_source_and_words_and_come_in_pages(desk):
    everything = ids(desk, "left")
    assert len(everything) == 60 - 12
    by_cluster = [ids(desk, "left", cluster=c) for c in range(3)]
    assert sorted(sum(by_cluster, [])) == sorted(everything)
    of_source = desk.examples("left", None, "source 1", "", 0, 50)
    assert of_source["total"] and all(row["source"] == "source 1" for row in of_source["rows"])
    assert [ids(desk, "left", offset=at, limit=20) for at in (0, 20, 40)] == [
        everything[:20],
        everything[20:40],
        everything[40:],
    ]
    found = (
        desk.examples("left", None, None, "QUESTION 5", 0, 50)["rows"]
        + desk.examples("batch", None, None, "QUESTION 5", 0, 50)["rows"]
    )
    assert len(found) == 11 and all("question 5" in row["prompt"] for row in found)
    assert ids(desk, search=ids(desk)[3]) == [ids(desk)[3]]
    whole = desk.examples("pool", None, None, "QUESTION 5", 0, 50)["rows"]
    assert sorted(row["id"] for row in whole) == sorted(row["id"] for row in found)
    assert desk.examples("pool", None, None, "nobody answered", 0, 50)["total"] == 3


def test_long_texts_are_cut_in_lists_and_whole_on_their_own(desk):
    rows = [
        *desk.examples("batch", None, None, "", 0, 200)["rows"],
        *desk.examples("left", None, None, "", 0, 200)["rows"],
    ]
    (cut,) = [row for row in rows if row["response"].endswith("…")]
    whole = desk.example(cut["id"])
    assert len(cut["response"]) == 401 and whole["response"].endswith(" and on") and len(whole["response"]) > 1000
    with pytest.raises(DataError, match="no example"):
        desk.example("../../etc/passwd")


def test_a_damaged_or_foreign_decision_says_what_is_wrong_where(tmp_path):
    from al.review.decision import read_decision

    path = tmp_path / "d.json"
    for text, message in (
        ("[]", "valid dictionary"),
        ('{"drop": ["x"]}', r"`drop.0`: .*found 'x'"),
        ('{"dorp": []}', r"`dorp`: Extra inputs"),
        ('{"drop": ["00000000000000ff"], "pin": ["00000000000000ff"]}', "both drop and pin"),
        ('{"drop": ["00000000000000ff"], "edits": {"00000000000000ff": "x"}}', "both edits and drop"),
        ('{"ban_clusters": [1], "quotas": {"1": 3}}', "group 1 is banned and has a quota"),
        ('{"answers": {"00000000000000ff": " "}}', "the answer is empty"),
        ('{"note": "\\ud800"}', "unable to parse raw data as a unicode string"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message) as error:
            read_decision(path)
        assert str(path) in str(error.value)


def test_answers_are_rows_that_an_import_reads(tmp_path):
    from al.pool.importer import import_pool
    from al.pool.sources import make_sources
    from al.pool.store import Pool
    from al.review.apply import answer_rows
    from al.review.decision import Decision

    proposed = make_proposed(tmp_path)
    name = str(proposed.batch.pool.ids[~proposed.batch.pool.labelled][0])
    (row,) = answer_rows(proposed.batch, Decision(answers={name: "an answer"}))
    (tmp_path / "answers.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "out").mkdir()
    import_pool(make_sources([str(tmp_path / "answers.jsonl")]), tmp_path / "out")
    (messages,) = Pool.open(tmp_path / "out").messages([0])[:1]
    assert [m["role"] for m in messages] == ["user", "assistant"] and messages[1]["content"] == "an answer"
