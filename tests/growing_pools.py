"""Pools that grow between rounds of the small world, without training."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tiny_world import WORDS

from al.config import load
from al.config.pool import PoolConfig
from al.pool.sources import find_sources
from al.preparation import stages
from al.preparation.stages import Prepared, import_sources, pool_version
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from al.run.store import Run

MORE = [
    {"prompt": f"task {i % 3} say the last of {' '.join(random.Random(i).sample(WORDS, 6))}", "completion": "river"}
    for i in range(40)
]
"""Worded as the world's pool, in a file of their own."""

CLUSTERED = (
    "dedup.threshold=0.988",
    "holdout.dev=6",
    "holdout.test=10",
    "select.strategy=uniform",
    "tokens.max_length=48",
)
"""The budget goes to clusters, and like examples are near-duplicates."""


def session_of(run: Run, world: Path, *settings: str) -> Session:
    """A session on the small world."""
    return Session(run, load(world, [*CLUSTERED, *settings]), quiet=True)


def settle(session: Session, number: int) -> Prepared:
    """The pool's stages of a round, recorded as a round records them."""
    rounds.open_round(session.run, number, "12", session.config.model_dump(mode="json"))
    prepared = stages.prepare(session, number)
    for role, artifact in stages.as_dict(prepared).items():
        rounds.record(session.run, number, role, artifact)
    return prepared


def grow(session: Session, file: Path, rows: list[dict]) -> None:
    """Import rows into the run's pool."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grown = import_sources(session, find_sources(PoolConfig(files=[str(file)])), pool_version(session)[1])
    rounds.add_pool(session.run, grown)


def by_key(prepared: Prepared, name: str) -> dict[int, object]:
    """A column of the clusters, by the examples' keys."""
    column = pq.read_table(prepared.clusters.path / "clusters.parquet")[name].to_pylist()
    return dict(zip(prepared.open_pool().keys.tolist(), column, strict=True))


def adapted(session: Session, prepared: Prepared, number: int) -> tuple[Artifact, dict[int, int]]:
    """A clustering as round `number` adapts it: every other example of the first cluster is split off. With the cluster of each key."""
    document = prepared.clusters.json("clusters.json")
    k = document["k"]
    split = {key: k if cluster == 0 and key % 2 else cluster for key, cluster in by_key(prepared, "cluster").items()}

    def build(out: Path, scratch: Path) -> None:
        table = pq.read_table(prepared.clusters.path / "clusters.parquet").drop(["cluster"])
        pq.write_table(table.append_column("cluster", pa.array(split.values(), pa.int32())), out / "clusters.parquet")
        write_json(out / "clusters.json", document | {"k": k + 1, "names": [*document["names"], "split off"]})

    inputs = {"clusters": prepared.clusters, "embeddings": prepared.embeddings, "pool": prepared.pool}
    params = {"round": number}
    return session.run.stage("adapted_clusters", version=2, inputs=inputs, params=params, build=build), split
