"""Which examples are held back as suspected noise: those whose loss contradicts that of their nearest measured neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.artifacts import Artifact, write_json
from al.columns import losses_before, statistics_of
from al.lineage import History
from al.pool.store import Pool
from al.prepare import Prepared
from al.session import Session, local_identity


def find_suspects(session: Session, prepared: Prepared, history: History, sample: Artifact) -> Artifact:
    """Compare the losses of the sample with their neighbours'; suspects of earlier rounds stay such until they are measured again.

    Prompts are embedded for it, since a wrong answer moves a conversation away from those it should be compared with. Publishes
    `suspects.parquet` (key, id, nll, neighbour_nll, z, round, reason) and `suspects.json`.
    """
    previous = history.last("suspects")
    embed = session.config.embed
    params = {
        "embed": embed.model_dump(mode="json", exclude={"device", "batch_tokens", "text"}),
        "files": local_identity(embed.model),
        "round": history.number,
    }

    def build(out: Path, scratch: Path) -> None:
        statistics, pool = statistics_of(sample), prepared.open_pool()
        before = _loss_before(history, pool, statistics["row"])
        found = _suspicions(session, pool, statistics, before, history.number)
        if previous is not None:
            found = _with_earlier(
                found, pq.read_table(previous.path / "suspects.parquet"), pool.keys[statistics["row"]]
            )
        pq.write_table(found, out / "suspects.parquet")
        write_json(out / "suspects.json", {"measured": len(statistics["row"]), "suspects": len(found)})

    return session.run.stage(
        "suspects",
        version=1,
        inputs={"pool": prepared.pool, "sample": sample, "previous": previous},
        params=params,
        build=build,
        label="suspected noise",
    )


SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("id", pa.string()),
        ("nll", pa.float32()),
        ("neighbour_nll", pa.float32()),
        ("z", pa.float32()),
        ("round", pa.int64()),
        ("reason", pa.string()),
    ]
)


def _suspicions(
    session: Session, pool: Pool, statistics: dict[str, np.ndarray], before: np.ndarray, number: int
) -> pa.Table:
    from selection.embed import embed_texts
    from selection.noise import LEAST_NEIGHBOURS, suspected_noise

    rows = statistics["row"]
    if len(rows) <= LEAST_NEIGHBOURS:
        return SCHEMA.empty_table()
    prompts = pool.texts(rows, part="prompt")
    with session.embedder.at_work() as embedder, session.progress("embed prompts", len(rows), "examples") as progress:
        vectors = np.empty((len(rows), embedder.get_embedding_dimension()), dtype=np.float16)
        embed_texts(prompts, session.config.embed, vectors, progress=progress, embedder=embedder)
    found = suspected_noise(vectors, statistics["nll_mean"], before=before)
    at = np.flatnonzero(found.suspect)
    columns = [
        pool.keys[rows[at]],
        np.asarray(pool.ids)[rows[at]],
        statistics["nll_mean"][at].astype(np.float32),
        found.neighbour_loss[at],
        found.z[at],
        np.full(len(at), number),
        [found.explain(int(i)) for i in at],
    ]
    return pa.table([pa.array(c, type=field.type) for c, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _with_earlier(found: pa.Table, earlier: pa.Table, measured: np.ndarray) -> pa.Table:
    """The suspects found now, and the earlier ones that were not measured now."""
    kept = ~np.isin(earlier["key"].to_numpy(), measured)
    return pa.concat_tables([found, earlier.filter(pa.array(kept))])


def _loss_before(history: History, pool: Pool, rows: np.ndarray) -> np.ndarray:
    """(m,) the loss of each row in the latest earlier round that measured it, NaN for none."""
    latest = np.full(len(pool.keys), np.nan)
    for _, measured, losses in losses_before(history, pool.keys, ("score",)):
        latest[measured] = losses
    return latest[rows]


def held_back(
    artifact: Artifact | None, keys: np.ndarray, ids: np.ndarray, hold: bool, release: list[str]
) -> np.ndarray:
    """(n,) bool: which examples of these `keys` and `ids` are suspects and not released."""
    if artifact is None or not hold:
        return np.zeros(len(keys), dtype=bool)
    suspects = pq.read_table(artifact.path / "suspects.parquet", columns=["key"])["key"].to_numpy()
    return np.isin(keys, suspects) & ~np.isin(ids, release)


def reasons(artifact: Artifact | None, keys: np.ndarray) -> np.ndarray:
    """(n,) object: why each example is a suspect, None for one that is not."""
    result = np.full(len(keys), None, dtype=object)
    if artifact is not None:
        table = pq.read_table(artifact.path / "suspects.parquet", columns=["key", "reason"])
        why = dict(zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True))
        for row in np.flatnonzero(np.isin(keys, np.fromiter(why, dtype=np.uint64, count=len(why)))):
            result[row] = why[int(keys[row])]
    return result
