"""What `plan` knows of a pool before it is imported: files read in part, hub sets by the table of presets."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_world import WORDS

from al.budget import parse_budget
from al.commands.plan import _first
from al.config import Config
from al.errors import EnvironmentProblem
from al.planning import pool_sample
from al.planning.plan import _warnings
from al.planning.pool_estimate import PoolEstimate, estimate_pool
from al.planning.pool_sample import CHARACTERS_PER_TOKEN, ROWS_READ, TOKENS_ASSUMED, TOKENS_PER_TURN

ROWS = 3_000


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    draw = random.Random(4)
    return [
        {"question": " ".join(draw.choices(WORDS, k=draw.randint(5, 60))), "answer": draw.choice(WORDS)}
        for _ in range(ROWS)
    ]


def written(folder: Path, name: str, rows: list[dict[str, str]]) -> Path:
    path, lines = folder / name, "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".csv"):
        path.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in rows))
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(lines)
    return path


def estimated(tmp_path: Path, longest: int = 2048, **pool) -> PoolEstimate:
    return estimate_pool(Config.model_validate({"pool": pool, "tokens": {"max_length": longest}}), tmp_path / "no-run")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.jsonl.gz", "a.parquet"])
def test_a_large_file_is_estimated_from_its_first_rows_and_a_small_one_is_counted(name, rows, tmp_path, monkeypatch):
    path = written(tmp_path, name, rows)
    tokens = (
        sum(sum(len(text) / CHARACTERS_PER_TOKEN + TOKENS_PER_TURN for text in row.values()) for row in rows) / ROWS
    )
    counted = estimated(tmp_path, files=[str(path)])
    assert counted.examples == ROWS and counted.basis.startswith("estimated: every row read")
    assert counted.mean_tokens == pytest.approx(tokens)
    monkeypatch.setattr(pool_sample, "READ_WHOLE", 0)
    large = estimated(tmp_path, files=[str(path)])
    assert large.examples == pytest.approx(ROWS, rel=0.1) and large.mean_tokens == pytest.approx(tokens, rel=0.1)
    assert large.basis.startswith("extrapolated from the first rows") and not large.exact


def test_a_plan_shows_how_the_first_row_is_read_and_which_fields_are_left(tmp_path):
    (tmp_path / "a.csv").write_text(f"ticket,reply,shop\nWhere is my lamp?,{'It is on its way. ' * 9},north\n")
    found = estimated(tmp_path, files=[str(tmp_path / "a.csv")], map={"instruction": "ticket", "output": "reply"})
    assert found.first.prompt == "Where is my lamp?" and found.first.kept == ("shop",)
    assert found.first.response.startswith("It is on its way. It is") and found.first.response.endswith("…")
    lines = _first(asdict(found.first))
    assert "asked: Where is my lamp?" in lines[0] and "kept as metadata: shop" in lines[1]
    assert _first(None) == []


def test_rows_without_an_answer_are_shown_as_trained_on_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "Where is my lamp?"}\n')
    (line,) = [
        line
        for line in _first(asdict(estimated(tmp_path, files=[str(tmp_path / "a.jsonl")]).first))
        if "trained" in line
    ]
    assert line.endswith("trained on: nothing, it has no response")


def test_long_examples_count_as_much_as_a_round_trains_on(rows, tmp_path):
    path = written(tmp_path, "a.jsonl", rows)
    assert estimated(tmp_path, longest=20, files=[str(path)]).mean_tokens <= 20


def test_a_file_in_a_folder_without_usable_rows_is_passed_over_and_rows_without_answers_are_named(rows, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/notes.csv").write_text("colour,number\nred,1\n")
    written(tmp_path / "data", "a.jsonl", [{"question": row["question"]} for row in rows[:50]])
    found = estimated(tmp_path, files=[str(tmp_path / "data")])
    assert found.examples == 50 and any("has a response" in note for note in found.notes)


@pytest.fixture
def silent_hub(monkeypatch):
    """A hub that does not answer; what was asked of it."""
    asked = []

    def nothing(source):
        asked.append(source.label)
        raise EnvironmentProblem("the hub cannot be reached")

    monkeypatch.setattr(pool_sample, "read_hub_rows", nothing)
    monkeypatch.setattr(pool_sample, "hub_rows_counted", lambda source: None)
    return asked


def test_presets_have_their_rows_and_measured_lengths_without_the_hub(silent_hub, tmp_path):
    found = estimated(tmp_path, files=["gsm8k"])
    assert (found.examples, round(found.mean_tokens)) == (7_473, 141) and not found.notes and not silent_hub
    dolly, named = estimated(tmp_path, files=["dolly"]), estimated(tmp_path, hub=["databricks/databricks-dolly-15k"])
    assert dolly.examples == named.examples == 15_011 and dolly.mean_tokens == TOKENS_ASSUMED
    assert "tokens an example are assumed of preset:databricks-dolly-15k:train" in dolly.notes[0]
    assert estimated(tmp_path, files=["oasst1"]).examples < 15_000, "rows are messages"


def test_a_set_of_unknown_size_is_named_and_left_out(silent_hub, tmp_path):
    found = estimated(tmp_path, files=["gsm8k"], hub=["somebody/words"])
    assert found.examples == 7_473 and "the size of hub:somebody/words is not known" in found.notes[0]


def test_a_hub_set_that_answers_is_sampled_and_its_count_is_the_hubs(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(
        pool_sample, "read_hub_rows", lambda source: ((n, row, row) for n, row in enumerate(rows[: 2 * ROWS_READ], 1))
    )
    monkeypatch.setattr(pool_sample, "hub_rows_counted", lambda source: 50_000)
    found = estimated(tmp_path, hub=["somebody/words"])
    assert found.examples == 50_000 and 10 < found.mean_tokens < 90 and not found.notes


def test_examples_that_are_held_out_are_not_left_for_the_budget(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "say {i}", "completion": "{i}"}}\n' for i in range(400)))
    sizes = {"dev": 60, "test": 140}

    def warned(budget: int) -> list[str]:
        sections = {"pool": {"files": [str(tmp_path / "rows.jsonl")]}, "holdout": sizes}
        config = Config.model_validate(sections)
        pool = estimate_pool(config, tmp_path / "run")
        asked = {"round": {"examples": budget}, "peak_gib": 0, "seconds": {"score": 0.0, "train": 1.0}}
        return _warnings(config, asked, parse_budget(str(budget)), pool, 1e12)

    assert warned(200) == []
    assert "400 examples, of which 200 become dev and test" in warned(201)[0]
    assert "larger than the pool (400 examples)" in warned(401)[0]
