"""Looking at a pool: what is counted, what is sampled, which examples are shown, and that looking leaves nothing behind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from al.commands import inspect_pool as pool_inspection
from al.commands.options import Options
from al.config import load
from al.errors import ConfigError, DataError, RunStateError
from al.preparation import pool_facts as pool_measures
from al.preparation.pool_facts import describe_lengths, sample_rows, spread_over_sources
from trainer.rendering import END_OF_TURN, RESPONSE
from trainer.tokens import tokenize_pool

STEP = lambda n: None  # noqa: E731


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def looked(world: Path, tmp_path: Path):
    """looked(rows, other file=rows, …) → the document of these files."""

    def look(rows: list[Any], shown: int = 3, samples: int = 0, **files: list[Any]) -> dict[str, Any]:
        names = [str(write(tmp_path / f"{name}.jsonl", content)) for name, content in {"a": rows, **files}.items()]
        return pool_inspection.inspect_sources(Options(world, as_json=True), names, None, shown, samples)

    return look


def asks(*answers: str) -> list[dict[str, str]]:
    return [{"question": f"What is {i} and {i}, in a word?", "answer": answer} for i, answer in enumerate(answers)]


def test_each_file_says_what_was_recognised_in_it_and_why(looked):
    alpaca = {"instruction": "Sort.", "input": "b a", "output": "a b"}
    document = looked([*asks("two", "four"), alpaca], b=asks("six"))
    found = {(entry["file"].split("/")[-1], entry["format"]): entry for entry in document["recognised"]}
    assert {key: entry["rows"] for key, entry in found.items()} == {
        ("a.jsonl", "question_answer"): 2,
        ("a.jsonl", "alpaca"): 1,
        ("b.jsonl", "question_answer"): 1,
    }
    assert "question" in found["b.jsonl", "question_answer"]["fields"]


def test_a_pool_of_before_formats_were_counted_by_file_is_described_as_a_whole():
    stats = {"files": [{"file": "a.jsonl", "rows": 3}], "formats": {"alpaca": 1, "evals": 2}}
    assert [(e["file"], e["format"], e["rows"]) for e in pool_inspection.recognised(stats)] == [
        (None, "evals", 2),
        (None, "alpaca", 1),
    ]


def test_turns_system_and_tool_messages_are_counted(looked):
    def chat(*roles: str) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": f"{role} {len(roles)} {i}"} for i, role in enumerate(roles)]}

    pair = ("user", "assistant")
    rows = [chat(*pair), chat("system", *pair), chat(*pair * 2), chat(*pair * 4), chat(*pair * 9)]
    rows.append(chat("user", "assistant", "tool", "assistant"))
    turns = looked(rows)["turns"]
    assert turns == {"of": 6, "user_turns": {"1": 3, "2": 1, "3-4": 1, "9+": 1}, "system": 1, "tool": 1}


def test_languages_and_refusals_are_counted(looked):
    german = {
        "question": "Wie weit ist es von hier bis zum nächsten Bahnhof?",
        "answer": "Es sind ungefähr drei Kilometer zu Fuß.",
    }
    english = {"question": "How far is it from here to the next station?", "answer": "It is about two miles on foot."}
    refusal = {"question": "Tell me what I should do now.", "answer": "I'm sorry, but I can't assist with that."}
    document = looked([german, english, refusal])
    assert document["languages"] == {"of": 3, "counts": {"en": 2, "de": 1}}
    assert document["refusals"] == {"of": 3, "count": 1}


def test_lengths_are_those_of_the_token_table(looked, world, tmp_path):
    rows = asks(*("long " * (12 * i) for i in range(12)))
    document = looked(rows)["lengths"]
    config = load(world, ())
    template, _ = pool_inspection._template(config)
    conversations = [
        [
            {"role": "user", "content": row["question"]},
            *([{"role": "assistant", "content": row["answer"]}] if row["answer"] else []),
        ]
        for row in rows
    ]
    tokenize_pool(conversations, template, config.tokens, tmp_path / "tokens")
    facts = json.loads((tmp_path / "tokens" / "tokens.json").read_text())
    assert document["of"] == 12 and document["unit"] == "tokens" and document["max_length"] == 96
    assert document["total"] == facts["tokens"] + facts["dropped_tokens"]
    assert document["over"] == facts["status"]["skipped"] > 0 and document["over_status"] == {
        "skipped": document["over"]
    }
    assert sum(bin["count"] for bin in document["bins"]) == 12


def test_without_a_tokenizer_characters_are_counted_and_the_reason_is_given(looked, world, monkeypatch, tmp_path):
    options = Options(world, overrides=(f"model.name={tmp_path / 'none'}",), as_json=True)
    file = write(tmp_path / "x.jsonl", asks("two"))
    (tmp_path / "none").mkdir()
    document = pool_inspection.inspect_sources(options, [str(file)], None, 1)
    assert document["lengths"]["unit"] == "characters" and "expected a model directory" in document["lengths"]["why"]
    assert document["shown"][0]["segments"] == [] and document["shown"][0]["messages"][0]["role"] == "user"
    assert "is the tokenizer's own and is not shown" in document["template_note"]
    options = Options(world, overrides=(*options.overrides, "model.chat_template=mistral"), as_json=True)
    document = pool_inspection.inspect_sources(options, [str(file)], None, 1)
    shown = [part["text"] for part in document["shown"][0]["segments"]]
    assert shown == ["<s>[INST] What is 0 and 0, in a word? [/INST]", "two", "</s>"]
    assert document["template_note"].startswith("Special tokens may be written otherwise")


def test_a_hub_that_does_not_answer_is_asked_once_and_reported(world, monkeypatch, tmp_path):
    from trainer import tokenizer

    asked, loaded, load_tokenizer = [], [], tokenizer.load_tokenizer

    def watched(config: Any, only_local: bool = False) -> object:
        loaded.append(only_local)
        return load_tokenizer(config, only_local)

    class Api:
        def model_info(self, name: str, **options: Any) -> None:
            asked.append((name, options["timeout"]))
            raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(pool_inspection, "load_tokenizer", watched)
    options = Options(world, overrides=("model.name=no-such-owner/no-such-model",), as_json=True)
    document = pool_inspection.inspect_sources(options, [str(write(tmp_path / "x.jsonl", asks("two")))], None, 0)
    assert asked == [("no-such-owner/no-such-model", pool_inspection.HUB_SECONDS)]
    assert loaded == [True]  # loading without only_local would try again and again for most of a minute
    assert "the hub gives no tokenizer: no route" in document["lengths"]["why"]


def test_an_example_is_shown_as_the_model_sees_it_with_what_is_trained_on(looked):
    (example,) = looked(asks("two"), shown=1)["shown"]
    marked = [(segment["text"], segment["target"]) for segment in example["segments"] if segment["target"]]
    assert marked == [("two", RESPONSE), ("<|im_end|>", END_OF_TURN)]
    assert "".join(segment["text"] for segment in example["segments"]).startswith("<|im_start|>user\nWhat is 0")


def test_shown_examples_come_from_different_sources_and_are_the_same_every_time(looked):
    files = {"b": asks(*"xy"), "c": asks(*"z")}
    first = looked(asks(*"12345"), **files)
    assert [example["source"] for example in first["shown"]] == ["a", "b", "c"]
    assert looked(asks(*"12345"), **files)["shown"] == first["shown"]


def test_sources_are_taken_in_turn_and_answered_examples_first(importing):
    rows = {"a.jsonl": [*asks("", "", "two", "three")], "b.jsonl": asks("four")}
    pool = importing(rows).pool
    chosen = spread_over_sources(pool, 4)
    assert pool.sources[chosen].tolist() == ["a", "b", "a", "a"] and pool.labelled[chosen].tolist() == [
        True,
        True,
        True,
        False,
    ]
    assert len(set(spread_over_sources(pool, 99).tolist())) == len(pool)


def test_the_most_repeated_example_is_named_with_its_rows(looked):
    document = looked([*asks("two", "four"), *asks("two"), *asks("two")])
    assert [(entry["rows"], entry["origin"].split("/")[-1]) for entry in document["most_repeated"]] == [
        (3, "a.jsonl:1")
    ]
    assert "What is 0 and 0" in document["most_repeated"][0]["text"] and document["duplicates"] == 2


def test_the_quarantine_is_listed_by_reason_with_the_first_row_of_each(looked):
    document = looked([*asks("two"), "{broken", '{"question": 1', {"question": [1], "answer": "x"}])
    entries = [(e["reason"], e["rows"], e["file"].split("/")[-1], e["line"]) for e in document["quarantine"]]
    assert entries == [("invalid_json", 2, "a.jsonl", 2), ("wrong_type", 1, "a.jsonl", 4)]
    assert "question" in document["quarantine"][1]["message"]


def test_samples_hold_prompt_and_response(looked):
    (sample,) = looked(asks("two"), samples=5)["samples"]
    assert (
        sample["prompt"] == "user: What is 0 and 0, in a word?"
        and sample["response"] == "two"
        and sample["source"] == "a"
    )


def test_looking_at_files_leaves_nothing_behind(looked, monkeypatch, tmp_path):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    looked(asks("two"))
    with pytest.raises(DataError):
        looked(["nothing"])
    assert not list((tmp_path / "temporary").iterdir()) and not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(("n", "size", "expected"), [(5, 9, 5), (9, 9, 9), (100, 9, 9)])
def test_a_sample_is_sorted_without_repeats_and_the_same_every_time(n, size, expected):
    rows = sample_rows(n, size)
    assert len(set(rows.tolist())) == expected and rows.tolist() == sorted(rows.tolist()) and rows.max() < n
    assert sample_rows(n, size).tolist() == rows.tolist()


def test_only_a_sample_is_measured_of_a_large_pool(importing, monkeypatch):
    monkeypatch.setattr(pool_measures, "LANGUAGE_SAMPLE", 4)
    monkeypatch.setattr(pool_measures, "REFUSAL_SAMPLE", 3)
    monkeypatch.setattr(pool_measures, "LENGTH_SAMPLE", 2)
    pool = importing({"a.jsonl": asks(*(f"answer {i}" for i in range(9)))}).pool
    assert pool_measures.measure_languages(pool, STEP)["of"] == 4
    assert pool_measures.measure_refusals(pool, STEP)["of"] == 3
    assert pool_measures.measure_characters(pool, "", STEP)["of"] == 2
    assert pool_measures.measure_turns(pool)["of"] == 9


def test_bins_double_and_hold_every_length_once():
    lengths = np.array([0, 1, 2, 3, 4, 7, 8, 1000])
    bins = describe_lengths(lengths)["bins"]
    for bin in bins:
        assert bin["count"] == int(((lengths >= bin["low"]) & (lengths < bin["high"])).sum())
    assert sum(bin["count"] for bin in bins) == len(lengths)
    assert [(bin["low"], bin["high"]) for bin in bins][:4] == [(0, 1), (1, 2), (2, 4), (4, 8)]


def test_percentiles_are_lengths_that_occur():
    described = describe_lengths(np.array([1, 2, 3, 100]))
    assert described["percentiles"] == {"50": 3, "90": 100, "99": 100} and described["longest"] == 100
    assert describe_lengths(np.array([], dtype=np.int64))["bins"] == []


def test_a_page_must_be_named_html_so_that_no_data_is_overwritten(world, tmp_path):
    data = write(tmp_path / "data.jsonl", asks("two"))
    with pytest.raises(ConfigError, match=r"--html: expected a path that ends in .html"):
        pool_inspection.inspect(Options(world, as_json=True), [str(data)], None, 1, str(data))
    assert data.read_text().startswith("{")


def test_a_page_is_written_to_the_named_path_and_into_the_run_by_default(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = str(write(tmp_path / "data.jsonl", asks("two")))
    for asked, place in (("", "pool.html"), ("named.html", "named.html")):
        document = pool_inspection.inspect(Options(world, as_json=True), [data], None, 1, asked)
        assert document["page"] == place and "What is 0 and 0" in (tmp_path / place).read_text()
        assert len(document["samples"]) == 1


def test_a_run_without_a_pool_says_how_to_look_at_files(world, tmp_path):
    from al.run.store import Run

    Run.create_or_open(tmp_path / "run").close()
    with pytest.raises(RunStateError, match="pool inspect FILE"):
        pool_inspection.inspect(Options(world, run_path=tmp_path / "run"), (), None, 1)
