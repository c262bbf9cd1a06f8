"""The vectors that pickers look at, of the examples that may be picked and of the target."""

from __future__ import annotations

from typing import Any

import numpy as np

from al.lineage.history import History
from al.preparation.pool_state import load_embeddings
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact
from al.scoring.columns import losses_before, statistics_of
from selection.config import SelectConfig
from selection.strategy import Vectors, vectors_needed

FILES = {"pooled": "pooled.npy", "gradient": "gradients.npy"}


def vectors_of(
    select: SelectConfig,
    prepared: Prepared,
    rows: np.ndarray,
    scored: list[Artifact],
    aims: Artifact | None,
    history: History,
) -> dict[str, Any]:
    """`selection.strategy.Vectors` by name for the pool's `rows` (n,): those that the picker asks for."""

    wanted, found = vectors_needed(select), {}
    target = prepared.target
    if "embedding" in wanted:
        targets = load_embeddings(target.embeddings)[target.rows] if target else None
        found["embedding"] = Vectors(load_embeddings(prepared.embeddings), rows, targets)
    for name in wanted & set(FILES):
        found[name] = _measured(FILES[name], len(prepared.open_pool()), rows, scored, aims)
    if "trajectory" in wanted:
        found["trajectory"] = Vectors(_trajectories(prepared, rows, scored, history), np.arange(len(rows)))
    return found


def _trajectories(prepared: Prepared, rows: np.ndarray, scored: list[Artifact], history: History) -> np.ndarray:
    """(n, r) loss of each of `rows` before each round's training, this one's last; NaN where it was not measured."""
    keys = prepared.open_pool().keys
    found = np.full((len(keys), history.number), np.nan, dtype=np.float32)
    for number, measured, losses in losses_before(history, keys):
        found[measured, number - 1] = losses
    for statistics in map(statistics_of, scored):
        found[statistics["row"], -1] = statistics["nll_mean"]
    return found[rows]


def _measured(file: str, n: int, rows: np.ndarray, scored: list[Artifact], aims: Artifact | None) -> Any:
    """Vectors that were measured for this round."""

    parts, place, start = [], np.full(n, -1, dtype=np.int64), 0
    for artifact in scored:
        if (artifact.path / file).exists():
            parts.append(np.load(artifact.path / file, mmap_mode="r"))
            place[statistics_of(artifact)["row"]] = start + np.arange(len(parts[-1]))
            start += len(parts[-1])
    matrix = np.concatenate(parts) if len(parts) > 1 else (parts[0] if parts else np.empty((0, 1), np.float16))
    targets = np.load(aims.path / file) if aims is not None and (aims.path / file).exists() else None
    return Vectors(matrix, place[rows], targets)
