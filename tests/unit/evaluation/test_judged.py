"""Verdicts are compared between models with intervals, and examples are drawn alike for every model and round."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from al.config.evaluation import EvaluateConfig
from al.evaluation.answering import most_likely
from al.evaluation.asked import Asked, ask_examples
from al.evaluation.judged import compare_answers, leads, telling_examples
from al.evaluation.questions import Question


def answers(tmp_path, name, rows):
    """What one model answered, as an artifact."""
    blank = {"part": "test", "kind": "number", "text": "x", "tokens": 1, "cut": False, "read": None, "likelihood": None}
    rows = [{**blank, "likelihood_norm": None, **row, "id": str(i)} for i, row in enumerate(rows)]
    (tmp_path / name).mkdir()
    types = {"text": pa.string(), "read": pa.string(), "likelihood": pa.float64(), "likelihood_norm": pa.float64()}
    columns = {key: pa.array([row[key] for row in rows], types.get(key)) for key in rows[0]}
    pq.write_table(pa.table(columns), tmp_path / name / "answers.parquet")
    return SimpleNamespace(path=tmp_path / name)


@pytest.fixture
def two(tmp_path):
    """Base is right in 2 of 6 numbers, selected in 4, one of its answers is cut off; three longer texts of a third source."""
    rows = [{"source": "ab"[i // 4]} for i in range(6)] + [{"source": "c", "kind": "rouge_l"}] * 3
    base, selected = (1, 0, 1, 0, 0, 0, 0.2, 0.4, 0.6), (1, 1, 1, 0, 1, 0, 0.5, 0.5, 0.5)
    return {
        "base": answers(tmp_path, "base", [{**row, "score": float(x)} for row, x in zip(rows, base, strict=True)]),
        "selected": answers(
            tmp_path,
            "selected",
            [{**row, "score": float(x), "cut": i == 0} for i, (row, x) in enumerate(zip(rows, selected, strict=True))],
        ),
    }


def test_accuracy_and_rouge_are_measured_apart_each_as_means_over_sources_and_examples(two):
    found = compare_answers(two, "test", 200, 0)
    assert found["measures"] == {"accuracy": {"examples": 6, "sources": 2}, "rouge_l": {"examples": 3, "sources": 1}}
    assert found["models"]["selected"] == pytest.approx(
        {"macro_accuracy": (3 / 4 + 1 / 2) / 2, "micro_accuracy": 4 / 6, "macro_rouge_l": 0.5, "micro_rouge_l": 0.5}
    )
    assert found["models"]["base"]["macro_accuracy"] == pytest.approx((2 / 4 + 0) / 2)
    assert found["cut"] == {"base": 0, "selected": 1}
    assert {row["source"]: (row["measure"], row["examples"], row["selected"]) for row in found["by_source"]} == {
        "a": ("accuracy", 4, 0.75),
        "b": ("accuracy", 2, 0.5),
        "c": ("rouge_l", 3, 0.5),
    }


def test_every_value_and_difference_has_an_interval_that_holds_it(two):
    found = compare_answers(two, "test", 500, 0)
    difference = found["differences"]["selected - base"]["macro_accuracy"]
    assert difference["value"] == pytest.approx(0.625 - 0.25)
    assert difference["low"] < difference["value"] < difference["high"] and 0 < difference["p"] <= 1
    for name, values in found["models"].items():
        for metric, value in values.items():
            ends = found["intervals"][name][metric]
            assert ends["low"] <= value <= ends["high"]
    assert (
        found["intervals"]["base"]["macro_rouge_l"]["low"] < 0.4 < found["intervals"]["base"]["macro_rouge_l"]["high"]
    )


def test_the_interval_of_a_share_covers_it_about_95_times_in_100(tmp_path):
    covered = 0
    for seed in range(40):
        scores = np.random.default_rng(seed).random((4, 25)) < np.array([[0.2], [0.4], [0.6], [0.8]])
        rows = [{"source": str(s), "score": float(x)} for s, each in enumerate(scores) for x in each]
        found = compare_answers({"m": answers(tmp_path, str(seed), rows)}, "test", 300, seed)
        ends = found["intervals"]["m"]["macro_accuracy"]
        covered += ends["low"] <= 0.5 <= ends["high"]
    assert 34 <= covered <= 40


def test_equal_verdicts_do_not_make_an_interval_without_width(tmp_path):
    rows = [{"source": "a", "score": 0.0}] * 12
    found = compare_answers(
        {"base": answers(tmp_path, "x", rows), "selected": answers(tmp_path, "y", rows)}, "test", 100, 0
    )
    assert found["intervals"]["base"]["micro_accuracy"] == {
        "low": 0.0,
        "high": pytest.approx(0.2425, abs=1e-3),
    }  # Wilson's
    difference = found["differences"]["selected - base"]["micro_accuracy"]
    assert (difference["low"], difference["high"]) == pytest.approx((-0.2425, 0.2425), abs=1e-3)


def test_no_interval_of_a_share_leaves_0_to_1(tmp_path):
    rows = [{"source": "a", "score": 0.0}, {"source": "b", "score": 1.0}]
    ends = compare_answers({"base": answers(tmp_path, "x", rows)}, "test", 100, 0)["intervals"]["base"][
        "macro_accuracy"
    ]
    assert 0.0 <= ends["low"] < 0.5 < ends["high"] <= 1.0


def test_an_example_without_an_answer_is_left_out_for_every_model(two, tmp_path):
    rows = [{"source": "a", "score": None, "text": None}, {"source": "a", "score": 1.0}]
    found = compare_answers({"base": answers(tmp_path, "one", rows)}, "test", 100, 0)
    assert (found["examples"], found["models"]["base"]["micro_accuracy"]) == (1, 1.0)


def test_a_part_without_answers_has_no_measures(two):
    found = compare_answers(two, "dev", 100, 0)
    assert (found["examples"], found["measures"], found["by_source"]) == (0, {}, [])


def test_accuracy_leads_where_at_least_half_of_the_examples_have_short_answers(two):
    judged = compare_answers(two, "test", 100, 0)
    assert leads(Asked(kinds={"test": {"number": 5, "rouge_l": 5}}), "test", judged)
    assert not leads(Asked(kinds={"test": {"text": 4, "rouge_l": 5}}), "test", judged)
    assert not leads(Asked(kinds={"test": {"number": 5}}), "test", {"measures": {"rouge_l": {"examples": 3}}})


def test_results_do_not_choose_the_metric(two):
    judged = compare_answers(two, "test", 100, 0)
    nothing_right = judged | {"models": {name: {"macro_accuracy": 0.0} for name in judged["models"]}}
    asked = Asked(kinds={"test": {"number": 5}})
    assert leads(asked, "test", judged) and leads(asked, "test", nothing_right)


def test_examples_on_which_the_models_differ_are_shown_first(two):
    said = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "r"}] for i in range(9)]
    asked = Asked([str(i) for i in range(9)], ["a"] * 9, ["test"] * 9, said, [Question(("r",), "number")] * 9)
    shown = telling_examples(two, asked, "test", 5)
    assert [row["id"] for row in shown] == ["1", "4", "6", "7", "8"]
    assert shown[0]["answers"]["selected"]["score"] == 1.0 and shown[0]["reference"] == "r"


def test_the_most_likely_choice_by_sum_and_per_byte():
    question = Question(("tea",), "choice", ("tea", "ice cream"), ("tea", "ice cream"), (0,))
    assert most_likely(question, [2.0, 4.0]) == (1.0, 0.0)
    assert most_likely(question, [2.0, 9.0]) == (1.0, 1.0)
    assert most_likely(question, []) is most_likely(Question(("x",), "text"), []) is None


class Drawer:
    """A pool of numbers, yes or no, and long texts, sorted by key as pools are."""

    def __init__(self, keys):
        self.keys = np.sort(np.array(keys, dtype=np.uint64))
        self.ids = np.array([f"{key:016x}" for key in self.keys.tolist()])
        self.sources = np.array([("few", "many", "long")[min(key % 4, 2)] for key in self.keys.tolist()])
        self.labelled = self.keys % 11 != 0

    def messages(self, rows):
        said = {"few": "Yes", "many": "7", "long": "They met again in the town and wrote a song"}
        return [
            [{"role": "user", "content": f"?{self.ids[r]}"}, {"role": "assistant", "content": said[self.sources[r]]}]
            for r in rows
        ]

    def alternatives(self, rows):
        return [[] for _ in rows]

    def metadata(self, rows):
        return [{} for _ in rows]


def drawn(keys, **settings):
    pool = Drawer(keys)
    return ask_examples(
        pool, np.arange(len(keys)), ["dev"] * len(keys), EvaluateConfig(**{"generate": "auto", **settings})
    )


KEYS = np.random.default_rng(3).integers(1, 2**60, 400).tolist()


def test_sources_take_turns_and_unlabelled_examples_are_left_out():
    asked = drawn(KEYS, generate_examples=30)
    assert Counter(asked.sources) == {"few": 10, "many": 10, "long": 10}
    assert not any(int(key, 16) % 11 == 0 for key in asked.ids)
    assert sum(asked.kinds["dev"].values()) == sum(key % 11 != 0 for key in KEYS)


def test_a_pool_that_grows_keeps_most_of_the_examples():
    before, after = drawn(KEYS[:300], generate_examples=60), drawn(KEYS, generate_examples=60)
    assert len(set(before.ids) & set(after.ids)) > 40


def test_only_examples_of_the_kinds_asked_for_are_drawn():
    assert set(drawn(KEYS, generate=["number"]).sources) == {"many"}
    assert drawn(KEYS, generate=[]).ids == []


def test_the_kind_of_a_source_can_be_set():
    asked = drawn(KEYS, generate_as={"ma*": "text", "long": "text"})
    assert {q.kind for s, q in zip(asked.sources, asked.questions, strict=True) if s != "few"} == {"text"}


def test_the_digest_changes_with_anything_that_a_verdict_depends_on():
    asked = drawn(KEYS, generate_examples=3)
    changed = replace(asked, questions=[replace(asked.questions[0], accepted=("other",)), *asked.questions[1:]])
    assert len({asked.digest, changed.digest, replace(asked, parts=["test"] * 3).digest, drawn(KEYS).digest}) == 4
    assert asked.digest == drawn(KEYS[::-1], generate_examples=3).digest


def test_code_is_run_only_if_the_config_says_so_twice():
    with pytest.raises(ValidationError, match="evaluate.run_code"):
        EvaluateConfig(generate=["code"])
    assert "code" not in EvaluateConfig(generate="auto").kinds
    assert "code" in EvaluateConfig(generate="auto", run_code=True).kinds
    assert EvaluateConfig(generate=None).kinds == EvaluateConfig().kinds == frozenset()
    assert json.loads(EvaluateConfig(generate="number").model_dump_json())["generate"] == ["number"]
