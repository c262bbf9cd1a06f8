"""Time of work on a run: all processes, without the pauses between them, and what a killed one did after its last event."""

from __future__ import annotations

import json
import os
from pathlib import Path

from al.run.store import PROGRESS, Run
from al.run.work_time import work_of_round, work_seconds


def history(run: Path, *events: tuple[str, str, dict]) -> Path:
    run.mkdir(exist_ok=True)
    lines = [{"time": f"2026-03-01T{time}+00:00", "event": kind, **fields} for time, kind, fields in events]
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_pauses_between_processes_do_not_count(tmp_path):
    run = history(
        tmp_path / "run",
        ("10:00:00.000", "work.started", {"last_sign": None}),
        ("10:00:00.000", "round.started", {"round": 1}),
        ("10:30:00.000", "round.finished", {"round": 1}),
        ("15:00:00.000", "work.started", {"last_sign": None}),
        ("15:00:00.500", "round.started", {"round": 2}),
        ("15:10:00.500", "round.finished", {"round": 2}),
    )
    assert work_seconds(run) == 30 * 60 + 0.5 + 10 * 60
    assert (work_of_round(run, 1), work_of_round(run, 2), work_of_round(run, 3)) == (1800.0, 600.0, 0.0)


def test_a_killed_process_counts_to_its_last_sign_of_life(tmp_path):
    run = history(
        tmp_path / "run",
        ("10:00:00.000", "work.started", {"last_sign": None}),
        ("10:00:00.000", "round.started", {"round": 1}),
        ("10:01:00.000", "stage.started", {"stage": "embed"}),
        ("18:00:00.000", "work.started", {"last_sign": "2026-03-01T10:21:00.000+00:00"}),
        ("18:00:00.000", "round.started", {"round": 1}),
        ("18:04:00.000", "round.finished", {"round": 1}),
    )
    assert work_seconds(run) == work_of_round(run, 1) == (21 + 4) * 60


def test_broken_lines_and_a_clock_that_was_set_back_count_nothing(tmp_path):
    run = history(
        tmp_path / "run",
        ("10:00:00.000", "work.started", {"last_sign": None}),
        ("10:01:00.000", "train.step", {}),
        ("09:00:00.000", "train.step", {}),
        ("09:00:30.000", "train.step", {}),
    )
    with (run / "events.jsonl").open("a") as handle:
        handle.write('{"time": "2026-03-01T09:0\nnull\n{"time": "2026-03-01T09:10:00+00:00"}\n')
    assert work_seconds(run) == 90.0
    assert work_seconds(tmp_path / "none") == 0.0


def test_each_process_begins_its_events_with_the_last_sign_of_the_one_before(tmp_path):
    for _ in range(2):
        with Run.create_or_open(tmp_path / "run") as run:
            run.event("one")
            run.event("two")
        (tmp_path / "run" / PROGRESS).write_text("{}")  # as a killed process leaves it
        os.utime(tmp_path / "run" / PROGRESS, (1_700_000_000, 1_700_000_000))
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds == ["work.started", "one", "two"] * 2
    assert [line["last_sign"] for line in lines if line["event"] == "work.started"] == [
        None,
        "2023-11-14T22:13:20.000+00:00",
    ]
