"""The examples that an adapter was trained on, with the reasons for each, as JSON Lines and as a folder of the `datasets` library."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from al.pool.export import MESSAGES
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.store import Run

BATCH = 1_024
TEXTS, NUMBERS = ("id", "source", "why", "quota_reason"), ("round", "cluster", "tokens", "stands_for")
JSONL, FOLDER = "selection.jsonl", "dataset"


def write_data(run: Run, number: int, out: Path) -> int:
    """Write the picks of rounds 1 to `number` into directory `out`: `selection.jsonl`, one example a line, and `dataset/`, the same rows
    for `datasets.load_from_disk`. Returns the number of examples.

    A row has id, messages, source, round, cluster, tokens, the round's scores, stands_for (near-duplicates that it stands for), why (the
    reason of the pick) and quota_reason (the reason of its cluster's quota). Memory holds one batch of examples.
    """
    picks = [(n, rounds.required(run, n, "selection")) for n in range(1, number + 1)]
    scores = sorted({name for _, artifact in picks for name in _scores(artifact)})
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("messages", MESSAGES),
            ("source", pa.string()),
            *((name, pa.int64()) for name in NUMBERS),
            *((name, pa.float64()) for name in scores),
            ("why", pa.string()),
            ("quota_reason", pa.string()),
        ]
    )
    written = 0
    with (
        tempfile.TemporaryDirectory(dir=out, prefix=".rows-") as rows,
        (out / JSONL).open("w", encoding="utf-8") as lines,
    ):
        table = Path(rows) / "rows.arrow"
        with pa.OSFile(str(table), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            batch: list[dict[str, Any]] = []
            for row in _rows(picks):
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                batch.append(_columns(row, schema))
                written += 1
                if len(batch) == BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                    batch = []
            if batch:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
        _save_dataset(table, out / FOLDER)
    return written


def _rows(picks: list[tuple[int, Artifact]]) -> Iterator[dict[str, Any]]:
    for number, artifact in picks:
        reasons = {entry["cluster"]: entry["reason"] for entry in artifact.json("quotas.json")}
        with (artifact.path / JSONL).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield {**row, "round": number, "quota_reason": reasons.get(row["cluster"])}


def _scores(artifact: Artifact) -> list[str]:
    """Names of the scores in the rows of a selection."""
    with (artifact.path / JSONL).open(encoding="utf-8") as lines:
        first = lines.readline()
    known = {*TEXTS, *NUMBERS, "messages"}
    return [name for name in json.loads(first) if name not in known] if first else []


def _columns(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    return {name: row.get(name) for name in schema.names}


def _save_dataset(table: Path, out: Path) -> None:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    Dataset.from_file(str(table)).save_to_disk(out)
