"""The report in other forms, as the command line gives them: Markdown, figures, runs side by side, and a run being watched."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import winnow

from al.comparison import runs as compared_runs
from al.comparison.runs import compare_runs
from al.comparison.text import comparison_as_markdown, comparison_as_text
from al.evaluation.bootstrap import paired_bootstrap
from al.evaluation.stage import load_measured
from al.run.status import status
from al.run.store import Run
from selection.holdout import TEST


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory) -> dict[str, Path]:
    """Three runs of a round: of the default, of another strategy without control, and of another seed, so of another test set."""
    root = tmp_path_factory.mktemp("runs")
    for name, more in (
        ("ours", []),
        ("random", ["--strategy", "random", "--no-control"]),
        ("elsewhere", ["--set", "seed=1", "--no-control"]),
    ):
        result = winnow("round", "--config", world, "--run", root / name, "--budget", 30, "--json", *more)
        assert result.code == 0, result.err
    return {path.name: path for path in root.iterdir()}


def evaluation(run: Path):
    with Run.read(run) as opened:
        found = json.loads((run / "rounds/001/summary.json").read_text())["artifacts"]["evaluate.selected"]
        return opened.find(*found.split("/"))


def test_runs_of_one_test_set_are_compared_example_by_example(runs):
    result = winnow("report", "--compare", runs["ours"], runs["random"], "--json")
    document = result.document
    assert document["comparable"] and document["why_not"] is None
    first, second = document["runs"]
    assert document["baseline"] == first["name"] == "ours" and first["difference"] is None
    ours, random = (load_measured(evaluation(runs[name]), TEST)[0] for name in ("ours", "random"))
    expected = paired_bootstrap(random, ours, 2000, 0)
    assert second["name"] == "random" and len(second["difference"]) == 6
    assert second["difference"] == {metric: expected[metric] for metric in second["difference"]}


def test_the_value_of_a_difference_is_that_of_the_two_summaries(runs):
    document = compare_runs([runs["ours"], runs["random"]], None)
    ours, random = (run["models"]["selected"]["macro_nll"] for run in document["runs"])
    assert document["runs"][1]["difference"]["macro_nll"]["value"] == pytest.approx(random - ours)


def test_only_the_config_keys_that_differ_are_listed(runs):
    document = compare_runs([runs["ours"], runs["random"]], None)
    assert document["config"] == {"control": [True, False], "select.strategy": ["default", "random"]}


def test_runs_of_other_test_sets_are_shown_without_a_difference_and_with_the_reason(runs):
    document = compare_runs([runs["ours"], runs["elsewhere"]], None)
    assert not document["comparable"] and not any(run["difference"] for run in document["runs"])
    for text in (comparison_as_text(document), comparison_as_markdown(document)):
        assert "No difference is claimed" in text and "do not hold out the same test examples" in " ".join(text.split())
        assert " minus " not in text


@pytest.mark.parametrize(("column", "said"), [("targets", "tokenize the test"), ("source", "to different sources")])
def test_the_same_examples_measured_otherwise_are_not_compared(runs, tmp_path, monkeypatch, column, said):
    changed = tmp_path / "changed"
    changed.mkdir()
    table = pq.read_table(evaluation(runs["random"]).path / "examples.parquet")
    at = table.column_names.index(column)
    values = [f"x{i % 3}" if column == "source" else value + 1 for i, value in enumerate(table[column].to_pylist())]
    pq.write_table(table.set_column(at, column, pa.array(values)), changed / "examples.parquet")
    ours, random = (compared_runs._side(runs[name], name, None) for name in ("ours", "random"))
    artifact = type(random.evaluation)("evaluate", "changed", changed, {"files": {}})
    other = compared_runs.Side("random", random.path, 1, random.summary, random.config, artifact)
    for sides, expected in (([ours, other], said), ([ours, random], None)):
        why_not = compared_runs._not_comparable(sides, [compared_runs._measured(side) for side in sides])
        assert why_not is None if expected is None else expected in why_not


def test_an_evaluation_that_is_gone_is_said_and_nothing_is_claimed(runs, tmp_path):
    shutil.copytree(runs["random"], tmp_path / "gone", symlinks=True)
    with Run.create_or_open(tmp_path / "gone") as run:
        with run.change() as db:
            db.execute("DELETE FROM round_artifacts WHERE role = 'evaluate.selected'")
    document = compare_runs([runs["ours"], tmp_path / "gone"], None)
    assert document["why_not"] == "gone has no evaluation of its adapter any more"


def test_runs_of_one_name_are_told_apart_by_their_paths(runs, tmp_path):
    shutil.copytree(runs["random"], tmp_path / "ours", symlinks=True)
    names = [run["name"] for run in compare_runs([runs["ours"], tmp_path / "ours"], None)["runs"]]
    assert names == [str(runs["ours"]), str(tmp_path / "ours")]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--compare"], 2, "two or more runs"),
        (["ours", "random"], 2, "compared with --compare"),
        (["--compare", "ours"], 2, "expected two runs or more, found 1"),
        (["--compare", "ours", "nowhere"], 5, "there is no run here"),
        (["--compare", "ours", "random", "--round", "7"], 5, "round 7 has no report yet"),
        (["--compare", "ours", "random", "--figures", "f"], 2, "remove --compare"),
        (["--run", "ours", "--figures", "f", "--md"], 2, "use two commands"),
        (["--run", "ours", "--figures", "f", "--format", "gif"], 2, "'svg', 'png', 'pdf'"),
        (["--run", "ours", "--md", "--out", "ours/run.db/x.md"], 4, "cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_refused_with_a_reason(runs, monkeypatch, arguments, code, said):
    monkeypatch.chdir(runs["ours"].parent)
    result = winnow("report", *arguments)
    assert result.code == code and said in result.err


def test_markdown_goes_to_stdout_or_to_a_file(runs, tmp_path):
    printed = winnow("report", "--run", runs["ours"], "--md")
    assert printed.code == 0 and printed.out.startswith("### ours, round 1: ")
    written = winnow("report", "--run", runs["ours"], "--md", "--out", tmp_path / "new" / "report.md")
    assert written.code == 0
    assert (tmp_path / "new" / "report.md").read_text() == printed.out.rstrip("\n") + "\n"


def test_figures_are_written_and_named(runs, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `figures` is not installed")
    result = winnow("report", "--run", runs["ours"], "--figures", tmp_path, "--format", "png", "--json")
    assert [Path(file).name for file in result.document["files"]] == [
        "gains.png",
        "learning-curve.png",
        "training-loss.png",
    ]
    assert result.document["left_out"] == ["quota-and-loss"]  # the default measures nothing in its first round


def test_status_tells_of_a_run_at_rest_that_nothing_is_under_way(runs):
    document = winnow("status", "--run", runs["ours"], "--json").document
    assert (document["working"], document["waiting"], document["progress"], document["stage"]) == (
        False,
        None,
        None,
        None,
    )
    assert not (runs["ours"] / "progress.json").exists()


def test_a_watch_of_a_run_at_rest_shows_it_once(runs):
    result = winnow("status", "--watch", "--run", runs["ours"])
    assert result.code == 0 and re.search(r"round 1  done  budget 30 .* test NLL base", result.out)


def test_a_watch_has_no_json(runs):
    assert winnow("status", "--watch", 1, "--json", "--run", runs["ours"]).code == 2


def test_progress_is_written_while_a_round_works_also_a_quiet_one(world, tmp_path, monkeypatch):
    from al.run import progress

    monkeypatch.setattr(progress, "FILE_EVERY_SECONDS", 0.0)
    seen = []
    write = progress.Progress._write

    def and_look(bar: progress.Progress) -> None:
        write(bar)
        seen.append(status(tmp_path / "run"))

    monkeypatch.setattr(progress.Progress, "_write", and_look)
    assert (
        winnow("round", "--config", world, "--run", tmp_path / "run", "--budget", 20, "--no-control", "--json").code
        == 0
    )
    titles = [found["progress"]["title"] for found in seen]
    assert {"import", "embed", "train", "evaluate this round"} <= set(titles)
    assert all(found["working"] for found in seen)
