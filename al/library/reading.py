"""The tables of the results of `import al`, from the artifacts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al.comparison.summary import SHOWN_METRICS
from al.errors import RunStateError
from al.pool.store import Pool
from al.run import rounds
from al.run.store import Run

COUNTED = ("examples", "tokens", "response_tokens")


def pool_table(path: Path, version: int) -> pa.Table:
    """Every example of a pool version. Raises RunStateError: there is no such version."""
    with Run.read(path) as run:
        row = run.db.execute("SELECT fingerprint FROM pools WHERE version = ?", (version,)).fetchone()
        artifact = run.find("pool", row[0]) if row is not None else None
        if artifact is None:
            raise RunStateError(f"{path}: there is no pool version {version} (any more).")
        return pq.read_table(artifact.path / "examples.parquet")


def outcome_table(path: Path, number: int) -> pa.Table:
    """The selection.parquet of a round. Raises RunStateError: it is missing or damaged."""
    with Run.read(path) as run:
        return pq.read_table(rounds.required(run, number, "selection").path / "selection.parquet")


def pick_table(path: Path, number: int) -> pa.Table:
    """The picked rows of a round in the order of picking, with their messages. Raises RunStateError, as `outcome_table`."""
    outcomes = outcome_table(path, number)
    picked = outcomes.filter(pc.greater_equal(outcomes["pick"], 0)).sort_by("pick")
    with Run.read(path) as run:
        pool = Pool.open(rounds.required(run, number, "pool").path)
        messages = pool.messages(np.asarray(picked["row"]))
    return picked.append_column("messages", pa.array(messages))


def run_table(document: Mapping[str, Any]) -> pa.Table:
    """The runs of a comparison, a row for each of their rounds."""
    rows = [
        {"strategy": run["strategy"], "seed": run["seed"], "round": entry["round"]}
        | {name: entry[name] for name in (*COUNTED, *SHOWN_METRICS)}
        for run in document["runs"]
        for entry in run["rounds"]
    ]
    return pa.Table.from_pylist(rows)
