"""Clusterings that follow what was measured: each round may split and join clusters of the round before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.lineage.history import History
from al.lineage.past import losses_before
from al.pool.store import Pool
from al.preparation.groups import spread_over
from al.preparation.pool_state import load_embeddings
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from al.scoring.noise import held_back
from selection.adapt import adapt
from selection.config import NoiseConfig


def adapt_clusters(session: Session, prepared: Prepared, history: History) -> Artifact:
    """The clustering of the round that follows `history`: that of the round before, with uneven clusters split and like ones joined.

    The pool's own clustering in the first round, without `cluster.adapt`, when that clustering is another one (the pool has grown, or the
    config changed), and when nothing was measured since.
    """
    before = history.last("clusters") or prepared.clusters
    if (
        not session.config.cluster.adapt
        or spread_over(prepared.clusters) != "clusters"
        or _origin(history) != prepared.clusters.fingerprint
    ):
        return prepared.clusters
    measured = [done["score"] for done in history.rounds if "score" in done]
    if not any(artifact.json("score.json")["examples"] for artifact in measured):
        return before

    suspects, held = history.last("suspects"), session.config.noise

    def build(out: Path, scratch: Path) -> None:
        """Write the adapted clustering."""
        table = pq.read_table(before.path / "clusters.parquet")
        assignment = table["cluster"].to_numpy()
        pool = prepared.open_pool()
        rows, losses, epochs = _measurements(history, pool)
        ids = np.asarray(pool.ids)[rows]
        noise = held_back(suspects, pool.keys[rows], ids, held.hold, held.release)
        losses = np.where(noise, np.nan, losses)  # noise says nothing of its neighbourhood
        vectors = load_embeddings(prepared.embeddings)
        found = adapt(vectors, assignment, rows, losses, epochs)
        column = pa.array(found.assignment, type=pa.int32())
        pq.write_table(
            table.set_column(table.schema.get_field_index("cluster"), "cluster", column), out / "clusters.parquet"
        )
        document = before.json("clusters.json")
        changes = [*found.splits, *found.merges]
        size = np.bincount(found.assignment, minlength=len(found.parent))
        of_now = {"k": len(size), "smallest": int(size.min()), "largest": int(size.max())}
        document |= {
            "quality": document["quality"] | of_now,  # distinctness is that of the pool's own clustering
            "k": len(found.parent),
            "names": _names(found.parent, document["names"]),
            "changes": [{"old": list(c.old), "new": list(c.new), "reason": c.reason} for c in changes],
        }
        write_json(out / "clusters.json", document)

    return session.run.stage(
        "adapted_clusters",
        version=2,
        inputs={
            "clusters": before,
            "embeddings": prepared.embeddings,
            "suspects": suspects,
            "pool": prepared.pool,
            **{f"score {i}": artifact for i, artifact in enumerate(measured)},
        },
        params={"round": history.number} | ({} if held == NoiseConfig() else {"noise": held.model_dump(mode="json")}),
        build=build,
        label="adapt clusters",
    )


def _origin(history: History) -> str | None:
    """Fingerprint of the pool's own clustering that the latest one comes from."""
    used = (done["clusters"] for done in reversed(history.rounds) if "clusters" in done)
    return next((artifact.fingerprint for artifact in used if artifact.stage == "clusters"), None)


def _measurements(history: History, pool: Pool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, losses and rounds of all samples."""
    found = losses_before(history, pool.keys, ("score",))
    epochs = np.repeat([number for number, _, _ in found], [len(rows) for _, rows, _ in found])
    return np.concatenate([rows for _, rows, _ in found]), np.concatenate([losses for _, _, losses in found]), epochs


def _names(parents: list[tuple[int, ...]], names: list[str]) -> list[str]:
    """Names of adapted clusters: both names of a joined pair, and the halves of a split one numbered."""
    seen: dict[tuple[int, ...], int] = {}
    repeated = {parent for parent, count in Counter(parents).items() if count > 1}
    result = []
    for parent in parents:
        name = " + ".join(names[c] for c in parent)
        if parent in repeated:
            seen[parent] = seen.get(parent, 0) + 1
            name = f"{name} · {seen[parent]}"
        result.append(name)
    return result
