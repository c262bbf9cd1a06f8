"""Progress of long stages where there is no terminal, and the safe points."""

from __future__ import annotations

import json
import os

import pytest

from al.errors import Interrupted
from al.run import progress
from al.run.progress import Progress, duration


@pytest.fixture(autouse=True)
def every_call_speaks(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", -1.0)
    yield
    progress._stop_requested.clear()


def test_a_line_shows_done_total_rate_and_time_left(capsys):
    with Progress("embed", 100, "examples") as bar:
        bar(25)
    line, finished = capsys.readouterr().err.splitlines()
    assert line.startswith("embed: 25/100 examples, ") and "/s, " in line and line.endswith(" s left")
    assert finished.startswith("embed: 25 examples in ")


def test_an_unknown_total_is_not_shown(capsys):
    with Progress("import", None, "rows") as bar:
        bar(1000)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("import: 1,000 rows, ") and "left" not in line


def test_time_left_is_what_the_work_says_where_it_knows_better(capsys):
    with Progress("train", 10, "steps") as bar:
        bar.seconds_left, bar.note = 1800.0, ", loss 1.000"
        bar(1)
    assert capsys.readouterr().err.splitlines()[0].endswith(", 30 min left, loss 1.000")


def test_a_duration_is_shown_in_the_unit_that_suits_it():
    assert [duration(seconds) for seconds in (0, 89, 90, 5399, 5400)] == ["0 s", "89 s", "2 min", "90 min", "1.5 h"]


def test_quiet_says_nothing(capsys):
    with Progress("embed", 10, "examples", quiet=True) as bar:
        bar(5)
    assert capsys.readouterr().err == ""


def test_a_call_is_a_safe_point_and_advance_to_is_none():
    progress._stop_requested.set()
    bar = Progress("train", 10, "steps", quiet=True)
    bar.advance_to(3)
    with pytest.raises(Interrupted):
        bar(1)
    assert bar.done == 4


def test_other_processes_read_how_far_it_is_while_it_works_and_nothing_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FILE_EVERY_SECONDS", 0.0)
    file = tmp_path / "progress.json"
    with Progress("embed", 100, "examples", quiet=True, file=file) as bar:
        bar(25)
        said = json.loads(file.read_text())
        assert [said[key] for key in ("title", "done", "total", "unit", "pid")] == [
            "embed",
            25,
            100,
            "examples",
            os.getpid(),
        ]
        assert said["seconds_left"] == pytest.approx(75 / said["rate"])
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_written_once_a_second_at_most(tmp_path):
    file = tmp_path / "progress.json"
    with Progress("embed", 1000, "examples", quiet=True, file=file) as bar:
        for _ in range(1000):
            bar(1)
        assert json.loads(file.read_text())["done"] == 0


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FILE_EVERY_SECONDS", 0.0)
    with Progress("embed", 10, "examples", quiet=True, file=tmp_path / "no" / "such" / "folder") as bar:
        bar(10)
    assert bar.done == 10
