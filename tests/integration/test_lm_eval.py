"""The same adapter has the same accuracy in lm-evaluation-harness and in ours, on questions of every kind, without a network."""

from __future__ import annotations

import importlib.util
import json
import random

import pyarrow.parquet as pq
import pytest
from command_line import winnow

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(
    not INSTALLED, reason="lm-eval is not installed (pip install 'lm-eval>=0.4.13' accelerate)"
)
SETTINGS = ("--set", "generate.max_new_tokens=8", "--set", 'evaluate.groups={QA: ["choices*"], reasoning: ["sums*"]}')


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A round of the small world."""
    run = tmp_path_factory.mktemp("runs") / "harness"
    result = winnow("round", "--config", world, "--run", run, "--budget", 12, "--no-control", "--json")
    assert result.code == 0, result.err
    return run


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    """Questions of which the adapter answers about half right: their accepted answers are what it writes, or not."""
    folder, draw = tmp_path_factory.mktemp("questions"), random.Random(4)
    words = "red green blue stone paper metal cloud garden river".split()
    asked = [f"task 2 say the longest of {' '.join(draw.sample(words, 5))}" for _ in range(24)]
    draft = folder / "draft.jsonl"
    draft.write_text("".join(json.dumps({"question": q, "answer": "stone"}) + "\n" for q in asked))
    assert winnow("eval", "--run", run, "--data", draft, "--models", "selected", "--json", *SETTINGS).code == 0
    (written,) = (run / "artifacts/answers").glob("*/answers.parquet")
    said = pq.read_table(written).column("text").to_pylist()
    written = [{"question": q, "answer": text.strip() or "stone"} for q, text in zip(asked, said, strict=True)]
    # The rows of the table are in the order of drawing, so the pairs are mixed: some answers fit, some do not.
    options = []
    for _ in range(30):
        chosen = draw.sample(words, 3)
        options.append(
            {"question": f"colour of {draw.randint(1, 99)}", "choices": chosen, "answerKey": draw.choice("ABC")}
        )
    for name, rows in (("sums", written), ("choices", options)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draft.unlink()
    return folder


def measured(run, files, *arguments):
    result = winnow("eval", "--run", run, "--models", "base,selected", "--data", files, "--json", *SETTINGS, *arguments)
    assert result.code == 0, result.err
    return result.document


@needs_harness
@pytest.mark.slow
def test_both_measure_the_same_accuracy(run, files):
    ours, theirs = measured(run, files), measured(run, files, "--lm-eval")
    assert theirs["left_out"] == 0
    tasks = theirs["tasks"]
    assert {name: entry["examples"] for name, entry in tasks.items()} == {
        "qa_choice": 30,
        "qa_written": 30,
        "reasoning_written": 24,
    }
    rows = {(row["source"], row["measure"]): row for row in ours["by_source"]}
    found = set()
    for model in ("base", "selected"):
        values = {name: entry["models"][model] for name, entry in tasks.items()}
        for measure in ("likelihood", "likelihood_norm"):
            assert values["qa_choice"][measure]["value"] == pytest.approx(ours["models"][model][f"micro_{measure}"])
            found.add(values["qa_choice"][measure]["value"])
        for name, source in (("qa_written", "choices"), ("reasoning_written", "sums")):
            (row,) = [row for (of, _), row in rows.items() if of.startswith(source)]
            assert values[name]["score"]["value"] == pytest.approx(row[model])
            found.add(values[name]["score"]["value"])
    assert any(0 < value < 1 for value in found)


@needs_harness
@pytest.mark.slow
def test_only_the_groups_named_are_measured(run, files):
    assert set(measured(run, files, "--lm-eval", "reasoning")["tasks"]) == {"reasoning_written"}


@needs_harness
def test_an_unknown_group_is_named(run, files):
    result = winnow("eval", "--run", run, "--data", files, "--lm-eval", "law", *SETTINGS)
    assert result.code == 2 and "--lm-eval law: expected every, or task groups of QA, reasoning" in result.err


@pytest.mark.skipif(INSTALLED, reason="lm-eval is installed")
def test_without_the_harness_the_error_says_what_to_install(two_rounds):
    result = winnow("eval", "--run", two_rounds[0], "--lm-eval")
    assert result.code == 4 and "pip install" in result.err
