"""Review before training: dropped examples stay out, pinned ones are picked, and a round without review does not change."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow, winnow_child

from al.pool.store import Pool

BUDGET = 30
PROMPTS = [f"please answer {word}" for word in ("this", "that", "these", "those")]


@pytest.fixture(scope="module")
def proposed(world, tmp_path_factory) -> Path:
    """A run that waits before its first training, its pool with unlabelled prompts; the batch next to it as batch.csv."""
    root = tmp_path_factory.mktemp("review")
    rows = [{"messages": [{"role": "user", "content": text}], "source": "asked"} for text in PROMPTS]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pools = ("--pool", world.parent / "pool", "--pool", root / "prompts.jsonl")
    command = ("round", "--config", world, "--run", root / "run", "--budget", BUDGET, "--no-control", *pools)
    result = winnow(*command, "--review", "--export", root / "batch.csv")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == (
        f"round 1 is waiting before training. Set keep to no in {root / 'batch.csv'} where an example should go, then: "
        f"python cli.py review --run {root / 'run'} --approve {root / 'batch.csv'}"
    )
    shown = winnow("status", "--run", root / "run").out
    assert f"round 1 is waiting for its review: python cli.py review --run {root / 'run'}" in shown
    assert "continue with" not in shown
    return root


@pytest.fixture
def run(proposed, tmp_path) -> Path:
    """A copy of that run to change, with the batch next to it."""
    shutil.copytree(proposed / "run", tmp_path / "run", symlinks=True)
    shutil.copy(proposed / "batch.csv", tmp_path / "batch.csv")
    return tmp_path / "run"


def proposal(run, role="proposal"):
    from al.run import rounds
    from al.run.store import Run

    with Run.read(run) as opened:
        return pq.read_table(rounds.required(opened, 1, role).path / "selection.parquet").to_pandas()


def selection(run, number=1):
    return pq.read_table(run / f"rounds/{number:03d}/selection/selection.parquet").to_pandas()


def fingerprint(run, role):
    return json.loads((run / "rounds/001" / role / "manifest.json").read_text())["fingerprint"]


def approve(run, path, *more):
    return winnow("round", "--run", run, "--budget", BUDGET, "--approve", path, *more)


def decide(run, **decision):
    path = run.parent / "decision.json"
    path.write_text(json.dumps(decision))
    return path


def edit(path, change):
    """Rewrite an exported batch with its rows changed."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows = change(rows)
    with path.open("w", encoding="utf-8-sig", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_without_a_review_a_round_publishes_what_it_always_did(run):
    assert winnow("resume", "--run", run).code == 0
    waited = run / "rounds/001"
    assert not (waited / "decision").exists() and not (waited / "proposal").exists()
    manifest = json.loads((waited / "selection/manifest.json").read_text())
    assert manifest["stage"] == "selection" and "removed" not in manifest["params"]
    summary = json.loads((waited / "summary.json").read_text())
    assert summary["review"] is None and "This round had no review" in (waited / "report.html").read_text()


def test_an_edited_batch_drops_pins_and_answers_and_the_budget_stays(run):
    before = proposal(run)
    left = before[before.outcome == "quota_full"].id.iloc[0]
    waiting = before[before.outcome == "unlabelled"].id.tolist()
    gone = before[before.pick >= 0].sort_values("pick").id.tolist()

    def change(rows):
        rows[0]["keep"], rows[1]["keep"] = "no", "No"
        blank = dict.fromkeys(rows[0], "")
        extra = [{**blank, "id": left, "keep": "yes"}, {**blank, "id": waiting[0], "response": "=1+1 is two"}]
        return [*rows[:2], *rows[3:], *extra]

    result = approve(run, edit(run.parent / "batch.csv", change))
    assert result.code == 0 and "the file lacks them: 1 row of the batch" in result.out, result.err
    after = selection(run)
    chosen = set(after[after.outcome == "selected"].id)
    assert len(chosen) == BUDGET and left in chosen and not chosen & set(gone[:3])
    assert (after[after.id.isin(gone[:3])].outcome == "dropped_in_review").all()
    assert after[after.id == left].why.iloc[0].startswith("pinned in review")
    assert after[after.outcome == "selected"].why.notna().all()
    assert set(np.load(run / "rounds/001/packs/rows.npy")) == set(after[after.outcome == "selected"].row)
    document = json.loads((run / "rounds/001/summary.json").read_text())
    assert (
        document["review"]["dropped"] == 3 and document["review"]["pinned"] == 1 and document["review"]["answered"] == 1
    )
    assert document["selection"]["outcomes"]["dropped_in_review"] == 3
    assert gone[0] in (run / "rounds/001/report.html").read_text()

    again = winnow("round", "--run", run, "--budget", BUDGET, "--no-control", "--json")
    assert again.code == 0 and again.document["round"] == 2, again.err
    second = selection(run, 2)
    assert (second[second.id.isin(gone[:3])].outcome == "dropped_in_review").all()
    assert second[second.id == waiting[0]].outcome.iloc[0] == "answered"
    assert again.document["pool"]["version"] == 2 and again.document["pool"]["unlabelled"] == len(waiting) - 1

    third = winnow("round", "--run", run, "--budget", 40, "--set", f"review.forget=['{gone[0]}']", "--json")
    assert third.code == 0, third.err
    outcomes = selection(run, 3).set_index("id").outcome
    assert outcomes[gone[0]] != "dropped_in_review" and outcomes[gone[1]] == "dropped_in_review"


def test_an_edited_example_may_be_picked_in_the_next_round_and_the_original_never(run):
    before = proposal(run)
    name = before[before.pick == 0].id.iloc[0]
    with (run.parent / "batch.csv").open(encoding="utf-8-sig", newline="") as handle:
        response = next(row["response"] for row in csv.DictReader(handle) if row["id"] == f"#{name}")
    result = approve(run, decide(run, edits={name: f"{response} ."}))
    assert result.code == 0 and "1 edited (in the pool from the next round on)" in result.out, result.err
    first = selection(run).set_index("id")
    assert first.outcome[name] == "dropped_in_review" and (first.outcome == "selected").sum() == BUDGET
    document = json.loads((run / "rounds/001/summary.json").read_text())
    assert (
        document["review"]["edited"] == 1
        and "Edited, for the next round" in (run / "rounds/001/report.html").read_text()
    )

    again = winnow("round", "--run", run, "--budget", 10, "--no-control", "--json")
    assert again.code == 0 and again.document["pool"]["version"] == 2, again.err
    second = selection(run, 2)
    (edited,) = set(second.id) - set(before.id)
    second = second.set_index("id")
    assert second.outcome[name] == "dropped_in_review"
    assert second.outcome[edited] in ("selected", "quota_full", "no_quota", "tail_cut", "suspected_noise")
    pool = Pool.open((run / "rounds/002/pool").resolve())
    (metadata,) = pool.metadata(np.flatnonzero(pool.ids == edited))
    assert metadata["edited_from"] == name


def test_what_is_banned_stays_banned_and_quotas_are_met(run):
    proposed = proposal(run)
    source = proposed.source.value_counts().index[1]
    cluster = int(proposed[proposed.source != source].cluster.iloc[0])
    quota = {"quotas": {str(cluster): 1}, "ban_sources": [source], "note": "not this one"}
    assert approve(run, decide(run, **quota)).code == 0
    after = selection(run)
    chosen = after[after.outcome == "selected"]
    assert len(chosen) == BUDGET and source not in set(chosen.source) and (chosen.cluster == cluster).sum() == 1
    entries = json.loads((run / "rounds/001/selection/quotas.json").read_text())
    assert (
        entries[cluster]["quota"] == entries[cluster]["picked"] == 1 and "set in review" in entries[cluster]["reason"]
    )
    trained = str(chosen.id.iloc[0])
    again = (
        "round",
        "--run",
        run,
        "--budget",
        20,
        "--set",
        "train.mode=retrain",
        "--approve",
        decide(run, drop=[trained]),
    )
    assert winnow(*again).code == 0
    second = selection(run, 2)
    assert source not in set(second[second.outcome == "selected"].source)
    rows = set(np.load(run / "rounds/002/packs/rows.npy"))
    assert len(rows) == BUDGET - 1 + 20 and int(second[second.id == trained].row.iloc[0]) not in rows
    assert (second[second.source == source].outcome.isin(["banned_in_review", "held_out_dev", "held_out_test"])).all()


def test_the_control_is_not_trained_on_what_was_banned(run):
    banned = proposal(run).source.value_counts().index[1]
    with_control = ("round", "--run", run, "--budget", BUDGET, "--set", "control=true")
    done = winnow(*with_control, "--approve", decide(run, ban_sources=[banned]))
    assert done.code == 0, done.err
    assert winnow("round", "--run", run, "--budget", 10, "--set", "control=true").code == 0
    pool = Pool.open(next((run / "artifacts/pool").iterdir()))
    drawn = [np.load(folder / "picked.npy") for folder in (run / "artifacts/random").iterdir()]
    assert sorted(map(len, drawn)) == [10, BUDGET]
    rows = np.isin(pool.keys, np.concatenate(drawn))
    assert (pool.sources == banned).sum() > 10 and not (pool.sources[rows] == banned).any()


def test_approving_the_proposal_as_it_is_trains_the_same_adapter(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other, symlinks=True)
    assert approve(run, run.parent / "batch.csv").code == 0
    assert winnow("resume", "--run", other).code == 0
    assert fingerprint(run, "train") == fingerprint(other, "train")
    assert fingerprint(run, "proposal") == fingerprint(other, "selection")


def test_the_same_decision_on_the_same_proposal_is_the_same_artifact(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other, symlinks=True)
    ids = proposal(run).sort_values("pick").id.tolist()[-3:]
    assert approve(run, decide(run, drop=ids)).code == approve(other, decide(run, drop=[*ids[::-1], ids[0]])).code == 0
    for role in ("decision", "selection", "train"):
        assert fingerprint(run, role) == fingerprint(other, role)


@pytest.mark.parametrize("point", ["decision.committed", "reviewed.files", "train.step:2"])
def test_killed_after_the_decision_the_round_goes_on_without_asking_again(run, point):
    ids = proposal(run).sort_values("pick").id.tolist()[-3:]
    path = decide(run, drop=ids)
    command = ("round", "--run", run, "--budget", BUDGET, "--approve", path)
    assert winnow_child(*command, WINNOW_FAILPOINT=point).code == -signal.SIGKILL
    unrecorded = point.startswith("decision")
    result = winnow(*command) if unrecorded else winnow("resume", "--run", run)
    assert result.code == 0, result.err
    after = selection(run)
    assert (after[after.id.isin(ids)].outcome == "dropped_in_review").all() and (
        after.outcome == "selected"
    ).sum() == BUDGET
    assert winnow("doctor", "--run", run, "--json").document["problems"] == []


def test_a_decision_for_another_proposal_is_not_applied_in_silence(run):
    path = decide(run, drop=proposal(run).sort_values("pick").id.tolist()[-1:])
    command = ("round", "--run", run, "--budget", BUDGET, "--approve", path)
    assert winnow_child(*command, WINNOW_FAILPOINT="packs.start").code == -signal.SIGKILL
    changed = ("round", "--run", run, "--budget", BUDGET, "--set", "seed=3")
    refused = winnow(*changed)
    assert refused.code == 5 and "is on another proposal" in refused.err and "round --auto" in refused.err
    assert winnow(*changed, "--auto").code == 0
    assert json.loads((run / "rounds/001/selection/manifest.json").read_text())["stage"] == "selection"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [{**rows[0], "id": "#00000000000000ff"}, *rows[1:]],
            r"batch.csv:2: no example of the pool has the id",
        ),
        (lambda rows: [*rows, rows[3]], r"batch.csv:\d+: \w+ is already in line \d+"),
        (
            lambda rows: [{**rows[0], "keep": "maybe"}, *rows[1:]],
            "batch.csv:2: keep: expected yes, no or pin, found 'maybe'",
        ),
        (lambda rows: [{**rows[0], "id": "1.2E+15"}, *rows[1:]], "batch.csv:2: id: expected 16 hexadecimal digits"),
        (
            lambda rows: [{k: v for k, v in row.items() if k != "keep"} for row in rows],
            "batch.csv:1: expected the columns",
        ),
        (lambda rows: [{**row, "keep": "no"} for row in rows[:1]], None),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_with_its_line(run, change, message):
    result = approve(run, edit(run.parent / "batch.csv", change))
    if message is None:  # nearly everything is dropped, and there is enough else to fill the places
        assert result.code == 0 and "the file lacks them: 29 rows of the batch" in result.out
    else:
        assert result.code == 3 and re.search(message, result.err), result.err


def test_held_out_examples_cannot_be_pinned(run):
    held = proposal(run).query("outcome == 'held_out_test'").id.iloc[0]
    result = approve(run, decide(run, pin=[held]))
    assert result.code == 3 and f"pin: {held} cannot be picked: held out for test" in result.err


def test_a_file_is_recorded_without_training_and_a_later_export_keeps_the_decision(run):
    batch = run.parent / "batch.csv"
    (gone,) = proposal(run).sort_values("pick").id.tolist()[-1:]
    edited = edit(batch, lambda rows: [{**row, "keep": "no" if row["id"] == f"#{gone}" else "yes"} for row in rows])
    recorded = winnow("review", "--run", run, "--approve", edited)
    said = "review: 29 of 30 proposed examples kept, 1 removed, 0 pinned and 1 other added"
    assert recorded.code == 0 and recorded.out.count(said) == recorded.out.count("review: ") == 1, recorded.err
    assert (
        "is waiting before training. Continue with: python cli.py resume" in recorded.out
        and not (run / "artifacts/train").exists()
    )
    shown = winnow("status", "--run", run).out
    assert "is waiting for its review" not in shown and "continue with: python cli.py resume" in shown
    after = run.parent / "after.csv"
    again = winnow("round", "--run", run, "--budget", BUDGET, "--review", "--export", after)
    assert again.code == 0 and "is recorded and stays; 1 example with keep=no" in again.out
    with after.open(encoding="utf-8-sig", newline="") as handle:
        assert {row["id"] for row in csv.DictReader(handle) if row["keep"] == "no"} == {f"#{gone}"}
    assert proposal(run, "selection").set_index("id").outcome[gone] == "dropped_in_review"
    searched = winnow("pool", "search", gone, "--run", run).out
    assert f"{gone}  " in searched and searched.count("dropped in review") == 1
    trained = winnow("resume", "--run", run)
    assert trained.code == 0 and selection(run).set_index("id").outcome[gone] == "dropped_in_review"


def test_flags_that_contradict_each_other_are_refused(run):
    for flags in (("--export", run / "x.csv"), ("--review", "--approve", run / "run.db")):
        assert winnow("round", "--run", run, "--budget", BUDGET, *flags).code == 2
    existing = winnow("round", "--run", run, "--budget", BUDGET, "--review", "--export", run.parent / "batch.csv")
    assert existing.code == 3 and "may contain edits" in existing.err


class Page:
    """The review page's server as its script speaks to it."""

    def __init__(self, said):
        deadline = time.monotonic() + 120
        while (found := re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", "".join(said))) is None:
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        self.client = httpx.Client(base_url=found[1], headers={"x-review-token": found[2]}, timeout=60)

    def get(self, path, **query):
        return self.client.get(path, params=query).raise_for_status().json()

    def post(self, path, **body):
        return self.client.post(path, json=body).raise_for_status().json()


@pytest.fixture
def with_person(monkeypatch):
    """with_person(person, *command): run a command while `person` looks at its page, given what it says so far, as a list."""
    from al.run.session import Session

    said = []
    monkeypatch.setattr(Session, "say", lambda self, line: said.append(line + "\n"))

    def play(person, *command):
        said.clear()
        thread = threading.Thread(target=person, args=(said,))
        thread.start()
        result = winnow(*command)
        thread.join(60)
        return result

    return play


def test_the_page_settles_a_round_which_then_trains_and_says_when_it_is_over(run, monkeypatch):
    from al.review import server
    from al.run.session import Session

    said, seen = [], {}
    monkeypatch.setattr(Session, "say", lambda self, line: said.append(line + "\n"))
    monkeypatch.setattr(server, "LAST_LOOK_SECONDS", 1.0)

    def person():
        page = Page(said)
        batch = page.get("/api/examples", view="batch", limit=200)["rows"]
        left = page.get("/api/examples", view="left")["rows"]
        page.post("/api/change", kind="drop", key=batch[0]["id"], value=True)
        state = page.post("/api/change", kind="pin", key=left[0]["id"], value=True)
        seen.update(out=batch[0]["id"], pin=left[0]["id"], state=state)
        page.post("/api/approve", revision=state["revision"])
        while not (status := page.get("/status"))["finished"]:
            seen["working"] = status["working"]
            time.sleep(0.1)
        seen["finished"] = status["finished"]

    thread = threading.Thread(target=person)
    thread.start()
    result = winnow("round", "--run", run, "--budget", BUDGET, "--review")
    thread.join(60)
    assert result.code == 0, result.err
    assert seen["working"] and seen["finished"].endswith("rounds/001/report.html")
    after = selection(run).set_index("id")
    assert after.outcome[seen["out"]] == "dropped_in_review" and after.outcome[seen["pin"]] == "selected"
    assert (after.outcome == "selected").sum() == BUDGET and seen["state"]["resume"] is None


def test_stopped_while_it_waits_the_draft_is_kept_and_review_shows_it_again(run, with_person):
    from al.run import progress

    seen = {}

    def leaves(said):
        page = Page(said)
        seen["out"] = page.get("/api/examples", view="batch")["rows"][0]["id"]
        page.post("/api/change", kind="drop", key=seen["out"], value=True)
        progress._stop_requested.set()

    def returns(said):
        page = Page(said)
        state = page.get("/api/state")
        seen.update(draft=state["draft"], resume=state["resume"])
        page.post("/api/approve", revision=state["revision"])

    stopped = with_person(leaves, "round", "--run", run, "--budget", BUDGET, "--review")
    assert stopped.code == 130 and "continue" in stopped.err
    reviewed = with_person(returns, "review", "--run", run)
    assert reviewed.code == 0 and "1 removed" in reviewed.out and "resume" in reviewed.out, reviewed.err
    assert seen["draft"]["drop"] == [seen["out"]] and seen["resume"] == f"python cli.py resume --run {run}"
    assert winnow("resume", "--run", run).code == 0
    assert selection(run).set_index("id").outcome[seen["out"]] == "dropped_in_review"
    nothing = winnow("review", "--run", run)
    assert nothing.code == 5 and "nothing to review, no round is open" in nothing.err


def begin_review(run, name):
    """Leave a draft that drops one example, as a page leaves it that was closed."""
    from al.review.ask import review_folder
    from al.review.decision import Decision
    from al.review.draft import save_draft
    from al.run import rounds
    from al.run.store import Run

    with Run.read(run) as opened:
        read = rounds.required(opened, 1, "proposal").fingerprint
    save_draft(review_folder(run, 1), Decision(proposal=read, drop=[name]))


def test_a_decision_from_a_file_takes_the_place_of_an_older_draft(run, with_person):
    first, second = proposal(run).sort_values("pick").id.tolist()[-2:]
    begin_review(run, first)
    command = ("round", "--run", run, "--budget", BUDGET, "--approve", decide(run, drop=[second]))
    approved = winnow_child(*command, WINNOW_FAILPOINT="packs.start")
    assert "kept as draft-1.json" in approved.out
    assert json.loads((run / "rounds/001/review/draft-1.json").read_text())["drop"] == [first]
    seen = {}

    def person(said):
        page = Page(said)
        state = page.get("/api/state")
        seen.update(draft=state["draft"], resume=state["resume"])
        page.post("/api/approve", revision=state["revision"])

    assert with_person(person, "review", "--run", run).code == 0
    assert seen["draft"]["drop"] == [second]


@pytest.mark.parametrize("decided", [False, True])
def test_an_unapproved_draft_gets_a_note_before_training(run, decided):
    first, second = proposal(run).sort_values("pick").id.tolist()[-2:]
    if decided:
        command = ("round", "--run", run, "--budget", BUDGET, "--approve", decide(run, drop=[second]))
        assert winnow_child(*command, WINNOW_FAILPOINT="packs.start").code == -signal.SIGKILL
    begin_review(run, first)
    resumed = winnow_child("resume", "--run", run, WINNOW_FAILPOINT="packs.start")
    assert "note: a review on the page was not approved and is not applied" in resumed.out
