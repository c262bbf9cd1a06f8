"""`repair` makes run.db again from what lies next to it: the same rows, and the next round is the same."""

from __future__ import annotations

import json
import shutil
import sqlite3

import pytest
from command_line import winnow

from al.run import integrity, rounds
from al.run.database import ROWS_SHA256
from al.run.store import Run

TABLES = {
    "artifacts": "stage, fingerprint, manifest_sha256",
    "pools": "version, fingerprint",
    "rounds": "round, state, budget, config",
    "round_artifacts": "round, role, stage, fingerprint",
    "meta": "key, value",
}


def rows(run):
    with sqlite3.connect(run / "run.db") as db:
        found = {
            name: sorted(db.execute(f"SELECT {columns} FROM {name}").fetchall()) for name, columns in TABLES.items()
        }
    return found | {"meta": [row for row in found["meta"] if row[0] != ROWS_SHA256]}  # it covers times too


@pytest.fixture
def run(two_rounds, tmp_path):
    """A copy of a run of two rounds."""
    copy = tmp_path / "run"
    shutil.copytree(two_rounds[0], copy, symlinks=True)
    integrity._checked.clear()
    return copy


def lose(run, how):
    if how == "deleted":
        for name in ("run.db", "run.db-wal", "run.db-shm"):
            (run / name).unlink(missing_ok=True)
    elif how == "emptied":
        (run / "run.db").write_bytes(b"")
        (run / "run.db-wal").unlink(missing_ok=True)
    else:
        content = bytearray((run / "run.db").read_bytes())
        content[4096:] = bytes(len(content) - 4096)
        (run / "run.db").write_bytes(content)


@pytest.mark.parametrize("how", ["deleted", "emptied", "zeros"])
def test_every_row_comes_back_and_the_next_round_is_the_same(run, two_rounds, tmp_path, how):
    before = rows(run)
    lose(run, how)
    refused = winnow("status", "--run", run)
    assert refused.code == 5 and f"python cli.py repair --run {run}" in refused.err
    repaired = winnow("repair", "--run", run, "--json")
    assert repaired.code == 0, repaired.err
    assert repaired.document["lost"] == [] and repaired.document["rounds"] == {"done": [1, 2], "open": []}
    assert rows(run) == before
    assert winnow("doctor", "--run", run).code == 0
    if how == "deleted":
        same = tmp_path / "same"
        shutil.copytree(two_rounds[0], same, symlinks=True)
        third = [winnow("round", "--run", path, "--budget", 10, "--no-control", "--json") for path in (run, same)]
        assert [result.code for result in third] == [0, 0], third[0].err
        assert len({str((path / "rounds/003/selection").resolve().name) for path in (run, same)}) == 1


def test_a_run_of_a_version_that_wrote_no_such_events_is_made_again_from_its_links(run):
    before, kinds = rows(run), ("round.opened", "round.role", "round.done", "pool.version", "pool.labels")
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(line for line in lines if json.loads(line)["event"] not in kinds))
    lose(run, "deleted")
    repaired = winnow("repair", "--run", run, "--json")
    assert repaired.code == 0, repaired.err
    after = rows(run)
    for name in ("artifacts", "pools"):
        assert after[name] == before[name]
    assert [row[:3] for row in after["rounds"]] == [row[:3] for row in before["rounds"]]
    assert [json.loads(row[3]) for row in after["rounds"]] == [json.loads(row[3]) for row in before["rounds"]]
    assert after["round_artifacts"] == before["round_artifacts"]


def test_an_open_round_is_open_again_and_is_finished_by_resume(run):
    config = json.loads((run / "rounds/002/config.json").read_text())
    with Run.create_or_open(run) as opened:
        rounds.open_round(opened, 3, "10", {**config, "control": False})
        rounds.record(opened, 3, "pool", rounds.required(opened, 2, "pool"))
    before = rows(run)
    lose(run, "deleted")
    repaired = winnow("repair", "--run", run)
    assert repaired.code == 0 and "open rounds [3]" in repaired.out and "resume" in repaired.out
    assert rows(run) == before
    assert winnow("resume", "--run", run, "--json").code == 0


def test_what_is_gone_is_listed_and_made_again(run):
    lost = (run / "rounds/001/train").resolve()
    shutil.rmtree(lost)
    lose(run, "deleted")
    repaired = winnow("repair", "--run", run, "--json")
    assert f"round 1: train (train/{lost.name})" in repaired.document["lost"]
    assert repaired.document["rounds"] == {"done": [2], "open": [1]}
    assert winnow("resume", "--run", run, "--json").code == 0
    assert lost.is_dir() and winnow("doctor", "--run", run).code == 0


def test_artifacts_of_another_run_are_named_and_not_taken_in(run):
    stage = run / "artifacts/split"
    (own,) = {path.resolve() for path in (run / "rounds/002/split", run / "rounds/001/split")} or [None]
    stranger = json.loads((own / "manifest.json").read_text())
    from al.run.artifacts import fingerprint

    stranger |= {"run": "another", "params": {"strange": 1}}
    stranger["fingerprint"] = fingerprint("split", stranger["version"], stranger["inputs"], stranger["params"])
    (stage / stranger["fingerprint"]).mkdir()
    (stage / stranger["fingerprint"] / "manifest.json").write_text(json.dumps(stranger))
    before = rows(run)
    lose(run, "deleted")
    assert winnow("repair", "--run", run, "--json").document["lost"] == [
        f"split/{stranger['fingerprint']}: an artifact of another run"
    ]
    assert rows(run) == before


def test_a_whole_database_and_a_folder_that_is_no_run_are_left_alone(run, tmp_path):
    content = (run / "run.db").read_bytes()
    refused = winnow("repair", "--run", run)
    assert refused.code == 5 and "nothing to repair" in refused.err and (run / "run.db").read_bytes() == content
    (tmp_path / "other").mkdir()
    assert winnow("repair", "--run", tmp_path / "other").code == 5
    assert winnow("repair", "--run", tmp_path / "absent").code == 5 and not (tmp_path / "absent").exists()
