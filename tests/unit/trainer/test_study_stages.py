"""Stages of the study from plan to record, with a model of a few thousand weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_models import saved, table

from benchmarks.proving_ground import picking, planning, side_by_side
from benchmarks.proving_ground.__main__ import parser
from benchmarks.proving_ground.ground import POWER, PROPORTIONAL, WITH
from benchmarks.proving_ground.planning import EARLY, in_rounds
from benchmarks.proving_ground.player import Player, name_of, play_plan
from benchmarks.proving_ground.stage_tables import stage_tables
from benchmarks.proving_ground.work import Work
from trainer.model import Base

MODEL, POOL, ROWS, HELD = "smollm2-135m", "sums", 1200, 20
TASK = np.repeat(np.arange(4), [800, 250, 100, 50])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The base model."""
    return Base.load(saved(tmp_path_factory.mktemp("model")))


@pytest.fixture
def work(tmp_path, loaded) -> Work:
    """A work folder with one pool of 1,200 rows in four uneven tasks, 20 dev and 20 test rows, its kinds and clusters."""
    found = Work(tmp_path / "work")
    inputs = found / f"inputs/{MODEL}"
    for folder in ("plans", "results", "kinds", f"inputs/{MODEL}/tokens"):
        (found / folder).mkdir(parents=True)
    models = {MODEL: loaded.config.name}
    (found / "about.json").write_text(json.dumps({"pools": [POOL], "cut": None, "models": models, "embedder": None}))
    (found / "results/machine.json").write_text(json.dumps({"device": "CPU", "versions": "none"}))
    rng = np.random.default_rng(0)
    rows = table(rng.integers(6, 12, ROWS + 2 * HELD).tolist())
    arrays = {"ids": np.concatenate(rows.documents), "targets": np.concatenate(rows.marks)}
    arrays["offsets"] = np.concatenate([[0], np.cumsum(rows.lengths)])
    arrays |= {name: np.zeros(len(rows.lengths), int) for name in ("status", "dropped", "target_counts")}
    for name, array in arrays.items():
        np.save(inputs / f"tokens/{name}.npy", array)
    splits = {f"{POOL}|pool": np.arange(ROWS), f"{POOL}|pool|key": rng.permutation(ROWS).astype(np.uint64)}
    splits |= {f"{POOL}|pool|task": TASK, f"{POOL}|pool|source": TASK}
    for number, part in enumerate(("dev", "test")):
        splits[f"{POOL}|{part}"] = ROWS + number * HELD + np.arange(HELD)
        splits[f"{POOL}|{part}|task"] = np.arange(HELD) % 4
    np.savez(inputs / "splits.npz", **splits)
    for seed in (1, 2, 3):
        np.savez(found / f"kinds/{POOL}_{seed}.npz", of=TASK, shared=np.ones(4), open=np.zeros(4, bool))
        np.savez(found / f"kinds/clusters_{POOL}_{seed}.npz", of=TASK, distinct=1.0)
    return found


def command(work: Work, record: Path, *words: str) -> None:
    """Run one subcommand on the work folder."""
    given = parser().parse_args([words[0], "--work", str(work.root), "--record", str(record), *words[1:]])
    given.function(given)


def played(work: Work, loaded: Base, record: Path, *stages: str) -> list[dict]:
    """Plan the stages, play what is open, record it; returns the plan."""
    command(work, record, "plan", "--stages", *stages)
    runs = work.plan(MODEL)
    share, out = work / "share.json", work / "results/0.rows.jsonl"
    share.write_text(json.dumps([run for run in runs if not run["recorded"]]))
    player = Player(loaded, work.inputs(MODEL), out, work.root)
    assert play_plan(player, share, float("inf"), at_once=20_000) == 0
    command(work, record, "record", "--results", str(work / "results"))
    return runs


def rows_of(record: Path, strategy: str) -> dict[int, dict]:
    """{seed: row} of the record."""
    return {row["seed"]: row for row in json.loads(record.read_text())["rows"] if row["strategy"] == strategy}


def test_second_rounds_go_on_where_the_first_leaves_the_question_open(work, loaded, tmp_path, monkeypatch):
    record, trained, train = tmp_path / "record.json", [], side_by_side.train_side_by_side

    def watched(base, rows_table, runs, *rest):
        trained.extend(sorted(rows) for rows in runs)
        return train(base, rows_table, runs, *rest)

    monkeypatch.setattr(side_by_side, "train_side_by_side", watched)
    assert not [run for run in played(work, loaded, record, "early", "second") if run["stage"] == "second"]
    document = json.loads(record.read_text())
    (row,) = (row for row in document["rows"] if (row["strategy"], row["seed"]) == (WITH, 2))
    row["paired"] |= {"nll": [-1.0, 0.01], "em": [0.0, 0.0], "decides": "nll"}  # seed 2 has its answer
    record.write_text(json.dumps(document))
    (work / "results/0.rows.jsonl").unlink()
    plan = played(work, loaded, record, "early", "second")
    second = [run for run in plan if run["stage"] == "second"]
    assert {(run["seed"], run["strategy"]) for run in second} == {
        (seed, in_rounds(name, 2)) for seed in (1, 3) for name in ("random", WITH)
    }
    picks = work.picks()
    for run in second:
        ours, first = picks[name_of(run)], {**run, "strategy": run["picked_as"], "budget": EARLY}
        assert len(np.unique(ours)) == 2 * EARLY
        assert ours[:EARLY].tolist() == picks[name_of(first)].tolist()
        assert trained.count(sorted(ours[:EARLY])) == 2  # by itself, and as the first round of two
    counts = np.bincount(TASK[picks[name_of(next(run for run in second if run["picked_as"] == WITH))]])
    assert counts[3] == 50 and counts[2] == 100  # the rest of what the first round left of the small ones
    assert {"nll", "em", "decides", "of_pool"} == rows_of(record, in_rounds(WITH, 2))[3]["paired"].keys()
    said = json.loads(record.with_name("record_summary.json").read_text())["first_rounds"]
    assert sum(said["second_rounds"].values()) == 2 and said["pays"] == 1
    assert all(run["recorded"] for run in (command(work, record, "plan", "--stages", "second"), work.plan(MODEL))[1])


def test_what_serves_the_pools_mix_is_compared_with_random_task_by_task(work, loaded, tmp_path, monkeypatch):
    monkeypatch.setitem(planning.LIST, "seeds", [1, 2])
    record = tmp_path / "record.json"
    plan = played(work, loaded, record, "goal")
    assert [(run["seed"], run["strategy"]) for run in plan] == [(s, n) for s in (1, 2) for n in planning.COMPARED]
    sizes, picks = np.bincount(TASK), work.picks()
    counts = {run["strategy"]: np.bincount(TASK[picks[name_of(run)]]) for run in plan if run["seed"] == 1}
    assert np.abs(counts[PROPORTIONAL] - sizes * 1000 / ROWS).max() < 1
    assert counts[POWER].tolist() == [600, 250, 100, 50]  # small ones whole, the rest left to the largest
    few = picking.spread(np.arange(ROWS, dtype=np.uint64), TASK, {"budget": 200, "seed": 1}, POWER)
    assert np.abs(np.bincount(TASK[few]) - 200 * sizes**0.75 / (sizes**0.75).sum()).max() < 1
    row = rows_of(record, PROPORTIONAL)[1]
    assert set(row["paired"]["of_pool"]) == {"nll", "em"} and row["paired"]["nll"][0] != row["paired"]["of_pool"]["nll"]
    assert set(json.loads(record.with_name("record_summary.json").read_text())["by_goal_1000"]) == set(planning.GOAL)
    (found,) = (t for t in stage_tables(json.loads(record.read_text())["rows"]) if t.startswith("Each task weighted"))
    mean = np.mean([row["paired"]["of_pool"]["nll"] for row in rows_of(record, PROPORTIONAL).values()])
    assert found.splitlines()[-1].split(" | ")[2].startswith(f"{mean:+.3f} ± ")
    document = json.loads(record.read_text())
    for row in document["rows"]:
        if (row["strategy"], row["seed"]) == (PROPORTIONAL, 2):
            del row["paired"]
    record.write_text(json.dumps(document))
    command(work, record, "plan", "--stages", "goal")
    open_ = {(run["seed"], run["strategy"]) for run in work.plan(MODEL) if not run["recorded"]}
    assert open_ == {(2, "random"), (2, PROPORTIONAL)}  # the record keeps no tasks of random to compare with
