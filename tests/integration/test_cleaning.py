"""What `clean:` leaves out of a round: never picked, never held out, counted by reason; and nothing at all while its switches are off."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import winnow
from tiny_world import WORDS

from al.cleaning.language import example_languages
from al.pool.store import Pool

BUDGET = 20
ON = ("--set", "clean.refusals=drop", "--set", "clean.languages=[en]")
REFUSAL = "I'm sorry, but I can't help with that at all."
PAIRS, GERMAN = 24, 15


def planted() -> list[dict]:
    """Questions that were answered once and refused once, and questions whose rows say they are German."""
    rng, rows = random.Random(5), []
    for _ in range(PAIRS):
        words = rng.sample(WORDS, 8)
        question = f"say something about {' '.join(words)}"
        rows += [
            {"question": question, "answer": f"it is {' and '.join(words[:5])}", "lang": "en"},
            {"question": question, "answer": REFUSAL, "lang": "en"},
        ]
    rows += [{"question": f"nenne die Zahl {n}", "answer": f"die Zahl ist {n}", "lang": "de"} for n in range(GERMAN)]
    return rows


@pytest.fixture(scope="module")
def config(world, tmp_path_factory) -> Path:
    """The small world with planted rows. Prompts are what is embedded, so a question's answer and refusal are near-duplicates."""
    folder = tmp_path_factory.mktemp("cleaning")
    values = yaml.safe_load(world.read_text())
    (folder / "planted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in planted()))
    values["pool"]["files"].append(str(folder / "planted.jsonl"))
    values["embed"]["text"] = "prompt"
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder / "config.yaml"


def play(config, run, *more) -> dict:
    result = winnow("round", "--config", config, "--run", run, "--budget", BUDGET, *more, "--json")
    assert result.code == 0, result.err
    return result.document


@pytest.fixture(scope="module")
def untouched(config, tmp_path_factory) -> Path:
    """A run with one round, every switch off."""
    run = tmp_path_factory.mktemp("off") / "run"
    play(config, run)
    return run


@pytest.fixture(scope="module")
def cleaned(config, tmp_path_factory) -> Path:
    """A run with one round that leaves out refusals and all but English."""
    run = tmp_path_factory.mktemp("on") / "run"
    play(config, run, *ON)
    return run


def outcomes(run, number=1):
    """The round's table of outcomes, with the text of each example's response."""
    table = pq.read_table(run / f"rounds/{number:03d}/selection/selection.parquet").to_pandas()
    pool = Pool.open((run / f"rounds/{number:03d}/pool").resolve())
    table["outcome"] = table.outcome.astype(str)
    table["response"] = [messages[-1]["content"] for messages in pool.iter_messages()]
    return table


def inputs(run, role, number=1) -> set[str]:
    return set(json.loads((run / f"rounds/{number:03d}/{role}/manifest.json").read_text())["inputs"])


def test_refusals_and_other_languages_are_left_out_and_counted(cleaned):
    table = outcomes(cleaned)
    assert (table[table.response == REFUSAL].outcome == "refusal").sum() == PAIRS
    language = example_languages(Pool.open((cleaned / "rounds/001/pool").resolve()))
    labelled = ~table.outcome.isin(["unlabelled", "answered", "over_length"])
    other = ~np.isin(language, ["en", "und"]) & labelled
    assert set(table[other].outcome) == {"other_language"} and other.sum() >= GERMAN
    counted = json.loads((cleaned / "rounds/001/summary.json").read_text())["selection"]["outcomes"]
    assert (counted["refusal"], counted["other_language"]) == (PAIRS, int(other.sum()))


def test_the_report_says_what_was_left_out(cleaned, untouched):
    page = (cleaned / "rounds/001/report.html").read_text()
    assert "whose response is a refusal" in page and "its response declines the request (clean.refusals)" in page
    assert "clean: excluded" in winnow_again(cleaned).out


def winnow_again(run):
    """The plan and notes of another round of `run`, in a copy of it."""
    copy = run.with_name("copy")
    shutil.copytree(run, copy, symlinks=True)
    return winnow("round", "--run", copy, "--budget", 5, "--no-control")


def test_nothing_left_out_is_held_out_or_drawn_for_the_control(cleaned):
    table = outcomes(cleaned)
    split = np.load(cleaned / "rounds/001/split/split.npy")
    unwanted = table.outcome.isin(["refusal", "other_language"]).to_numpy()
    assert unwanted.sum() > PAIRS and not (split[unwanted] == 1).any() and not (split[unwanted] == 2).any()
    keys = Pool.open((cleaned / "rounds/001/pool").resolve()).keys
    assert not np.isin(np.load(cleaned / "rounds/001/control.selection/picked.npy"), keys[unwanted]).any()


def test_a_refusal_never_replaces_the_answer_to_the_same_question(cleaned, untouched):
    def answers_hidden_by_refusals(run):
        table = outcomes(run)
        groups = pq.read_table(run / "rounds/001/groups/groups.parquet")["representative"].to_numpy()
        led = groups != np.arange(len(groups))
        return int((led & (table.response.to_numpy()[groups] == REFUSAL) & (table.response != REFUSAL)).sum())

    assert answers_hidden_by_refusals(untouched) > 0, "the case is not in this world"
    assert answers_hidden_by_refusals(cleaned) == 0


def test_with_every_switch_off_there_is_no_stage_and_no_input_of_cleaning(untouched):
    assert not (untouched / "artifacts/cleaned").exists() and not (untouched / "artifacts/languages").exists()
    assert inputs(untouched, "groups") == {"pool", "tokens", "embeddings"}
    assert inputs(untouched, "split") == {"pool", "tokens", "embeddings", "groups", "previous"}
    assert "cleaned" not in inputs(untouched, "selection") | inputs(untouched, "control.selection")
    params = json.loads((untouched / "rounds/001/pool/manifest.json").read_text())["params"]
    assert "clean" not in params and all("clean" not in source for source in params["sources"])
    assert {"refusal", "other_language"} & set(outcomes(untouched).outcome) == set()


def test_other_languages_asked_for_later_are_not_detected_again(cleaned, config, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(cleaned, run, symlinks=True)
    play(config, run, "--set", "clean.languages=[en,de]")
    assert len(list((run / "artifacts/languages").iterdir())) == 1
    assert len(list((run / "artifacts/cleaned").iterdir())) == 2
    table = outcomes(run, 2)
    assert not (table[table.response.str.startswith("die Zahl")].outcome == "other_language").any()


def test_what_is_left_out_from_the_second_round_on_is_not_trained_on_again(config, tmp_path):
    run = tmp_path / "run"
    play(config, run, "--budget", 120, "--no-control")  # enough that some are refusals
    first = outcomes(run)
    refused = first.index[(first.response == REFUSAL) & (first.outcome == "selected")]
    play(config, run, *ON, "--set", "train.mode=retrain")
    rows = np.load(run / "rounds/002/packs/rows.npy")
    second = outcomes(run, 2)
    assert len(refused) and not np.isin(refused, rows).any()
    assert not (second.response.to_numpy()[rows] == REFUSAL).any()
    assert set(second.index[second.outcome.isin(["held_out_dev", "held_out_test"])]) >= set(
        first.index[first.outcome == "held_out_test"]
    ), "what was held out stays measured"


def test_plain_fine_tuning_leaves_out_the_same(config, tmp_path):
    files = yaml.safe_load(config.read_text())["pool"]["files"]
    small = ("--set", "holdout.dev=2", "--set", "holdout.test=2")
    where = ("--config", config, "--dataset", files[1], "--run", tmp_path / "run")
    result = winnow("train", *where, *small, *ON, "--json")
    assert result.code == 0, result.err
    assert result.document["examples"] == PAIRS - 4


def test_prompts_in_other_languages_are_not_handed_out(config, tmp_path):
    prompts = [{"messages": [{"role": "user", "content": f"say the number {n}"}], "lang": "en"} for n in range(6)]
    prompts += [{"messages": [{"role": "user", "content": f"nenne die Zahl {n}"}], "lang": "de"} for n in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    small = ("--set", "generate.max_new_tokens=4", "--set", "generate.samples=2")
    assert winnow("pool", "import", tmp_path / "prompts.jsonl", "--config", config, "--run", tmp_path / "run").code == 0
    where = ("--config", config, "--run", tmp_path / "run", "--pool", tmp_path / "prompts.jsonl")
    result = winnow("label", *where, "--budget", 20, *small, *ON, "--json")
    assert result.code == 0, result.err
    handed = [json.loads(line) for line in Path(result.document["file"]).read_text().splitlines()]
    assert handed and all(row["messages"][0]["content"].startswith("say") for row in handed)
    assert result.document["left_out"]["other_language"] == 6


def test_a_language_that_is_not_known_is_refused_with_the_key(config, tmp_path):
    result = winnow(
        "round", "--config", config, "--run", tmp_path / "r", "--budget", 5, "--set", "clean.languages=[xx]"
    )
    assert result.code == 2 and "clean.languages: xx" in result.err
    result = winnow(
        "round", "--config", config, "--run", tmp_path / "r", "--budget", 5, "--set", "clean.languages=[english]"
    )
    assert result.code == 2 and "clean.languages.0" in result.err


def test_a_pool_of_which_nothing_is_wanted_is_refused_with_the_counts(config, tmp_path):
    (tmp_path / "no.jsonl").write_text(
        "".join(json.dumps({"question": f"question {n}", "answer": REFUSAL}) + "\n" for n in range(8))
    )
    values = yaml.safe_load(config.read_text())
    values["pool"]["files"] = [str(tmp_path / "no.jsonl")]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    result = winnow("round", "--config", tmp_path / "config.yaml", "--run", tmp_path / "r", "--budget", 5, *ON)
    assert result.code == 3 and "8 refusal" in result.err and "clean.refusals" in result.err


def test_a_test_file_is_repaired_like_the_pool_and_found_in_it(config, tmp_path):
    values = yaml.safe_load(config.read_text())
    answer = "the café is on the left, isn’t it"
    broken = answer.encode().decode("cp1252")
    rows = [{"question": f"where is house {n}", "answer": answer} for n in range(5)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({**row, "answer": broken}) + "\n" for row in rows))
    values["pool"]["files"].append(str(tmp_path / "pool.jsonl"))
    values["holdout"]["test_files"] = [str(tmp_path / "test.jsonl")]
    values["clean"] = {"repair_encoding": True}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    play(tmp_path / "config.yaml", tmp_path / "run", "--no-control")
    table = outcomes(tmp_path / "run")
    assert set(table[table.response == answer].outcome) == {"held_out_test"}
    assert not (table.response == broken).any()
