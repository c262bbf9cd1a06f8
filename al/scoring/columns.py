"""What was measured of the pool in a round, as scores take it: one column per measurement, a row per example of the pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from al.lineage.past import statistics_of
from al.lineage.round_state import RoundState
from al.pool.store import Pool
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact
from al.scoring import stage as scoring
from selection.scores import COLUMNS, similarity


def measured_columns(state: RoundState, measured: Sequence[Artifact], aims: Artifact | None) -> dict[str, np.ndarray]:
    """Columns (n,) over the pool as scores take them, NaN where nothing was measured; see selection.scores.

    Args:
        measured: score artifacts of this round. aims: that of the target, None without one.
    """
    n = len(state.pool.keys)
    columns = {name: np.full(n, np.nan) for name in COLUMNS} | {"tokens": state.pool.tokens}
    for artifact in measured:
        statistics = statistics_of(artifact)
        rows = statistics.pop("row")
        for name, values in (statistics | _similarities(state.prepared, artifact, aims)).items():
            columns.setdefault(name, np.full(n, np.nan))[rows] = values
    wanted = scoring.measurements(state.session)
    if "history" in wanted:
        columns["nll_before"] = state.lowest_before
    if "quality" in wanted:
        columns["quality"] = state.quality
    return columns


def _similarities(prepared: Prepared, artifact: Artifact, aims: Artifact | None) -> dict[str, np.ndarray]:
    """Nearness of measured examples to the target, by the vectors that were measured of both."""
    found = {}
    if aims is not None:
        target = prepared.target
        tasks = Pool.open(target.pool.path).sources[target.rows]
        for file, name, groups in (("pooled", "rds_similarity", None), ("gradients", "less_similarity", tasks)):
            if (artifact.path / f"{file}.npy").exists() and (aims.path / f"{file}.npy").exists():
                mine = np.load(artifact.path / f"{file}.npy", mmap_mode="r")
                found[name] = similarity(mine, np.load(aims.path / f"{file}.npy"), groups)
    return found
