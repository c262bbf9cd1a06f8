"""Stages of the study from plan to record, with a model of a few thousand weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_models import saved, table

from benchmarks.proving_ground import (
    by_gradient,
    by_loss,
    labelling,
    near,
    peer_picks,
    picking,
    planning,
    side_by_side,
    stages,
    tables,
)  # fmt: skip
from benchmarks.proving_ground.__main__ import parser
from benchmarks.proving_ground.ground import KIND, POWER, PROPORTIONAL, WITH
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
    arrays |= {name: np.zeros(len(rows.lengths), int) for name in ("status", "dropped")}
    arrays["target_counts"] = np.array([np.count_nonzero(marks) for marks in rows.marks])
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


def command(work: Work, *words: str) -> None:
    """Run one subcommand on the work folder."""
    given = parser().parse_args([words[0], "--work", str(work.root), *words[1:]])
    given.function(given)


def planned(work: Work, record: Path, *names: str) -> list[dict]:
    """The plan of the stages."""
    command(work, "plan", "--record", str(record), "--stages", *names)
    return work.plan(MODEL)


def played(work: Work, loaded: Base, record: Path, runs: list[dict]) -> list[dict]:
    """Play those of the runs that are open and have their picks, and record them; returns the runs."""
    share, out, picks = work / "share.json", work / "results/0.rows.jsonl", work.picks()
    share.write_text(json.dumps([run for run in runs if not run["recorded"] and name_of(run) in picks]))
    player = Player(loaded, work.inputs(MODEL), out, work.root)
    assert play_plan(player, share, float("inf"), at_once=20_000) == 0
    command(work, "record", "--record", str(record), "--results", str(work / "results"))
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
    monkeypatch.setitem(planning.LIST, "seeds", [1, 2])
    plan = played(work, loaded, record, planned(work, record, "early", "second"))
    assert {run["stage"] for run in plan} == {"early"}
    document = json.loads(record.read_text())
    (row,) = (row for row in document["rows"] if (row["strategy"], row["seed"]) == (WITH, 2))
    row["paired"] |= {"nll": [-1.0, 0.01], "em": [0.0, 0.0], "decides": "nll"}  # seed 2 has its answer
    record.write_text(json.dumps(document))
    (work / "results/0.rows.jsonl").unlink()
    plan = played(work, loaded, record, planned(work, record, "early", "second"))
    second = [run for run in plan if run["stage"] == "second"]
    assert [(run["seed"], run["strategy"]) for run in second] == [(1, in_rounds(name, 2)) for name in ("random", WITH)]
    picks = work.picks()
    for run in second:
        ours, first = picks[name_of(run)], {**run, "strategy": run["picked_as"], "budget": EARLY}
        assert len(np.unique(ours)) == 2 * EARLY
        assert ours[:EARLY].tolist() == picks[name_of(first)].tolist()
        assert trained.count(sorted(ours[:EARLY])) == 2  # by itself, and as the first round of two
    counts = np.bincount(TASK[picks[name_of(next(run for run in second if run["picked_as"] == WITH))]])
    assert counts[3] == 50 and counts[2] == 100  # the rest of what the first round left of the small ones
    assert {"nll", "em", "decides", "of_pool"} == rows_of(record, in_rounds(WITH, 2))[1]["paired"].keys()
    said = json.loads(record.with_name("record_summary.json").read_text())["first_rounds"]
    assert sum(said["second_rounds"].values()) == 1 and said["pays"] == 1
    assert all(run["recorded"] for run in planned(work, record, "second"))


def test_what_serves_the_pools_mix_is_compared_with_random_task_by_task(work, loaded, tmp_path, monkeypatch):
    monkeypatch.setitem(planning.LIST, "seeds", [1])
    record = tmp_path / "record.json"
    plan = played(work, loaded, record, planned(work, record, "goal"))
    assert [(run["seed"], run["strategy"]) for run in plan] == [(1, name) for name in planning.COMPARED]
    sizes, picks = np.bincount(TASK), work.picks()
    counts = {run["strategy"]: np.bincount(TASK[picks[name_of(run)]]) for run in plan}
    assert np.abs(counts[PROPORTIONAL] - sizes * 1000 / ROWS).max() < 1
    assert counts[POWER].tolist() == [600, 250, 100, 50]  # small ones whole, the rest left to the largest
    few = picking.spread(np.arange(ROWS, dtype=np.uint64), TASK, {"budget": 200, "seed": 1}, POWER)
    assert np.abs(np.bincount(TASK[few]) - 200 * sizes**0.75 / (sizes**0.75).sum()).max() < 1
    row = rows_of(record, PROPORTIONAL)[1]
    assert set(row["paired"]["of_pool"]) == {"nll", "em"} and row["paired"]["nll"][0] != row["paired"]["of_pool"]["nll"]
    assert set(json.loads(record.with_name("record_summary.json").read_text())["by_goal_1000"]) == set(planning.GOAL)
    found = stage_tables(json.loads(record.read_text())["rows"])["goal"]
    assert found.startswith("Each task weighted")
    assert found.splitlines()[-1].split(" | ")[2].startswith(f"{row['paired']['of_pool']['nll']:+.3f} (1)")
    document = json.loads(record.read_text())
    for row in document["rows"]:
        if (row["strategy"], row["seed"]) == (PROPORTIONAL, 1):
            del row["paired"]
    record.write_text(json.dumps(document))
    open_ = {(run["seed"], run["strategy"]) for run in planned(work, record, "goal") if not run["recorded"]}
    assert open_ == {(1, "random"), (1, PROPORTIONAL)}  # the record keeps no tasks of random to compare with


def plant_copies(work: Work) -> np.ndarray:
    """Give the pool texts, plant near copies of them (also in its tokens), find what the search leaves, and the kinds of that.

    Returns the row that each of the grown pool copies, or is."""
    talks = [[("user", f"Which town has number {i}?"), ("assistant", f"It is town {i}.")] for i in range(ROWS)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in talks]
    (work / f"pools/{POOL}").mkdir(parents=True)
    (work / f"pools/{POOL}/pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    of = near.with_copies(rows)[1]
    inputs, splits, copied = work.inputs(), dict(np.load(work.inputs() / "splits.npz")), of[ROWS:]
    tokens = {file.stem: np.load(file) for file in (inputs / "tokens").glob("*.npy")}
    spans = [slice(*tokens["offsets"][row : row + 2]) for row in copied]
    numbers = np.concatenate([np.arange(ROWS), len(tokens["offsets"]) - 1 + np.arange(len(copied))])
    ends = tokens["offsets"][-1] + np.cumsum([span.stop - span.start for span in spans])
    more = {name: [tokens[name][span] for span in spans] for name in ("ids", "targets")}
    more |= {name: [tokens[name][copied]] for name in ("status", "dropped", "target_counts")} | {"offsets": [ends]}
    for name, arrays in more.items():
        np.save(inputs / f"tokens/{name}.npy", np.concatenate([tokens[name], *arrays]))
    splits |= {f"{POOL}|near": numbers, f"{POOL}|near|of": of}
    splits |= {f"{POOL}|near|key": np.random.default_rng(1).permutation(len(of)).astype(np.uint64)}
    splits |= {f"{POOL}|near|task": TASK[of], f"{POOL}|near|source": TASK[of]}
    np.savez(inputs / "splits.npz", **splits)
    vectors = np.zeros((numbers.max() + 1, 64), np.float16)
    vectors[numbers] = np.random.default_rng(2).normal(size=(ROWS, 64))[of]
    np.save(work / "embeddings.npy", vectors)
    for noise, rows_of in ((near.NOISE, of), (near.SEARCHED, np.arange(ROWS))):
        task = TASK[rows_of[picking.Picker.of(work).left(POOL, noise)]]
        np.savez(work / f"kinds/{POOL}-{noise}_1.npz", of=task, shared=np.ones(4), open=np.zeros(4, bool))
    return of


def test_near_copies_from_plan_to_record(work, loaded, tmp_path, monkeypatch):
    monkeypatch.setitem(planning.LIST, "seeds", [1])
    of, record = plant_copies(work), tmp_path / "record.json"
    plan, picks = planned(work, record, "near"), work.picks()
    copies = [run for run in plan if run["noise"] == near.NOISE]
    assert [run["strategy"] for run in copies] == [near.ALL, "random", WITH, KIND] and len(plan) == 4 + 3 + 2
    assert all(name_of(run) in picks for run in plan)
    place = dict(zip(np.load(work.inputs() / "splits.npz")[f"{POOL}|near"].tolist(), of.tolist(), strict=True))
    unlike = {run["strategy"]: len({place[row] for row in picks[name_of(run)].tolist()}) for run in copies}
    assert unlike.pop(near.ALL) < 900 and set(unlike.values()) == {1000}  # the others pick no row twice
    (work / "results/near.json").write_text(json.dumps({"near": {POOL: near.search_figures(of, np.arange(ROWS))}}))
    played(work, loaded, record, copies)
    document = json.loads(record.read_text())
    assert {row["strategy"] for row in document["rows"]} == {near.ALL, *unlike}
    twice = [{**row, "seed": seed} for row in document["rows"] for seed in (1, 2)]  # a standard error needs two
    lines = tables._near(twice, document["near_duplicates"]).splitlines()
    assert lines[2] == f"| {POOL}: 1,714 | 514 | 514 | 100% | 0% |"
    assert lines[-1].startswith(f"| {MODEL}, {POOL} | ") and "–" not in lines[-1]
    assert [run["recorded"] for run in planned(work, record, "near")] == [True] * 4 + [False] * 5


def test_only_rules_that_see_the_models_hidden_states_or_losses_have_them_measured(work, tmp_path):
    runs = planned(work, tmp_path / "record.json", "peers", "label", "by_loss", "baselines")
    waiting = {run["strategy"] for run in runs if stages.needs_measuring(work, run)}
    assert {"rds to dev", "less, DataFlex", *by_loss.STRATEGIES} <= waiting
    assert waiting.isdisjoint({"random", "oracle_size", *labelling.STRATEGIES, *by_gradient.STRATEGIES})


def test_answers_are_measured_when_the_clusters_of_all_seeds_are_there(work, tmp_path, monkeypatch):
    monkeypatch.setitem(planning.LIST, "seeds", [1, 2])
    runs = [r for r in planned(work, tmp_path / "record.json", "label") if r["strategy"] in labelling.STRATEGIES]
    one, measured = work / f"kinds/clusters_{POOL}_2.npz", work / f"unsure/{MODEL}_{POOL}.npz"
    one.rename(tmp_path / "later.npz")
    command(work, "unsure", "--device", "cpu")
    assert {stages.lacking(work, run) for run in runs} == {"clusters", f"answers of {MODEL}"} and not measured.exists()
    (tmp_path / "later.npz").rename(one)
    command(work, "unsure", "--device", "cpu")
    assert measured.exists() and {stages.lacking(work, run) for run in runs} == {None}


def test_gradients_are_measured_where_a_peer_needs_them(work, loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(planning.LIST, "seeds", [1])
    monkeypatch.setattr("trainer.model.Base.load", lambda config: loaded)
    splits, record = work.inputs(MODEL) / "splits.npz", tmp_path / "record.json"
    small = {name: array[:150] if "|pool" in name else array for name, array in np.load(splits).items()}
    np.savez(splits, **small)
    shutil.rmtree(work / "kinds")  # those of the whole pool
    plan = planned(work, record, "peers")
    assert f"picks not made: needs gradients of {MODEL}\n" in capsys.readouterr().out
    orders = [[r["order"] for r in plan if (r["strategy"] in peer_picks.LATER) == later] for later in (False, True)]
    assert max(orders[0]) < min(orders[1]) and len(orders[1]) == 3  # dattri-llm's is on p3-power only
    dattri = {**plan[0], "strategy": by_gradient.DATTRI}
    assert stages.lacking(work, dattri).startswith("the packages of dattri-llm in ")
    (work / "peers/dattri").mkdir(parents=True)
    assert stages.lacking(work, dattri) == f"gradients of {MODEL} by dattri-llm"
    command(work, "gradients", "--device", "cpu", "--minutes", "0")
    assert "gradients of 0 of 1 pools" in capsys.readouterr().out.splitlines()[-1]
    command(work, "gradients", "--device", "cpu")
    assert f"{MODEL}: gradients of 1 of 1 pools" in capsys.readouterr().out.splitlines()[-1]
    command(work, "picks")
    played(work, loaded, record, plan)
    rows = json.loads(record.read_text())["rows"]
    assert [row["strategy"] for row in rows] == [by_gradient.OWN]
    assert len(np.unique(work.picks()[f"{MODEL}|{POOL}|none|False|1000|{by_gradient.OWN}|1"])) == 150  # all
    tables = stage_tables([*rows, {**rows[0], "strategy": "random"}])
    assert [name for name, text in tables.items() if text] == ["peers"]
    found = tables["peers"]
    assert found.splitlines()[2].count("|") == found.splitlines()[-1].count("|") and "+0.000 (1)" in found
