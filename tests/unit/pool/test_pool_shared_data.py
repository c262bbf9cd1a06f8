"""Published data sets next to the checkout, if present: each imports by its path alone, and every row is accounted for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data next to the checkout")

# File → rows as its README counts them, the format they are recognised as, examples of a row that nests several.
FILES = {
    "p3_t0_train_50k.jsonl.gz": (55_185, "prompt_completion"),
    "gsm8k_train.jsonl.gz": (7_473, "question_answer"),
    "gsm8k_test.jsonl.gz": (1_319, "question_answer"),
    "code_alpaca.json.gz": (4_535, "alpaca"),
    "gpteacher_roleplay.json.gz": (1_923, "alpaca"),
    "gpteacher_toolformer.json.gz": (7_673, "alpaca"),
    "sharegpt_dummy.json.gz": (500, "sharegpt"),
    "self_instruct_seed_tasks.jsonl.gz": (175, "self_instruct"),
}


def raw_rows(name: str) -> list[dict[str, Any]]:
    """The rows as the json module reads them, by none of our code."""
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return json.load(file) if ".json." in name else [json.loads(line) for line in file]


def test_every_file_of_the_folder_is_tested():
    assert set(FILES) == {path.name for path in DATA.iterdir() if path.name != "README.md"}


@pytest.mark.parametrize("name", FILES)
def test_every_row_of_a_published_file_is_an_example_or_a_named_duplicate(importing, name):
    rows, format_name = FILES[name]
    found = raw_rows(name)
    assert len(found) == rows
    nested = sum(len(row["instances"]) for row in found) if format_name == "self_instruct" else rows
    imported = importing({name: (DATA / name).read_bytes()})
    assert imported.refused == []
    assert imported.stats.formats == {format_name: rows}
    assert imported.stats.rows == rows
    assert imported.stats.examples + len(imported.duplicates) == nested
    assert len(set(imported.duplicates)) == imported.stats.duplicates
