"""Written answers in a round and after it: asked once, judged alike, and the same accuracy in the round's report and in `eval`."""

from __future__ import annotations

import json
import random
import shutil
import signal

import pyarrow.parquet as pq
import pytest
import yaml
from command_line import winnow, winnow_child
from tiny_world import build_world

from al.evaluation import answering
from al.run import rounds
from al.run.store import Run

SETTINGS = (
    "generate.max_new_tokens=8",
    "evaluate.generate=auto",
    "evaluate.generate_examples=12",
    "evaluate.generations=0",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world with questions of several kinds: sums, yes or no, lettered options."""
    root = tmp_path_factory.mktemp("answers")
    config = build_world(root, 60)
    draw = random.Random(1)
    rows = {"sums": [], "truths": [], "options": []}
    for _ in range(24):
        a, b = draw.randint(1, 40), draw.randint(1, 40)
        words = draw.sample("red green blue stone paper metal cloud garden".split(), 3)
        rows["sums"].append((f"sum of {a} and {b}", str(a + b)))
        rows["truths"].append((f"is {a} heavy like {b}", draw.choice(["Yes", "No"])))
        lines = "\n".join(f"{letter}. {word}" for letter, word in zip("ABC", words, strict=True))
        rows["options"].append((f"colour of {a} {b}\n{lines}", draw.choice("ABC")))
    for name, asked in rows.items():
        lines = [json.dumps({"input": question, "ideal": answer}) for question, answer in asked]
        (root / "pool" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    values = yaml.safe_load(config.read_text())
    values["holdout"] = {"dev": 24, "test": 30}
    config.write_text(yaml.safe_dump(values))
    return config


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """Two rounds with written answers."""
    run = tmp_path_factory.mktemp("runs") / "written"
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    for _ in range(2):
        result = winnow("round", "--config", world, "--run", run, "--budget", 12, "--json", *options)
        assert result.code == 0, result.err
    return run


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "rounds/002/summary.json").read_text())


def roles(run, number):
    with Run.read(run) as opened:
        return {name: found for name, found in rounds.roles(opened, number).items() if name.startswith("answers.")}


def evaluated(run, *arguments):
    result = winnow("eval", "--run", run, "--json", *arguments)
    assert result.code == 0, result.err
    return result.document


def test_all_four_models_answer_the_same_examples(run):
    found = {name: pq.read_table(artifact.path / "answers.parquet") for name, artifact in roles(run, 2).items()}
    assert set(found) == {"answers.base", "answers.previous", "answers.selected", "answers.control"}
    asked = found["answers.base"].column("id").to_pylist()
    assert len(asked) == 24 and all(table.column("id").to_pylist() == asked for table in found.values())
    kinds = set(found["answers.base"].column("kind").to_pylist())
    assert {"number", "yes_no", "choice"} <= kinds


def test_the_base_answers_once_and_the_previous_rounds_answers_are_used_again(run):
    first, second = roles(run, 1), roles(run, 2)
    assert second["answers.base"].fingerprint == first["answers.base"].fingerprint
    assert second["answers.previous"].fingerprint == first["answers.selected"].fingerprint
    assert second["answers.selected"].fingerprint != first["answers.selected"].fingerprint


def test_choices_have_likelihoods_and_other_kinds_have_none(run):
    rows = pq.read_table(roles(run, 2)["answers.selected"].path / "answers.parquet").to_pylist()
    for row in rows:
        assert (row["likelihood"] is not None) == (row["kind"] in ("choice", "yes_no"))
        assert row["kind"] == "rouge_l" or row["score"] in (0.0, 1.0)


def test_the_summary_has_every_measure_of_every_model(summary):
    test = summary["answers"]["test"]
    assert set(test["measures"]) >= {"accuracy", "likelihood", "likelihood_norm"}
    assert set(test["models"]) == {"base", "previous", "selected", "control"}
    assert set(test["differences"]) == {"selected - base", "selected - previous", "selected - control"}
    assert {row["kind"] for row in test["by_source"]} >= {"number", "yes_no", "choice"}
    assert summary["answers"]["leads"] is True and summary["decides"]["metric"] == "macro_accuracy"


def test_eval_prints_the_accuracy_of_the_report_without_answering_again(run, summary):
    before = len(list((run / "artifacts/answers").iterdir()))
    document = evaluated(run)
    assert document["models"] == summary["answers"]["dev"]["models"]
    assert document["differences"] == summary["answers"]["dev"]["differences"]
    assert len(list((run / "artifacts/answers").iterdir())) == before


def small_shards():
    """Eight examples a shard, so that 24 of them are three."""
    answering.SHARD = {"cpu": 8}


def test_a_kill_while_a_model_answers_costs_one_shard(run, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "SHARD", {"cpu": 8})
    with Run.read(run) as opened:  # the same questions, answered by nobody yet
        unanswered = tmp_path / "unanswered"
        shutil.copytree(run, unanswered, symlinks=True)
        made = list(opened.published("answers"))
    with Run.create_or_open(unanswered) as copy:
        for artifact in made:
            copy.forget("answers", artifact.fingerprint)
    wanted = ("eval", "--models", "base", "--split", "test", "--metrics", "auto", "--examples", 24, "--run")
    killed = tmp_path / "killed"
    shutil.copytree(unanswered, killed, symlinks=True)
    child = winnow_child(*wanted, killed, prepare=small_shards, WINNOW_FAILPOINT="answers.shard:2")
    assert child.code == -signal.SIGKILL, child.err
    (scratch,) = (killed / "scratch").glob("answers-*")
    shards = sorted(scratch.glob("*.npz"))
    assert len(shards) == 2
    shards[1].write_bytes(shards[1].read_bytes()[:-40])  # a torn one is not read

    asked, write = [], answering.write_answers
    monkeypatch.setattr(answering, "write_answers", lambda *given: (asked.append(len(given[2])), write(*given))[1])
    answers = []
    for path, shards_left in ((killed, 2), (unanswered, 3)):
        asked.clear()
        result = winnow(*wanted, path)
        assert result.code == 0 and asked == [8] * shards_left, result.err
        (made,) = (path / "artifacts/answers").iterdir()
        answers.append((made / answering.FILE).read_bytes())
    assert answers[0] == answers[1]


def test_eval_of_any_round_against_the_last_one_named(run):
    document = evaluated(run, "--models", "base,control:1,1,2", "--metrics", "choice")
    assert list(document["models"]) == ["base", "control:1", "1", "2"] and document["compared"] == "2"
    assert set(document["differences"]) == {"2 - base", "2 - control:1", "2 - 1"}
    assert {row["source"] for row in document["by_source"]} == {"options"}


def test_eval_of_test_warns_that_it_is_for_the_report(run):
    result = winnow("eval", "--run", run, "--split", "test")
    assert result.code == 0 and "test is for the final report" in result.out + result.err
    assert "Written accuracy" in result.out and "minus base" in result.out


def test_eval_of_files_says_how_many_of_their_examples_were_trained_on(run, world, tmp_path):
    rows = [json.dumps({"question": f"sum of 1 and {n}", "answer": f"so it is\n#### {n + 1}"}) for n in range(5)]
    (tmp_path / "new.jsonl").write_text("\n".join(rows))
    document = evaluated(run, "--models", "base,selected", "--data", tmp_path / "new.jsonl")
    assert (document["examples"], document["kinds"], document["warnings"]) == (5, {"number": 5}, [])
    again = evaluated(run, "--models", "base", "--data", world.parent / "pool", "--examples", 500)
    assert "were trained on by a round" in again["warnings"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--models", "base,7"),
            "--models 7: the run has base, previous, selected, control, 1, 2, control:1, control:2",
        ),
        (("--metrics", "boxed"), "expected examples of the kinds boxed in dev, found"),
        (("--metrics", "code"), "set evaluate.run_code=true"),
        (("--metrics", "nonsense"), "nonsense"),
    ],
)
def test_what_the_run_cannot_answer_is_an_error_that_says_so(run, arguments, message):
    result = winnow("eval", "--run", run, *arguments)
    assert result.code in (2, 3) and message in result.err
