"""A run may be named by its path, where a command takes a run, and a wrong path names the runs that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import winnow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with two runs under runs/, each with a pool."""
    root = tmp_path_factory.mktemp("named")
    (root / "rows.csv").write_text("question,answer\nWhat is warm?,Tea\nWhat is cold?,Ice\n")
    for name in ("demo", "other"):
        assert winnow("pool", "import", root / "rows.csv", "--run", root / "runs" / name).code == 0
    return root


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_a_path_means_the_run(folder):
    by_path, by_option = (winnow("status", *run) for run in (("runs/demo",), ("--run", "runs/demo")))
    assert by_path.code == 0 and by_path.out == by_option.out and "2 examples" in by_path.out


@pytest.mark.parametrize(
    "command", ["report", "resume", "review", "gc", "doctor", "eval", "serve", "repair", "export --to out"]
)
def test_every_command_about_a_run_takes_it(command):
    """Compared with --run, whatever the command then says of this run without a round."""
    by_path, by_option = (winnow(*command.split(), *run) for run in (("runs/demo",), ("--run", "runs/demo")))
    assert (by_path.code, by_path.err) == (by_option.code, by_option.err)
    assert "Usage" not in by_path.err and "several runs" not in by_path.err
    assert "runs/demo" in by_path.out + by_path.err


def test_two_names_for_a_run_and_a_report_of_two_runs_are_refused():
    both = winnow("status", "runs/demo", "--run", "runs/other")
    assert both.code == 2 and "runs/demo and --run runs/other both name the run" in both.err
    several = winnow("report", "runs/demo", "runs/other")
    assert several.code == 2 and "--compare" in several.err


@pytest.mark.parametrize("wrong", ["demo", "runs/demmo"])
def test_a_wrong_path_names_the_runs_that_are_there_the_nearest_first(wrong):
    found = winnow("status", wrong)
    assert found.code == 5 and "there is no run here (runs here: runs/demo, runs/other)" in found.err
