"""A first command that fails leaves no run, and its message says once what is wrong; the corrected input then starts as if new."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import winnow

from al.config.pool import PoolConfig
from al.pool.sources import find_sources

ONE = "question,answer\n"
FILES = {
    "empty": ("", "contains no rows"),
    "only a header": (ONE, "contains no rows"),
    "columns of another language": ("Frage;Antwort\nWas ist das?;Ein Haus\n", "instruction=YOUR_QUESTION_COLUMN"),
    "no answers": (
        "question\nWhat is warm?\nWhat is cold?\n",
        "none of the 2 examples can be trained on: 2 have no response",
    ),
    "answers that are too long": (
        ONE + "What is long?," + "a very long answer " * 60 + "\n",
        "1 are longer than tokens.max_length",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_cannot_be_used_leaves_no_run_and_is_read_again_when_it_is_mended(what, world, tmp_path):
    content, said = FILES[what]
    table = tmp_path / "rows.csv"
    table.write_text(content)
    start = ("round", "--config", world, "--pool", table, "--run", tmp_path / "runs/new", "--budget", 4)
    failed = winnow(*start)
    assert failed.code == 3 and said in failed.err, failed.err
    assert failed.err.count("error: ") == 1 and failed.err.count("rows.csv") <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    table.write_text("question\nWhat is mended?\n")
    assert "1 have no response" in winnow(*start).err, "and not that the file has changed"


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        (("--pool", "nowhere.csv"), 3, "there is no file or folder nowhere.csv"),
        (("--pool", "doly"), 3, "did you mean the preset `databricks-dolly-15k`?"),
        (("--pool", "tatsu-lab/alpaca"), 3, "did you mean the preset `alpaca`?"),
        (("--pool", "somebody/words"), 3, "a data set of the hub is written hub:somebody/words"),
        (("--set", "trian.epochs=3"), 2, "did you mean `train`?"),
        (("--strategy", "loos"), 2, "loss"),
    ],
)
def test_a_name_with_a_slip_is_answered_with_the_right_one_and_leaves_no_run(
    wrong, code, said, world, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    failed = winnow("round", "--config", world, "--run", "runs/new", "--budget", 4, *wrong)
    assert failed.code == code and said in failed.err and failed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_costly_work_of_a_start_that_failed_is_kept(world, tmp_path):
    """The split fails after the embeddings are made."""
    start = ("--config", world, "--run", tmp_path / "run", "--budget", 4)
    failed = winnow("round", *start, "--set", "holdout.dev=400")
    assert failed.code == 3 and "holdout" in failed.err
    assert any((tmp_path / "run/artifacts/embeddings").iterdir())


def test_an_earlier_run_loses_nothing_when_a_command_fails(world, tmp_path):
    (tmp_path / "rows.csv").write_text("question\nWhat is kept?\n")
    assert winnow("pool", "import", tmp_path / "rows.csv", "--run", tmp_path / "run").code == 0
    assert winnow("round", "--config", world, "--run", tmp_path / "run", "--budget", 4).code == 3
    assert winnow("status", tmp_path / "run", "--json").document["pool_examples"] == 1


@pytest.mark.parametrize("name", ["dolly", "platypus", "guanaco", "databricks-dolly-15k"])
def test_a_preset_is_found_by_the_name_that_people_use(name):
    (source,) = find_sources(PoolConfig(files=[name]))
    assert source.is_preset and name in source.path.lower()


def test_a_file_comes_before_a_preset_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dolly").mkdir()
    Path("dolly/rows.csv").write_text(ONE + "a,b\n")
    assert [source.label for source in find_sources(PoolConfig(files=["dolly"]))] == ["dolly/rows.csv"]
