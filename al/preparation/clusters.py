"""What the budget is spread over: clusters of embeddings, or what else the strategy asks for, published in one form.

They stay from round to round. A pool that has grown gets its new examples assigned to them, until `cluster.recluster` makes all again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.pool.store import Pool
from al.preparation.groups import groups_of_strategy
from al.preparation.grown_clusters import Growth, publish_clustering
from al.preparation.pool_state import load_embeddings
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.cluster import assign, describe, named_texts
from selection.cluster import cluster as cluster_rows
from selection.plane import on_plane, principal_plane


def cluster(session: Session, pool: Artifact, embeddings: Artifact, number: int = 1) -> Artifact:
    """The clustering of round `number`: the last one of its sort, with what is new in the pool assigned to it; a new one in the first
    round, with `cluster.recluster`, and where the config asks for another. Names, quality measures and 2-D coordinates are for the
    report."""
    since = None if session.config.cluster.recluster else number
    groups = groups_of_strategy(session, pool, embeddings, since)
    return cluster_embeddings(session, pool, embeddings, since) if groups is None else groups


def cluster_embeddings(session: Session, pool: Artifact, embeddings: Artifact, number: int | None) -> Artifact:
    """Clusters of embeddings; those of an earlier round than `number` where they hold on, None: new ones."""
    config = session.config.cluster
    params = {"cluster": config.model_dump(mode="json", exclude={"adapt", "recluster"}), "seed": session.config.seed}

    def build(out: Path, scratch: Path) -> None:
        """Write `clusters.parquet` and `clusters.json`, and what assigns other examples to them."""
        reader, vectors = Pool.open(pool.path), load_embeddings(embeddings)
        with session.progress("cluster", len(reader), "examples") as progress:
            result = cluster_rows(vectors, config, session.config.seed, progress)
        k = len(result.centroids)
        texts = reader.texts(np.arange(len(reader)), part="prompt")
        with session.progress("name clusters", named_texts(result.assignment), "texts") as progress:
            names = describe(texts, result.assignment, k, progress)
        plane = principal_plane(vectors)
        x, y = on_plane(vectors, plane).T
        pq.write_table(
            pa.table({"cluster": result.assignment, "distance": result.distance, "x": x, "y": y}),
            out / "clusters.parquet",
        )
        for name in ("centroids", "cells", "cluster_of"):
            np.save(out / f"{name}.npy", getattr(result, name))
        np.save(out / "plane.npy", plane)
        write_json(
            out / "clusters.json",
            {"k": k, "names": names, "quality": result.quality, "config": config.model_dump(mode="json")},
        )

    def grow(growth: Growth, out: Path, scratch: Path) -> None:
        """Write the clusters of before, with new examples assigned to the nearest of their cells."""
        arrays = {name: np.load(growth.earlier.path / f"{name}.npy") for name in ("cells", "cluster_of", "centroids")}
        with session.progress("cluster", len(growth.new), "examples") as progress:
            found, distance = assign(growth.vectors, **arrays)
            progress(len(growth.new))
        for name in ("cells", "cluster_of"):
            np.save(out / f"{name}.npy", arrays[name])
        growth.write(out, found, distance, arrays["centroids"], growth.document["names"])

    return publish_clustering(session, pool, embeddings, number, params, build, grow)
