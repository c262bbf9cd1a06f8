"""What was measured of the pool in a round, as scores take it: one column per measurement, a row per example of the pool."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from al.errors import ConfigError
from al.lineage.history import History
from al.lineage.outcomes import PoolState
from al.pool.store import Pool, locate
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact
from al.run.session import Session
from al.scoring import stage as scoring
from selection.scores import COLUMNS, similarity


def statistics_of(artifact: Artifact) -> dict[str, np.ndarray]:
    """Columns of a score artifact, `row` among them, in the order of its rows."""
    table = pq.read_table(artifact.path / "statistics.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


def measured_columns(
    session: Session,
    prepared: Prepared,
    state: PoolState,
    scored: list[Artifact],
    aims: Artifact | None,
    history: History,
) -> dict[str, np.ndarray]:
    """Columns (n,) over the pool as scores take them, NaN where nothing was measured; see selection.scores."""
    n = len(state.keys)
    columns = {name: np.full(n, np.nan) for name in COLUMNS} | {"tokens": state.tokens}
    for artifact in scored:
        statistics = statistics_of(artifact)
        rows = statistics.pop("row")
        for name, values in (statistics | _similarities(prepared, artifact, aims)).items():
            columns.setdefault(name, np.full(n, np.nan))[rows] = values
    wanted = scoring.measurements(session)
    if "history" in wanted:
        columns["nll_before"] = _lowest_before(state, history)
    if "quality" in wanted:
        columns["quality"] = quality_column(session, prepared, state)
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


def scored_before(history: History) -> list[tuple[int, Artifact, Artifact]]:
    """What earlier rounds measured: the round, the measurements, and the pool version whose rows they count."""
    return [
        (number, done[role], done["pool"])
        for number, done in enumerate(history.rounds, start=1)
        for role in ("score", "shortlist")
        if role in done and "pool" in done
    ]


def losses_before(
    history: History, keys: np.ndarray, roles: tuple[str, ...] = ("score", "shortlist")
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """What earlier rounds measured of the examples with these sorted `keys` (n,): the round, rows (m,), mean NLL (m,).

    The samples alone (role "score") are random parts of their clusters; what a picker wanted measured is not.
    """
    found = []
    for number, done in enumerate(history.rounds, start=1):
        for role in roles:
            if role in done and "pool" in done:
                statistics = statistics_of(done[role])
                at, there = locate(keys, Pool.open(done["pool"].path).keys[statistics["row"]])
                found.append((number, at[there], statistics["nll_mean"][there]))
    return found


def _lowest_before(state: PoolState, history: History) -> np.ndarray:
    """(n,) the lowest mean NLL that an earlier round measured of each example, NaN for none."""
    lowest = np.full(len(state.keys), np.nan)
    for _, rows, losses in losses_before(history, state.keys):
        lowest[rows] = np.fmin(lowest[rows], losses)
    return lowest


def quality_column(session: Session, prepared: Prepared, state: PoolState) -> np.ndarray:
    """(n,) the user's own column, NaN where an example has none.

    Raises:
        ConfigError: no example that may be picked has it, or one has something else than a number there.
    """
    name, pool = session.config.score.quality, prepared.open_pool()
    result = np.full(len(state.keys), np.nan)
    for rows in np.split(state.rows, range(10_000, len(state.rows), 10_000)):
        for row, metadata in zip(rows.tolist(), pool.metadata(rows), strict=True):
            value = metadata.get(name)
            try:
                result[row] = np.nan if value is None else float(value)
            except (TypeError, ValueError):
                raise ConfigError(
                    f"score.quality: expected numbers in column `{name}`, found {value!r} in example {pool.ids[row]} "
                    f"({pool.origin([row])[0]}); name a numeric column, or mend the file."
                ) from None
    if not np.isfinite(result).any():
        raise ConfigError(
            f"score.quality: no example that may be picked has a number in column `{name}`; set score.quality to a column of "
            "your files."
        )
    result[~np.isfinite(result)] = np.nan
    return result
