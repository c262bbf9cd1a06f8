"""The vectors that pickers use, of the examples that may be picked and of the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from al.lineage.past import losses_before, statistics_of
from al.lineage.round_state import RoundState
from al.preparation.pool_state import load_embeddings
from al.run.artifacts import Artifact
from al.scoring.hidden_states import hidden_vectors
from selection.strategy import Vectors, vectors_needed

FILES = {"pooled": "pooled.npy", "gradient": "gradients.npy"}


def vectors_of(
    state: RoundState,
    rows: np.ndarray,
    measured: Sequence[Artifact],
    aims: Artifact | None,
    states: Artifact | None,
) -> dict[str, Vectors]:
    """`selection.strategy.Vectors` by name for the pool's `rows` (n,): those that the picker asks for."""
    wanted, found = vectors_needed(state.select), {}
    target = state.prepared.target
    if "embedding" in wanted:
        targets = load_embeddings(target.embeddings)[target.rows] if target else None
        found["embedding"] = Vectors(load_embeddings(state.prepared.embeddings), rows, targets)
    if "hidden_states" in wanted and states is not None:
        found["hidden_states"] = hidden_vectors(states, len(state.pool.keys), rows)
    for name in wanted & set(FILES):
        found[name] = _measured(FILES[name], len(state.pool.keys), rows, measured, aims)
    if "trajectory" in wanted:
        found["trajectory"] = Vectors(_trajectories(state, rows, measured), np.arange(len(rows)))
    return found


def _trajectories(state: RoundState, rows: np.ndarray, measured: Sequence[Artifact]) -> np.ndarray:
    """(n, r) loss of each of `rows` before each round's training, this one's last; NaN where it was not measured."""
    keys = state.pool.keys
    found = np.full((len(keys), state.number), np.nan, dtype=np.float32)
    for number, before, losses in losses_before(state.history, keys):
        found[before, number - 1] = losses
    for statistics in map(statistics_of, measured):
        found[statistics["row"], -1] = statistics["nll_mean"]
    return found[rows]


def _measured(file: str, n: int, rows: np.ndarray, measured: Sequence[Artifact], aims: Artifact | None) -> Vectors:
    """Vectors that were measured for this round."""
    parts, place, start = [], np.full(n, -1, dtype=np.int64), 0
    for artifact in measured:
        if (artifact.path / file).exists():
            parts.append(np.load(artifact.path / file, mmap_mode="r"))
            place[statistics_of(artifact)["row"]] = start + np.arange(len(parts[-1]))
            start += len(parts[-1])
    matrix = np.concatenate(parts) if len(parts) > 1 else (parts[0] if parts else np.empty((0, 1), np.float16))
    targets = np.load(aims.path / file) if aims is not None and (aims.path / file).exists() else None
    return Vectors(matrix, place[rows], targets)
