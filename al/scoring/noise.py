"""Which examples are held back as suspected noise: those whose prompt makes their response less likely."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.lineage.history import History
from al.lineage.past import statistics_of
from al.lineage.round_state import RoundState
from al.pool.store import Pool
from al.run.artifacts import Artifact, write_json
from al.scoring.stage import looks_for_noise
from selection.noise import suspected_noise

UNPROMPTED = "nll_unprompted_mean"
SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("id", pa.string()),
        ("nll", pa.float32()),
        ("nll_unprompted", pa.float32()),
        ("gain", pa.float32()),
        ("round", pa.int64()),
        ("reason", pa.string()),
    ]
)


def find_suspects(state: RoundState, scored: Sequence[Artifact]) -> Artifact:
    """Compare what this round measured with and without prompts; suspects of earlier rounds stay such until they are measured
    again.

    Publishes `suspects.parquet` (key, id, nll and nll_unprompted per response token, gain in nats of the whole response, round,
    reason) and `suspects.json`: how many were measured, how many of them are suspects, and the number of suspects in all.
    """
    previous, number = state.history.last("suspects"), state.number
    scored = list(scored) if looks_for_noise(state.session.config, state.adapter) else []

    def build(out: Path, scratch: Path) -> None:
        """Write `suspects.parquet` and `suspects.json`."""
        pool, measured = state.prepared.open_pool(), _both_ways(scored)
        suspect, gain = _suspicion(state, measured)
        found = _table(pool, {name: values[suspect] for name, values in measured.items()}, gain[suspect], number)
        known = found
        if previous is not None:
            earlier = pq.read_table(previous.path / "suspects.parquet")
            again = np.isin(earlier["key"].to_numpy(), pool.keys[measured["row"]])
            # A round of an older version has other columns.
            earlier = earlier.select([name for name in SCHEMA.names if name in earlier.column_names])
            known = pa.concat_tables([found, earlier.filter(pa.array(~again))], promote_options="default")
        pq.write_table(known, out / "suspects.parquet")
        counts = {"looked_at": len(gain), "found": len(found), "suspects": len(known)}
        write_json(out / "suspects.json", counts)

    return state.session.run.stage(
        "suspects",
        version=2,
        inputs={
            "pool": state.prepared.pool,
            "clusters": state.clusters,
            "previous": previous,
            **{f"measured {i}": artifact for i, artifact in enumerate(scored)},
        },
        params={"round": number},
        build=build,
        label="suspected noise",
    )


def suspected_share(history: History, suspects: Artifact) -> tuple[int, float]:
    """How many examples were checked in earlier rounds and for this one's `suspects`, and the share of them that were suspects."""
    rounds = [done["suspects"] for done in history.rounds if "suspects" in done]
    counts = [artifact.json("suspects.json") for artifact in (*rounds, suspects)]
    looked_at, found = (sum(count.get(name, 0) for count in counts) for name in ("looked_at", "found"))
    return looked_at, found / max(looked_at, 1)


def _both_ways(scored: list[Artifact]) -> dict[str, np.ndarray]:
    """Rows, targets and mean NLL with and without prompt of what was measured both ways."""
    names = ("row", "targets", "nll_mean", UNPROMPTED)
    tables = [statistics for artifact in scored if UNPROMPTED in (statistics := statistics_of(artifact))]
    columns = {name: np.concatenate([np.empty(0), *(table[name] for table in tables)]) for name in names}
    known = np.isfinite(columns["nll_mean"]) & np.isfinite(columns[UNPROMPTED])
    columns = {name: values[known] for name, values in columns.items()}
    return columns | {"row": columns["row"].astype(np.int64)}


def _suspicion(state: RoundState, measured: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(m,) whether each measured example is suspected, and the nats that its prompt takes off its response's NLL."""
    rows, targets = measured["row"], measured["targets"]
    sources = np.unique(np.asarray(state.prepared.open_pool().sources)[rows], return_inverse=True)[1]
    groups = (sources, state.pool.cluster[rows])
    found = suspected_noise(measured["nll_mean"] * targets, measured[UNPROMPTED] * targets, groups)
    return found.suspect, found.gain


def _table(pool: Pool, of: dict[str, np.ndarray], gain: np.ndarray, number: int) -> pa.Table:
    columns = [
        pool.keys[of["row"]],
        np.asarray(pool.ids)[of["row"]],
        of["nll_mean"].astype(np.float32),
        of[UNPROMPTED].astype(np.float32),
        gain.astype(np.float32),
        np.full(len(gain), number),
        [_reason(*values) for values in zip(of["nll_mean"], of[UNPROMPTED], gain, strict=True)],
    ]
    return pa.table([pa.array(c, type=field.type) for c, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _reason(nll: float, unprompted: float, gain: float) -> str:
    return f"its prompt makes its response less likely: NLL {nll:.2f} with it, {unprompted:.2f} without, {-gain:.1f} nats in all"


def held_back(
    artifact: Artifact | None, keys: np.ndarray, ids: np.ndarray, hold: bool, release: list[str]
) -> np.ndarray:
    """(n,) bool: which examples of these `keys` and `ids` are suspects and not released."""
    if artifact is None or not hold:
        return np.zeros(len(keys), dtype=bool)
    suspects = pq.read_table(artifact.path / "suspects.parquet", columns=["key"])["key"].to_numpy()
    return np.isin(keys, suspects) & ~np.isin(ids, release)


def why_suspected(artifact: Artifact | None, keys: np.ndarray) -> np.ndarray:
    """(n,) object: why each example is a suspect, None for one that is not."""
    result = np.full(len(keys), None, dtype=object)
    if artifact is not None:
        table = pq.read_table(artifact.path / "suspects.parquet", columns=["key", "reason"])
        why = dict(zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True))
        for row in np.flatnonzero(np.isin(keys, np.fromiter(why, dtype=np.uint64, count=len(why)))):
            result[row] = why[int(keys[row])]
    return result
