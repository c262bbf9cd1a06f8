"""Clusterings that follow what was measured: each round may split and join clusters of the previous clustering."""

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
from al.preparation.growing import known_rows
from al.preparation.grown_clusters import own_clustering
from al.preparation.pool_state import load_embeddings
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from al.run.store import Run
from al.scoring.noise import held_back
from selection.adapt import adapt, extend
from selection.config import NoiseConfig


def adapt_clusters(session: Session, prepared: Prepared, history: History) -> Artifact:
    """The clustering of the round that follows `history`: the last that was adapted, with uneven clusters split and like ones joined.

    Rounds since then that spread their budget over something else, or did not adapt, change nothing. The pool's own clustering in the first
    round, without `cluster.adapt`, when no earlier round's comes from it (made again, or by another config), and when nothing was measured
    since. Where the pool has grown, what was adapted stays, and new examples are assigned to it.
    """
    if not session.config.cluster.adapt or spread_over(prepared.clusters) != "clusters":
        return prepared.clusters
    before = _last_of_this_pool(session, prepared, history)
    if before is None:
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


def _last_of_this_pool(session: Session, prepared: Prepared, history: History) -> Artifact | None:
    """The last adapted clustering that comes from the pool's own one, with what is new in the pool; the pool's own one where rounds have
    used it and none has adapted it; None where none has used it."""
    run, same, used = session.run, _grown_from(session.run, prepared.clusters), False
    for done in reversed(history.rounds):
        found = done.get("clusters")
        own = own_clustering(run, found)
        if found is None or own is None or own.fingerprint not in same:
            continue
        if found.stage == "adapted_clusters" and run.find("pool", found.manifest["inputs"]["pool"]) is not None:
            return found if own == prepared.clusters else _grown(session, prepared, found)
        used = True
    return prepared.clusters if used else None


def _grown_from(run: Run, own: Artifact) -> set[str]:
    """Fingerprints of a clustering and of those that it has grown from."""
    found: set[str] = set()
    older: Artifact | None = own
    while older is not None:
        found.add(older.fingerprint)
        older = run.find(older.stage, older.manifest["inputs"].get("earlier") or "")
    return found


def _grown(session: Session, prepared: Prepared, before: Artifact) -> Artifact:
    """An adapted clustering with the new examples of a pool that has grown: each joins the nearest of those clusters that its cluster in
    the pool's own clustering was made into."""

    def build(out: Path, scratch: Path) -> None:
        """Write the adapted clustering of all examples."""
        table = pq.read_table(prepared.clusters.path / "clusters.parquet")
        own, document = table["cluster"].to_numpy(), before.json("clusters.json")
        at, old = known_rows(session.run, before, prepared.open_pool().keys)
        adapted = pq.read_table(before.path / "clusters.parquet", columns=["cluster"])["cluster"].to_numpy()[at]
        found = extend(load_embeddings(prepared.embeddings), own, np.where(old, adapted, -1), document["k"])
        place = table.schema.get_field_index("cluster")
        pq.write_table(table.set_column(place, "cluster", pa.array(found, type=pa.int32())), out / "clusters.parquet")
        size = np.bincount(found, minlength=document["k"])
        document["quality"] |= {"smallest": int(size.min()), "largest": int(size.max())}
        growth = prepared.clusters.json("clusters.json")["growth"]
        write_json(out / "clusters.json", document | {"changes": [], "growth": growth})

    return session.run.stage(
        "adapted_clusters",
        version=2,
        inputs={
            "clusters": before,
            "own": prepared.clusters,
            "embeddings": prepared.embeddings,
            "pool": prepared.pool,
        },
        params={},
        build=build,
        label="adapt clusters",
    )


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
