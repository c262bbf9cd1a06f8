"""The study's command: what it plans, carries, deals to players and records."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.proving_ground import packing, playing, prepare, record, stages
from benchmarks.proving_ground.player import identity, name_of, play_plan, waiting
from benchmarks.proving_ground.work import Work, whole


def run(seed: int, strategy: str = "random", stage: str = "baselines", order: int = 0, **more) -> dict:
    key = {"model": "m", "pool": "sums", "noise": "none", "sources": False, "budget": 4, "strategy": strategy}
    return {
        **key,
        "seed": seed,
        "learning_rate": 1e-3,
        "split": "test",
        "order": order,
        "stage": stage,
        "recorded": False,
        **more,
    }


def picks_of(runs: list[dict], size: int = 4) -> dict[str, np.ndarray]:
    return {name_of(entry): np.arange(size) + entry["seed"] for entry in runs}


@pytest.fixture
def work(tmp_path) -> Work:
    """A work folder with a plan of six runs, their picks and ten rows of ten tokens."""
    work, runs = Work(tmp_path / "work"), [run(seed) for seed in range(5)] + [run(9, stage="curve")]
    work.root.mkdir()
    (work / "about.json").write_text(
        json.dumps({"pools": ["sums"], "cut": None, "models": {"m": "../m"}, "embedder": None})
    )
    for folder in ("plans", "results", "inputs/m/tokens"):
        (work / folder).mkdir(parents=True)
    (work / "plans/m.json").write_text(json.dumps(runs))
    np.savez(work / "picks.npz", **picks_of(runs))
    np.save(work / "inputs/m/tokens/offsets.npy", np.arange(0, 210, 10))
    return work


def test_parts_joined_are_what_was_written_and_none_is_too_large(tmp_path):
    data = np.random.default_rng(0).bytes(1000)
    parts = packing.Parts(tmp_path, 300)
    for start in range(0, 1000, 70):
        parts.write(data[start : start + 70])
    parts.close()
    files = sorted(tmp_path.glob("part-*"))
    assert [file.stat().st_size for file in files] == [300, 300, 300, 100]
    assert b"".join(file.read_bytes() for file in files) == data
    assert (tmp_path / "sums.txt").read_text().split()[0] == hashlib.sha256(data[:300]).hexdigest()


def test_a_damaged_part_stops_the_start(tmp_path):
    parts = packing.Parts(tmp_path, 50)
    parts.write(b"x" * 80)
    parts.close()
    (tmp_path / "part-001").write_bytes(b"y" * 30)
    command = ["sh", packing.SCRIPTS / "start.sh", tmp_path, tmp_path / "study", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "part-001" in done.stdout + done.stderr
    assert not list((tmp_path / "study").iterdir())


def test_every_run_is_dealt_once_and_in_the_order_of_priority():
    runs = [run(seed, order=seed % 3) for seed in range(20)]
    dealt = playing.shares(runs, picks_of(runs), np.full(40, 10), 3, tokens=600)
    assert sorted(entry["seed"] for share in dealt for entry in share) == list(range(20))
    for share in dealt:
        orders = [entry["order"] for entry in share]
        assert orders == sorted(orders) and len(share) >= 4


def test_runs_in_the_record_and_finished_rows_are_not_open(work):
    plan = work.plan("m")
    plan[0]["recorded"] = True
    (work / "plans/m.json").write_text(json.dumps(plan))
    rows = [json.dumps(run(1)) + "\n", json.dumps(run(2))]  # the second is being written
    (work / "results/a.rows.jsonl").write_text("".join(rows))
    assert [entry["seed"] for entry in playing.open_runs(work, "m")] == [2, 3, 4, 9]
    assert list(playing.counts(work)) == [("m", "baselines", 2, 5), ("m", "curve", 0, 1)]


PLAYER = """
import json, sys
share, out = json.load(open(sys.argv[1])), open(sys.argv[2], "a")
for entry in share[: int(sys.argv[3])]:
    out.write(json.dumps(entry) + "\\n")
sys.exit(int(sys.argv[4]))
"""


def session_of(work: Work, monkeypatch, most: int, code: int) -> tuple[playing.Session, list[str]]:
    """A session whose players write rows of at most `most` of their runs and end with `code`."""
    lines: list[str] = []

    def player(self, model, share):
        number = len(list((work / "results").iterdir()))
        plan, out = work / f"share{number}.json", work / f"results/{number}.rows.jsonl"
        plan.write_text(json.dumps(share))
        self.plans[model].append(plan)
        out.touch()
        return subprocess.Popen([sys.executable, "-S", "-c", PLAYER, str(plan), str(out), str(most), str(code)])

    monkeypatch.setattr(playing.Session, "_player", player)
    monkeypatch.setattr(playing, "PAUSE", 0.01)
    return playing.Session(work, {"m": 2}, minutes=1, tokens=600, log=lines.append), lines


def test_a_session_plays_until_nothing_is_open(work, monkeypatch):
    session, lines = session_of(work, monkeypatch, most=99, code=0)
    session.play()
    assert not playing.open_runs(work, "m") and len(lines) == 1


def test_players_take_the_cards_in_turn(work, monkeypatch):
    started = []
    monkeypatch.setattr(
        playing.Session, "_start", lambda self, command, name, more: started.append(more["CUDA_VISIBLE_DEVICES"])
    )
    session = playing.Session(work, {"m": 3}, minutes=1, tokens=1, cards=("0", "2"))
    session._deal("m")
    assert started == ["2", "0", "2"] or started == ["0", "2", "0"]


def test_what_dead_players_leave_is_dealt_again_but_not_for_ever(work, monkeypatch):
    session, lines = session_of(work, monkeypatch, most=1, code=3)
    session.play()
    assert len(playing.open_runs(work, "m")) == 1  # two players, two, one: a row each
    assert sum("ended with 3" in line for line in lines) == playing.TRIES


def test_runs_are_given_to_players_at_work_once_their_picks_are_written(work, monkeypatch):
    plan = work.plan("m")
    (work / "plans/m.json").write_text(json.dumps([*plan, run(20, picks="m|late"), run(21, picks="m|never")]))
    session, lines = session_of(work, monkeypatch, most=99, code=0)

    def player(self, model, share):
        self.plans[model].append(work / f"share{len(self.plans[model])}.json")
        self.plans[model][-1].write_text(json.dumps(share))
        return subprocess.Popen(["sleep", "60"])

    monkeypatch.setattr(playing.Session, "_player", player)
    assert session._players("m") and session._players("m") and len(lines) == 1
    np.savez(work / "picks-m.npz", **{"m|late": np.arange(4)})
    assert session._players("m") and session._players("m")
    shares = [json.loads(file.read_text()) for file in session.plans["m"]]
    for process in session.dealt["m"]:
        process.kill()
        process.wait()
    assert sorted(entry["seed"] for share in shares for entry in share) == [0, 1, 2, 3, 4, 9, 20]


def test_a_player_reads_its_plan_again_and_leaves_out_what_it_has(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps([run(1), run(2), {**run(3), "learning_rate": None}]))
    found = waiting(plan, {identity(run(1))}, rate=0.5)
    assert [(entry["seed"], entry["learning_rate"]) for entry in found] == [(2, 1e-3), (3, 0.5)]


class Played:
    """A player that has no model: groups of more than two runs are too large for its memory, and seed 3 fails."""

    def __init__(self, out):
        self.out, self.groups = out, []
        self.table = SimpleNamespace(lengths=np.full(40, 10))

    def find_picks(self):
        return picks_of([run(seed) for seed in range(6)])

    def play(self, group, log):
        self.groups.append([entry["seed"] for entry in group])
        if len(group) > 2:
            raise torch.OutOfMemoryError("too large")
        if 3 in self.groups[-1]:
            raise ValueError("no loss")
        yield from group


def test_a_group_that_fails_does_not_stop_the_others_and_one_too_large_is_halved(tmp_path, capsys):
    (tmp_path / "plan.json").write_text(json.dumps([run(seed, order=seed // 4) for seed in range(6)]))
    player = Played(tmp_path / "rows.jsonl")
    failed = play_plan(player, tmp_path / "plan.json", until=float("inf"), at_once=1000)
    assert failed == 2 and "no loss" in capsys.readouterr().err
    assert [row["seed"] for row in map(json.loads, player.out.read_text().splitlines())] == [0, 1, 4, 5]
    assert player.groups == [[0, 1, 2, 3], [0, 1], [2, 3], [4, 5]]
    assert play_plan(player, tmp_path / "plan.json", until=0.0, at_once=1000) == 0 and len(player.groups) == 4


def test_a_run_counts_as_recorded_only_if_the_record_has_that_very_run(work, tmp_path):
    np.savez(work / "inputs/m/splits.npz", **{"sums|pool": np.arange(3)})
    have = {**run(1, budget=1000), "learning_rate": 0.002, "model": "smollm2-135m"}
    file = tmp_path / "record.json"
    file.write_text(json.dumps({"rows": [have, {**have, "seed": 2, "split": "dev"}]}))
    plan = stages.write_plans(work, ["smollm2-135m"], ["baselines", "curve"], file)["smollm2-135m"]
    assert [entry["seed"] for entry in plan if entry["recorded"]] == [1]
    assert {entry["pool"] for entry in plan} == {"sums"}
    assert {entry["stage"] for entry in plan if entry["budget"] != 1000} == {"curve"}


def test_a_run_that_writes_answers_is_done_when_they_were_judged(work, tmp_path):
    np.savez(work / "inputs/m/splits.npz", **{"sums|pool": np.arange(3)})
    file, row = tmp_path / "record.json", {**run(1, budget=1000), "learning_rate": 0.0005, "model": "qwen-0.5b"}

    def recorded(stages_: list[str], *rows: dict) -> list[tuple]:
        file.write_text(json.dumps({"rows": rows}))
        plan = stages.write_plans(work, ["qwen-0.5b"], stages_, file)["qwen-0.5b"]
        return [(entry["stage"], entry.get("write")) for entry in plan if entry["recorded"]]

    assert recorded(["baselines"], row) == [("baselines", None)]
    assert recorded(["baselines", "written"], row) == []
    assert recorded(["baselines", "written"], {**row, "generated_tasks": 0}) == [("baselines", ["test"])]


def test_a_run_that_is_needed_again_writes_no_answers_again(work, tmp_path):
    np.savez(work / "inputs/m/splits.npz", **{"sums|pool": np.arange(3)})
    row = {**run(1, budget=1000), "learning_rate": 0.0005, "model": "qwen-0.5b", "generated_tasks": 3}
    (tmp_path / "record.json").write_text(json.dumps({"rows": [row]}))
    plan = stages.write_plans(work, ["qwen-0.5b"], ["written", "goal"], tmp_path / "record.json")["qwen-0.5b"]
    random = {entry["seed"]: entry for entry in plan if (entry["strategy"], entry["budget"]) == ("random", 1000)}
    assert not random[1]["recorded"] and "write" not in random[1]  # its tasks are compared with those of others
    assert not random[4]["recorded"] and random[4]["write"] == ["test"]


def test_merging_replaces_a_runs_row_and_keeps_the_others(tmp_path):
    old = {"rows": [{**run(1), "macro_nll": 2.0}, {**run(2), "macro_nll": 2.0}], "kinds": {"a": 1}}
    new = [{**run(2), "macro_nll": 1.0, "task_nll": [1.0]}, {**run(3), "macro_nll": 3.0}]
    judged = [{**run(seed), "generated_em": 0.5, "generated_tasks": 2} for seed in (3, 4)]  # of 4 there is no row
    record.write(record.merge(old, new, judged, {"device": "d", "versions": "v"}), tmp_path / "record.json")
    found = record.read(tmp_path / "record.json")
    assert [(row["seed"], row["macro_nll"]) for row in found["rows"]] == [(1, 2.0), (2, 1.0), (3, 3.0)]
    assert "task_nll" not in found["rows"][1] and found["rows"][2]["generated_em"] == 0.5
    assert (found["kinds"], found["device"]) == ({"a": 1}, "d")


def test_a_run_that_is_played_again_keeps_what_was_judged_of_it(tmp_path):
    old = {"rows": [{**run(1), "macro_nll": 2.0, "generated_em": 0.5, "generated_tasks": 3}]}
    (row,) = record.merge(old, [{**run(1), "macro_nll": 1.9, "generated_em": None}], [], {})["rows"]
    assert (row["macro_nll"], row["generated_em"], row["generated_tasks"]) == (1.9, 0.5, 3)


def test_tasks_are_compared_with_randoms_of_the_same_seed_and_planned_until_they_are(work, tmp_path):
    np.savez(work / "inputs/m/splits.npz", **{"sums|pool": np.arange(3)})
    of = {"model": "qwen-0.5b", "learning_rate": 0.0005, "budget": 300, "macro_nll": 1.0}
    rows = [
        {**run(1, **of), "task_nll": [1.0, 2.0, 3.0], "task_em": [0.0, 0.5, 1.0]},
        {**run(1, "source_kinds", **of), "sources": True, "task_nll": [0.5, 2.0, 2.0], "task_em": [0.5, 0.5, 1.0]},
        {**run(2, **of), "task_nll": [1.0, 2.0, 3.0], "task_em": [0.0, 0.5, 1.0]},  # alone
    ]

    def open_seeds(document: dict) -> list[tuple]:
        (tmp_path / "record.json").write_text(json.dumps(document))
        plan = stages.write_plans(work, ["qwen-0.5b"], ["early"], tmp_path / "record.json")["qwen-0.5b"]
        return sorted((entry["seed"], entry["strategy"]) for entry in plan if not entry["recorded"])

    plain = [{key: value for key, value in row.items() if not key.startswith("task")} for row in rows]
    assert len(open_seeds({"rows": plain})) == 6
    merged = record.merge({"rows": plain}, rows, [], {}, {"sums": "nll"}, {"sums": np.array([0.5, 0.25, 0.25])})
    assert open_seeds(merged) == [(seed, name) for seed in (2, 3) for name in ("random", "source_kinds")]
    default = next(row for row in merged["rows"] if row["strategy"] == "source_kinds")
    assert default["paired"] == {
        "nll": [-0.5, 0.28868],
        "em": [0.16667, 0.16667],
        "decides": "nll",
        "of_pool": {"nll": -0.5, "em": 0.25},
    }


def test_an_unfinished_file_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "picks.npz") as file:
        file.write_bytes(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.glob("picks*")) and Work(tmp_path).picks_files() == []


def test_picks_are_those_of_all_files(tmp_path):
    np.savez(tmp_path / "picks.npz", a=np.arange(2))
    np.savez(tmp_path / "picks-m.npz", b=np.arange(3))
    picks = Work(tmp_path).picks()
    assert {name: len(picks[name]) for name in ("a", "b")} == {"a": 2, "b": 3} and "c" not in picks


def test_picks_are_made_once_and_what_cannot_be_made_is_said(work, monkeypatch):
    arrays = {"sums|pool": np.arange(50, 70), "sums|pool|key": np.arange(20, dtype=np.uint64)}
    np.savez(work / "inputs/m/splits.npz", **arrays, **{"sums|pool|task": np.repeat([0, 1], 10)})
    lines: list[str] = []
    wanted = [
        run(30),
        run(31, "oracle_uniform"),
        run(32, stages.peer_picks.STRATEGIES[0]),
        run(1),
        run(33, recorded=True),
    ]
    stages.write_picks(work, wanted, work / "picks-m.npz", 1, lines.append)
    new = {name_of(wanted[0]), name_of(wanted[1])}
    made = work.picks()
    assert new <= set(made) and "1 picks not made: needs hidden states of m" in lines
    assert np.bincount(made[name_of(wanted[1])] // 60).tolist() == [2, 2]  # two of each task
    files = work.picks_files()
    monkeypatch.setattr(stages, "_pick", None)
    stages.write_picks(work, wanted, work / "picks-m.npz", 1, lines.append)  # nothing is made again
    assert work.picks_files() == files and set(work.picks()) == set(made)


def test_players_get_the_picks_of_one_pool_while_another_pools_are_made(work, monkeypatch):
    seen, pick = [], stages._pick

    def picking(root, runs, file):
        seen.append({name_of(entry) for entry in runs} | set(Work(root).picks()))
        pick(root, runs, file)

    arrays = {f"{pool}|pool": np.arange(50, 70) for pool in ("sums", "chat")}
    arrays |= {f"{pool}|pool|key": np.arange(20, dtype=np.uint64) for pool in ("sums", "chat")}
    np.savez(work / "inputs/m/splits.npz", **arrays)
    monkeypatch.setattr(stages, "_pick", picking)
    wanted = [run(30), {**run(31), "pool": "chat"}]
    stages.write_picks(work, wanted, work / "picks-m.npz", 1, lambda line: None)
    assert seen[1] >= {name_of(entry) for entry in wanted}  # the first pool's are there while the second's are made


def test_pools_that_are_not_the_listed_ones_are_refused(tmp_path):
    for part in prepare.PARTS:
        for name in prepare.LIST["pools"]:
            (tmp_path / "pools" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "pools" / name / f"{part}.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit, match="pools.json lists"):
        prepare.prepare(Work(tmp_path), [tmp_path / "m"], None, None, 1)
