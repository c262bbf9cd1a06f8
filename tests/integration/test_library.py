"""`import al`: five functions that return typed results, print nothing, and raise the errors of `al.errors`."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import subprocess
import sys
import threading

import pyarrow as pa
import pytest
from command_line import ROOT, winnow

import al
from al.errors import ConfigError, DataError, RunStateError, UserError
from al.planning import near_duplicates

FUNCTIONS = ("compare", "import_pool", "load_round", "plan", "run_round")
HEAVY = ("torch", "transformers", "pyarrow", "numpy", "pydantic", "click", "faiss", "sklearn", "datasets", "peft")
MOST_SECONDS = 0.05
ROWS = [{"question": f"What is {n} plus one?", "answer": str(n + 1)} for n in range(30)]


@pytest.fixture
def copied(two_rounds, tmp_path):
    """A copy of a run of two rounds."""
    return shutil.copytree(two_rounds[0], tmp_path / "two", symlinks=True)


@pytest.fixture
def silent(capfd):
    """Fails if something was printed during the test."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*map(json.dumps, ROWS), "{"]))
    return path


def test_importing_al_and_naming_its_functions_loads_nothing_heavy():
    code = f"""
import sys, time
started = time.perf_counter()
import al
print(time.perf_counter() - started)
from al import {", ".join(FUNCTIONS)}, Round
print([name for name in {HEAVY} if name in sys.modules])
"""
    tries = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True) for _ in range(3)]
    assert [done.stdout.splitlines()[1:] for done in tries] == [["[]"]] * 3, tries[0].stderr
    assert min(float(done.stdout.split()[0]) for done in tries) < MOST_SECONDS


def test_every_name_has_types_and_docs():
    assert set(al.__all__) == {*FUNCTIONS, "Comparison", "ImportedPool", "Plan", "Round"} <= set(dir(al))
    for name in FUNCTIONS:
        found = inspect.signature(getattr(al, name))
        assert found.return_annotation in al.__all__ and "Raises:" in getattr(al, name).__doc__
        assert all(value.annotation is not inspect.Parameter.empty for value in found.parameters.values())
        assert not [p for p in found.parameters if p not in getattr(al, name).__doc__], "each argument is explained"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        al.nothing  # noqa: B018


def test_a_pool_is_imported_counted_and_read(world, tmp_path, rows, silent):
    found = al.import_pool(rows, run=tmp_path / "run", config=world)
    assert (found.version, found.added, found.examples, found.labelled) == (1, True, 30, 30)
    assert found.quarantined == {"invalid_json": 1} and sum(found.sources.values()) == 30
    table = found.table()
    assert isinstance(table, pa.Table) and table.num_rows == 30
    again = al.import_pool([str(rows)], run=str(tmp_path / "run"), config=world)
    assert not again.added and again.version == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.version = 2


def test_a_plan_is_that_of_the_command_and_overrides_are_config_keys(world, silent):
    def planned(**keys):
        return al.plan("2ktok", config=world, overrides={"train.pack_length": 64, **keys}, gpu="RTX 4090")

    once, twice = planned(**{"train.epochs": 1}), planned(**{"train.epochs": 2})
    assert once.tokens == twice.tokens > 0 and twice.steps == pytest.approx(2 * once.steps, abs=1)
    assert once.seconds == pytest.approx(sum(once.seconds_by_work.values()), abs=1)
    assert "RTX 4090" in once.document["card"] and once.rounds_until is None


def test_a_plan_looks_for_near_duplicates_as_long_as_it_is_let(world, tmp_path, silent, monkeypatch):
    monkeypatch.setattr(near_duplicates, "SEARCH_SECONDS", 1e-9)
    monkeypatch.setattr(near_duplicates, "WHOLE_SECONDS", 1e-9)
    many = tmp_path / "many.jsonl"
    many.write_text("".join(json.dumps({"question": f"say {n}", "answer": "red"}) + "\n" for n in range(100)))

    def searched(search):
        found = al.plan(20, config=world, run=tmp_path / "run", pool=many, search=search)
        return found.document["pool"]["near_duplicates"]["searched"]

    assert searched(None) == near_duplicates.FIRST_BATCH < searched("1min") == 100


def test_a_round_is_run_and_its_picks_are_a_table(copied, silent):
    done = al.run_round(12, run=copied)
    assert (done.number, done.budget, done.examples) == (3, "12", 12)
    assert done.report.is_file() and done.adapter.is_dir()
    assert {"base", "previous", "selected", "control"} == set(done.metrics)
    assert done.differences["selected - control"]["macro_nll"]["low"] is not None
    picks = done.picks()
    assert picks["pick"].to_pylist() == list(range(12))
    assert all(turns[-1]["role"] == "assistant" for turns in picks["messages"].to_pylist())
    outcomes = done.outcomes()
    assert outcomes.num_rows > 12 and set(picks["id"].to_pylist()) < set(outcomes["id"].to_pylist())
    loaded = al.load_round(copied)
    assert dataclasses.replace(loaded, notes=done.notes) == done


def test_an_earlier_round_is_loaded_as_the_command_reports_it(two_rounds, silent):
    found = al.load_round(two_rounds[0], 1)
    assert found.summary == winnow("report", "--run", two_rounds[0], "--round", 1, "--json").document
    assert "control" in found.metrics and "selection" in found.verdict


def test_strategies_are_compared(world, tmp_path, silent):
    found = al.compare(["random"], budget=16, run=tmp_path / "compared", config=world, rounds=1, seeds=2)
    assert found.baseline == "random" and set(found.strategies) == {"random"} and found.page.is_file()
    table = found.table()
    assert table.num_rows == 2 and set(table["examples"].to_pylist()) == {16}
    assert all(value > 0 for value in table["macro_nll"].to_pylist())


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda run: al.load_round(run / "none"), RunStateError, "there is no run here"),
        (lambda run: al.load_round(run, 7), RunStateError, "round 7 has no report yet"),
        (lambda run: al.run_round("many", run=run), ConfigError, "expected examples"),
        (lambda run: al.run_round(12, run=run, overrides={"train.epoch": 1}), ConfigError, "epochs"),
        (lambda run: al.run_round(5_000, run=run), DataError, "5000 examples asked for"),
        (lambda run: al.import_pool("nowhere.jsonl", run=run), DataError, "nowhere.jsonl"),
        (lambda run: al.plan(10, run=run, gpu="abacus"), ConfigError, "abacus"),
        (lambda run: al.compare(budget=10, run=run, seeds=0), ConfigError, "1 or more"),
    ],
)
def test_errors_are_those_of_al_errors(copied, silent, call, kind, words):
    with pytest.raises(kind, match=words) as error:
        call(copied)
    assert isinstance(error.value, UserError) and error.value.exit_code == kind.exit_code


def test_it_works_in_a_thread_and_leaves_signals_alone(copied, silent):
    import signal

    before, found = signal.getsignal(signal.SIGINT), []
    rows = copied.parent / "more.jsonl"
    rows.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}))
    thread = threading.Thread(target=lambda: found.append(al.import_pool(rows, run=copied)))
    thread.start()
    thread.join()
    assert found and found[0].version == 2 and signal.getsignal(signal.SIGINT) is before
