"""A round without dev (or test) examples has nothing to compare there, and says so instead of failing at its end."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq

from al.evaluation.stage import COLUMNS, compare_models
from al.round.loop import gained
from selection.holdout import DEV, TEST


def test_a_split_of_no_examples_gives_no_metrics(tmp_path):
    columns = {name: [1.0, 2.0] for name in COLUMNS}
    pq.write_table(pa.table({"source": ["a", "b"], "split": [TEST, TEST], **columns}), tmp_path / "examples.parquet")
    measured = SimpleNamespace(path=tmp_path)
    found = compare_models({"base": measured, "selected": measured}, DEV, 50, 0)
    assert found["examples"] == 0 and found["models"] == found["differences"] == {}
    assert compare_models({"base": measured, "selected": measured}, TEST, 50, 0)["examples"] == 2
    assert not gained({"dev": found})
