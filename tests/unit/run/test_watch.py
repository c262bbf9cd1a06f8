"""`status --watch`: what it says of a status, that it follows a run, and when it ends."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

import pytest

from al.commands import watch
from al.run.store import Run

QUIET = {"working": True, "waiting": None, "progress": None, "stage": None, "comparison": None, "rounds": []}
PROGRESS = {"title": "embed", "done": 30, "total": 120, "unit": "examples", "rate": 0.5, "seconds_left": 180.0}
STEP = {"step": 7, "steps": 8, "loss": 2.0, "tokens_per_s": 300.0, "memory_gib": 1.5, "seconds_left": 100.0}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({}, "between stages"),
        ({"progress": PROGRESS}, "embed: 30 of 120 examples, 0.50/s, 3 min left"),
        ({"progress": {**PROGRESS, "total": None, "seconds_left": None}}, "embed: 30 examples, 0.50/s"),
        (
            {"progress": PROGRESS, "stage": {"stage": "train", "since": "now", "step": STEP}},
            "train: step 7/8, loss 2.000, 300 tokens/s, 1.5 GiB, 2 min left",
        ),
        ({"waiting": "review"}, "waiting for its review: the page's address is in the terminal that started the round"),
    ],
)
def test_one_line_says_what_is_going_on(document: dict, line: str):
    assert watch.now_line(QUIET | document) == line


def test_a_finished_round_is_printed_with_its_results():
    row = {"round": 2, "state": "done", "budget": "30", "test_macro_nll": {"base": 6.0, "selected": 5.75}}
    assert watch.result_line(row) == "round 2: done, budget 30, test NLL base 6.000, selected 5.750"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_it_follows_the_work_and_ends_with_it(tmp_path: Path, monkeypatch, stream):
    monkeypatch.setattr(watch, "SPARE_SECONDS", 0.0)
    run = Run.create_or_open(tmp_path)
    owner = (tmp_path / "run.lock.owner").read_text().split()
    (tmp_path / "progress.json").write_text(json.dumps(PROGRESS | {"pid": int(owner[1])}))
    out = stream()
    watcher = threading.Thread(target=watch.watch, args=(tmp_path, 0.05, out))
    watcher.start()
    until = time.monotonic() + 20
    while "embed: 30 of 120 examples, 0.50/s, 3 min left" not in out.getvalue():
        assert time.monotonic() < until, out.getvalue()
        time.sleep(0.05)
    assert watcher.is_alive()
    run.close()
    watcher.join(10)
    assert not watcher.is_alive()
    assert out.getvalue().rstrip().endswith("pool version – with 0 examples")


def test_ctrl_c_ends_it_without_an_error(tmp_path: Path, monkeypatch):
    def interrupted(path: Path, every: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "_next", interrupted)
    with Run.create_or_open(tmp_path):
        watch.watch(tmp_path, 1.0, io.StringIO())


def test_of_a_run_that_nothing_works_on_the_status_is_shown_once(tmp_path: Path):
    Run.create_or_open(tmp_path).close()
    out = io.StringIO()
    watch.watch(tmp_path, 60.0, out)
    assert out.getvalue().startswith(f"run {tmp_path}")
