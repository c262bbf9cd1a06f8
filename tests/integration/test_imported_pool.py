"""What `pool import` put into a run is its pool: for `plan`, for `round`, and whatever the config file names as well."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from command_line import winnow
from tiny_world import WORDS

BUDGET = ("--budget", 12)


def write_rows(path: Path, count: int, about: str) -> Path:
    """A file of questions about words, no two alike."""
    draw, rows = random.Random(about), []
    for _ in range(count):
        words = draw.sample(WORDS, draw.randint(4, 9))
        rows.append({"question": f"{about}: say the last of {' '.join(words)}", "answer": words[-1]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory) -> Path:
    """A config that names files and a hub set as the default config does, two files of rows, and a run with one of them."""
    root = tmp_path_factory.mktemp("imported")
    values = yaml.safe_load(Path(world).read_text())
    values["pool"] = {"files": [str(root / "of-the-config.jsonl")], "hub": ["somebody/a-set-that-is-far-away"]}
    values |= {"control": False, "holdout": {"dev": 8, "test": 8}}
    (root / "config.yaml").write_text(yaml.safe_dump(values))
    write_rows(root / "of-the-config.jsonl", 50, "pear")
    mine = write_rows(root / "mine.jsonl", 120, "apple")
    imported = winnow("pool", "import", mine, "--run", root / "run")
    assert imported.code == 0, imported.err
    return root


def test_a_plan_counts_the_imported_pool_before_it_is_tokenized(folder):
    found = winnow("plan", *BUDGET, "--config", folder / "config.yaml", "--run", folder / "run", "--json").document
    assert found["pool"]["examples"] == 120 and 10 < found["pool"]["mean_tokens"] < 40
    assert not any("larger than the pool" in text for text in found["warnings"])
    stages = {
        "import",
        "tokenize",
        "embed",
        "near-duplicates",
        "hold out",
        "cluster",
        "train",
        "evaluate",
        "map",
        "describe clusters",
    }
    assert stages <= set(found["seconds"]) and found["seconds"]["import"] == 0
    assert found["basis"]["pool"].startswith("examples counted")


def test_a_plan_honours_pool_also_where_the_run_has_another_one(folder):
    other = write_rows(folder / "other.jsonl", 70, "plum")
    options = (*BUDGET, "--config", folder / "config.yaml", "--run", folder / "run")
    found = winnow("plan", *options, "--pool", other, "--json").document
    assert found["pool"]["examples"] == 70
    assert any("other.jsonl" in text and "has another pool" in text for text in found["warnings"])
    same = winnow("plan", *options, "--pool", folder / "mine.jsonl", "--json").document
    assert same["pool"]["examples"] == 120 and not any("another pool" in text for text in same["warnings"])


def test_rounds_use_what_was_imported_and_name_what_they_leave_out(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    options = (*BUDGET, "--config", folder / "config.yaml", "--run", tmp_path / "run")
    refused = winnow("round", *options, "--pool", folder / "of-the-config.jsonl")
    assert refused.code == 5 and "is not part of the pool" in refused.err
    assert winnow("status", "--run", tmp_path / "run", "--json").document["rounds"] == [], (
        "the refused round is not open"
    )
    first = winnow("round", *options)
    assert first.code == 0, first.err
    assert (
        first.out.count("note: the pool is what was imported") == 1 and "somebody/a-set-that-is-far-away" in first.out
    )
    again = winnow("round", *options, "--json")
    assert again.code == 0 and again.document["round"] == 2, again.err
    pool = winnow("pool", "inspect", "--run", tmp_path / "run", "--json").document
    assert pool["examples"] == 120


def test_an_imported_file_that_changed_is_still_noticed(folder, tmp_path):
    mine = write_rows(tmp_path / "rows.jsonl", 60, "fig")
    assert winnow("pool", "import", mine, "--run", tmp_path / "run").code == 0
    write_rows(mine, 61, "fig")
    options = ("--config", folder / "config.yaml", "--set", f"pool.files=[{mine}]", "--run", tmp_path / "run")
    changed = winnow("round", *BUDGET, *options)
    assert changed.code == 5 and "changed since" in changed.err


def test_held_out_files_are_asked_for_also_of_an_imported_pool(folder):
    dev = write_rows(folder / "dev.jsonl", 9, "kiwi")
    options = ("--config", folder / "config.yaml", "--set", f"holdout.dev_files=[{dev}]", "--run", folder / "run")
    refused = winnow("round", *BUDGET, *options)
    assert refused.code == 5 and "dev.jsonl is not part of the pool" in refused.err
