"""A round on presets, read from local copies of their repositories: the pool, the target's test split, results by group."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from command_line import winnow
from tiny_world import WORDS


def say(rng: random.Random, which: str) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(3, 9))
    return f"say the {which} of {' '.join(words)}", words[0] if which == "first" else words[-1]


def write(repository: Path, config: str, split: str, rows: list[dict[str, str]]) -> None:
    """A split as JSON Lines, declared in the card as the hub wants it."""
    (repository / config).mkdir(parents=True, exist_ok=True)
    (repository / config / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [{"split": path.stem, "path": f"{config}/{path.name}"} for path in sorted((repository / config).iterdir())]
    card = yaml.safe_dump({"configs": [{"config_name": config, "data_files": files, "default": True}]})
    (repository / "README.md").write_text(f"---\n{card}---\n")


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    root, patch = tmp_path_factory.mktemp("presets"), pytest.MonkeyPatch()
    patch.setenv("WINNOW_PRESETS_DIR", str(root / "copies"))
    patch.setenv("HF_HOME", str(root / "cache"))
    rng = random.Random(11)
    for split, count in (("train", 120), ("test", 12)):
        sums = [dict(zip(("question", "answer"), say(rng, "first"), strict=True)) for _ in range(count)]
        exams = [dict(zip(("question", "correct_answer"), say(rng, "last"), strict=True)) for _ in range(count)]
        write(root / "copies/openai/gsm8k", "main", split, sums)
        write(root / "copies/allenai/sciq", "default", split, exams)
    run = root / "run"
    asked = ("--pool", "gsm8k", "--pool", "preset:sciq", "--target", "gsm8k")
    result = winnow("round", "--config", world, "--run", run, "--budget", 20, "--no-control", *asked)
    patch.undo()
    assert result.code == 0, result.err
    return run


def test_the_pool_is_made_of_the_training_splits(done):
    (pool,) = (done / "artifacts/pool").iterdir()
    stats = json.loads((pool / "pool.json").read_text())
    assert stats["sources"] == {"gsm8k": 120, "sciq": 120}
    assert [file["file"] for file in stats["files"]] == ["preset:gsm8k:train", "preset:sciq:train"]


def test_the_adapters_card_names_the_published_sets_and_their_licences(done):
    card = (done / "rounds/001/adapter/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["datasets"] == ["allenai/sciq", "openai/gsm8k"] and front["license"] == "unknown", "two licences"
    assert "| gsm8k | openai/gsm8k | MIT | " in card and "| sciq | allenai/sciq | CC BY-NC 3.0 | " in card


def test_the_target_is_the_test_split(done):
    (target,) = (done / "artifacts/target_pool").iterdir()
    origins = pq.read_table(target / "examples.parquet", columns=["origin"])["origin"].to_pylist()
    assert len(origins) == 12 and all(origin.startswith("preset:gsm8k:test:") for origin in origins)


def test_results_are_reported_by_group(done):
    summary = json.loads((done / "rounds/001/summary.json").read_text())
    groups = summary["evaluation"]["by_group"]
    assert [row["group"] for row in groups] == ["QA", "math"]
    assert sum(row["examples"] for row in groups) == summary["evaluation"]["examples"]
    assert all({"base", "selected"} <= set(row["models"]) for row in groups)
    page = (done / "rounds/001/report.html").read_text()
    assert "/evaluation/by_group/1/examples" in page


def test_a_pool_without_groups_has_none(world, tmp_path):
    run = tmp_path / "run"
    assert winnow("round", "--config", world, "--run", run, "--budget", 20, "--no-control").code == 0
    assert json.loads((run / "rounds/001/summary.json").read_text())["evaluation"]["by_group"] == []
