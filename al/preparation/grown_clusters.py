"""A clustering of a pool that has grown: earlier examples keep their cluster, coordinates and names, new ones are added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.pool.store import Pool
from al.preparation.growing import as_input, earlier_of, goes_on, known_rows
from al.preparation.pool_state import load_embeddings
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from al.run.store import Run
from selection.candidates import Vectors
from selection.kinds import SMALLEST
from selection.plane import on_plane

CLUSTERS_VERSION = 4
MUCH, FAR, FAR_QUANTILE, LEAST_ADDED = 0.5, 0.1, 0.99, 50
"""A note recommends `--recluster` if more than MUCH as many examples as a clustering was made from were added, if more than FAR of at
least LEAST_ADDED lie farther from their centre than the FAR_QUANTILE of those it was made from, or if SMALLEST are worded as no kind."""


def earlier_clustering(run: Run, number: int, params: Mapping[str, Any]) -> Artifact | None:
    """The pool's own clustering in the last round before `number` that had one with these parameters, under whatever that round adapted.
    Rounds between that spread their budget over something else change nothing."""
    found = (own_clustering(run, rounds.recorded(run, earlier, "clusters")) for earlier in range(number - 1, 0, -1))
    return next((own for own in found if own is not None and own.manifest["params"] == params), None)


def own_clustering(run: Run, clusters: Artifact | None) -> Artifact | None:
    """The pool's own clustering that an adapted one comes from; of another clustering, that one itself."""
    while clusters is not None and clusters.stage != "clusters":
        inputs = clusters.manifest["inputs"]
        name = inputs.get("own") or inputs["clusters"]
        clusters = run.find("clusters", name) or run.find("adapted_clusters", name)
    return clusters


def holds(run: Run, pool: Artifact, embeddings: Artifact, before: Artifact) -> bool:
    """Whether a clustering is of a pool that this one grew from, and has what it takes to add to it."""
    return (
        before.manifest["version"] >= CLUSTERS_VERSION
        and before.has("plane.npy")
        and goes_on(run, before, pool, embeddings)
    )


@dataclass(frozen=True)
class Growth:
    """The pool and what it has grown from: the clustering `earlier` of its earlier examples."""

    session: Session
    pool: Artifact
    embeddings: Artifact
    earlier: Artifact

    @cached_property
    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        return known_rows(self.session.run, self.earlier, Pool.open(self.pool.path).keys)

    @cached_property
    def new(self) -> np.ndarray:
        """(m,) rows of the new examples."""
        return np.flatnonzero(~self._known[1])

    @cached_property
    def vectors(self) -> Vectors:
        """The embeddings of the new examples."""
        return Vectors(load_embeddings(self.embeddings), self.new)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The earlier clusters.json."""
        return self.earlier.json("clusters.json")

    @cached_property
    def table(self) -> pa.Table:
        """The earlier clusters.parquet in rows of this pool; what it has for a new example is of another one."""
        return pq.read_table(self.earlier.path / "clusters.parquet").take(pa.array(self._known[0]))

    @cached_property
    def cluster(self) -> np.ndarray:
        """(n,) the cluster of each earlier example, -1 for a new one."""
        return np.where(self._known[1], self.table["cluster"].to_numpy(), -1)

    @property
    def kinds(self) -> np.ndarray | None:
        """(n,) int32 the kind of prompt of each earlier example, -1 for a new one; None where groups do not depend on kinds."""
        if not self.earlier.has("kinds.npy"):
            return None
        at, old = self._known
        return np.where(old, np.load(self.earlier.path / "kinds.npy")[at], -1).astype(np.int32)

    def write(
        self,
        out: Path,
        found: np.ndarray,
        distance: np.ndarray,
        centroids: np.ndarray,
        names: list[str],
        facts: Mapping[str, Any] | None = None,
        unlike: int = 0,
    ) -> None:
        """Write the whole clustering: `found` and `distance` (m,) of the new examples, `names` and `centroids` of all clusters, `facts` to
        add to the quality measures, and how many new prompts are worded as no kind of before (`unlike`)."""
        plane = np.load(self.earlier.path / "plane.npy")
        columns = {name: self.table[name].to_numpy().copy() for name in ("cluster", "distance", "x", "y")}
        limit = self._limit(columns["distance"])
        columns["cluster"][self.new], columns["distance"][self.new] = found, distance
        columns["x"][self.new], columns["y"][self.new] = on_plane(self.vectors, plane).T
        pq.write_table(pa.table(columns), out / "clusters.parquet")
        np.save(out / "plane.npy", plane)
        np.save(out / "centroids.npy", centroids)
        size = np.bincount(columns["cluster"], minlength=len(names))
        quality = self.document["quality"] | {
            "k": len(names),
            "mean_distance": float(columns["distance"].mean()),
            "smallest": int(size.min()),
            "largest": int(size.max()),
        }
        before = self.document.get("growth", {"added": 0, "far": 0})
        growth = {
            "made_from": len(columns["cluster"]) - len(self.new) - before["added"],
            "added": before["added"] + len(self.new),
            "far": before["far"] + int((distance > limit).sum()),
            "unlike": before.get("unlike", 0) + unlike,
            "limit": limit,
        }
        changed = {"k": len(names), "names": names, "quality": quality | dict(facts or {}), "growth": growth}
        write_json(out / "clusters.json", self.document | changed)

    def _limit(self, distance: np.ndarray) -> float:
        """How far from its centre an example is far, from those that the clustering was made from."""
        before = self.document.get("growth")
        return before["limit"] if before else float(np.quantile(distance[self._known[1]], FAR_QUANTILE))


def publish_clustering(
    session: Session,
    pool: Artifact,
    embeddings: Artifact,
    number: int | None,
    params: dict[str, Any],
    build: Callable[[Path, Path], None],
    grow: Callable[[Growth, Path, Path], None],
    grown_version: int = CLUSTERS_VERSION,
) -> Artifact:
    """The stage `clusters`: `grow` adds to the clustering of an earlier round than `number` where that holds on, else `build` makes a new
    one. None: no earlier one counts.

    Args:
        grown_version: of what `grow` makes, CLUSTERS_VERSION or more. A raised one makes again what was added to an earlier clustering, and
            leaves that one, and all that others go on from, as they are.
    """
    inputs = {"pool": pool, "embeddings": embeddings}
    before = None if number is None else earlier_clustering(session.run, number, params)
    earlier = earlier_of(session.run, before, inputs, params, partial(holds, session.run, pool, embeddings))
    return session.run.stage(
        "clusters",
        version=CLUSTERS_VERSION if earlier is None else grown_version,
        inputs=inputs | as_input(earlier),
        params=params,
        build=build if earlier is None else partial(grow, Growth(session, pool, embeddings, earlier)),
        label="cluster",
    )


def growth_notices(clusters: Artifact) -> list[str]:
    """What a clustering has taken up since it was made, and whether to make it again; nothing if the pool has not grown since."""
    growth = clusters.json("clusters.json").get("growth")
    if growth is None or not growth["added"]:
        return []
    added, made_from, far = growth["added"], growth["made_from"], growth["far"]
    line = (
        f"{added:,} examples added since the {made_from:,} that clusters were made from are assigned to those clusters"
    )
    why = []
    if added > MUCH * made_from:
        why.append("they are many")
    elif added >= LEAST_ADDED and far > FAR * added:
        why.append(f"{far:,} of them lie outside of all clusters")
    if growth.get("unlike", 0) >= SMALLEST:
        why.append(f"{growth['unlike']:,} of them share next to no wording with any kind of prompt of before")
    return [f"{line}; {' and '.join(why)}: --recluster makes clusters of all examples again" if why else line]
