"""The first rows of published data sets, where a checkout has them beside it."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data beside the checkout")


@pytest.mark.parametrize(
    ("name", "format_name"),
    [("p3_t0_train_50k", "prompt_completion"), ("gsm8k_train", "question_answer"), ("gsm8k_test", "question_answer"),
     ("self_instruct_seed_tasks", "self_instruct")],
)  # fmt: skip
def test_the_first_rows_of_a_published_data_set_are_all_usable(importing, name, format_name):
    with gzip.open(DATA / f"{name}.jsonl.gz") as lines:
        imported = importing({f"{name}.jsonl": b"".join(islice(lines, 150))})
    assert imported.stats.formats == {format_name: 150}
    assert imported.refused == []
    assert imported.stats.examples + imported.stats.duplicates >= 150


@pytest.mark.parametrize(("name", "format_name"), [("sharegpt_dummy", "sharegpt"), ("code_alpaca", "alpaca")])
def test_a_published_array_is_read_as_published(importing, name, format_name):
    imported = importing({f"{name}.json.gz": (DATA / f"{name}.json.gz").read_bytes()})
    assert set(imported.stats.formats) == {format_name}
    assert imported.stats.examples > 100
