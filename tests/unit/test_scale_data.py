"""The made data and the table of benchmarks/scale.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.preparation.pool_state import load_embeddings
from al.run.store import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import scale_data
from scale_round import embed_by, stage_seconds
from scale_tables import scale


def test_made_vectors_have_near_duplicates_and_depend_on_the_seed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(scale_data, "BLOCK", 700)
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        scale_data.write_vectors(tmp_path / f"{name}.npy", 2000, seed)
        found.append(np.load(tmp_path / f"{name}.npy").astype(np.float32))
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()
    cosines = found[0] @ found[0].T - 2 * np.eye(2000)
    assert np.allclose(np.linalg.norm(found[0], axis=1), 1, atol=2e-3)
    assert 0.1 < (cosines.max(axis=1) > 0.95).mean() < 0.5


def test_made_conversations_repeat_with_the_seed_and_have_power_law_topics(monkeypatch):
    monkeypatch.setattr(scale_data, "VOCABULARY", 2000)
    first, again = ([row["messages"] for row in scale_data.conversations(600)] for _ in range(2))
    assert first == again and len({row[0]["content"] for row in first}) > 450
    sizes = np.sort(np.bincount(scale_data.topics_of(10_000, 0)))[::-1]
    assert sizes[0] > 8 * sizes[20] and sizes[0] < 3000


def test_the_table_shows_each_size_and_how_cpu_time_grows():
    rows = [
        {"name": "cluster", "n": n, "seconds": n / 1e4, "cpu_seconds": (n / 1e3) ** 2, "peak_gib": 0.5}
        for n in (1000, 10_000)
    ]
    record = {"device": "two cores", "date": "2030-01-02T03", "command": "python x", "note": "", "rows": rows}
    text = scale(record)
    assert "| stage | 1,000 | 10,000 | growth |" in text
    assert "| 0.1 / 1.0 / 0.50 | 1.0 / 100.0 / 0.50 | n^2.00 |" in text
    rows[1]["note"] = "While it rained."
    assert "| 0.1 / 1.0 / 0.50 | 1.0 / 100.0 / 0.50 (1) |" in scale(record)
    assert "\n(1) While it rained.\n" in scale(record)


def test_made_vectors_stand_in_for_the_embeddings_of_a_pool(tmp_path):
    made = np.arange(20, dtype=np.float16).reshape(5, 4)
    with Run.create_or_open(tmp_path / "run") as run:
        ids = pa.table({"id": [f"{number:016x}" for number in (3, 5, 9)]})
        pool = run.stage(
            "pool",
            version=1,
            inputs={},
            params={},
            build=lambda out, _: pq.write_table(ids, out / "examples.parquet"),
        )
        found = embed_by(made)(SimpleNamespace(run=run), pool)
        assert (load_embeddings(found) == made[:3]).all()
        assert np.load(found.path / "keys.npy").tolist() == [3, 5, 9]
        assert list(stage_seconds(run.path / "events.jsonl")).count("embed") == 1
