"""What only the report shows of a pool and its clusters: where examples lie on the map, terms and exemplars of each cluster.

Both are stages of their own, cached like every other, and neither is needed to train: if one fails, the round continues and prints a note.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from al.errors import Interrupted, RunStateError
from al.preparation.pool_state import load_embeddings
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.cluster import named_texts, nearest_to_centre, telling_terms
from selection.projection import FITTED, LEAST
from selection.projection import project as place

TERMS, EXEMPLARS = 8, 3
"""Of each cluster: terms that set it apart, examples nearest to its centre."""


def laid_out(examples: int) -> bool:
    """Whether UMAP lays out a pool of so many examples: not a small one, and not without umap-learn (extra `map`)."""
    return examples >= LEAST and find_spec("umap") is not None


def project(session: Session, prepared: Prepared) -> Artifact | None:
    """Coordinates of the pool by UMAP. Publishes `map.npy` ((n, 2) float32, a row per example of the pool) and `map.json`.

    None where the map shows principal components (which `clusters.parquet` holds) instead: where `laid_out` says so, and when UMAP
    fails, which is said.
    """
    size = int(prepared.embeddings.json("embeddings.json")["examples"])
    if not laid_out(size):
        return None

    def build(out: Path, scratch: Path) -> None:
        """Write `map.npy` (n, 2) and `map.json`."""
        vectors = load_embeddings(prepared.embeddings)
        with session.progress("map", size, "examples") as progress:
            np.save(out / "map.npy", place(vectors, session.config.seed, progress=progress))
        write_json(out / "map.json", {"method": "umap", "fitted": min(size, FITTED)})

    def stage() -> Artifact:
        """The stage `projection`."""
        return session.run.stage(
            "projection",
            version=1,
            inputs={"embeddings": prepared.embeddings},
            params={"method": "umap", "fitted": FITTED, "seed": session.config.seed},
            build=build,
            label="map",
        )

    return _or_none(session, "map", "the map shows principal components instead", stage)


def describe_clusters(session: Session, prepared: Prepared, clusters: Artifact) -> Artifact | None:
    """Terms and exemplars of each cluster of `clusters`. Publishes `cards.json`: {"terms": [[…]], "exemplars": [[pool row, …]]}, by
    cluster. None when it fails, which is said."""

    def build(out: Path, scratch: Path) -> None:
        """Write terms and exemplars of every cluster."""
        import pyarrow.parquet as pq

        assignment = pq.read_table(clusters.path / "clusters.parquet", columns=["cluster"])["cluster"].to_numpy()
        k, pool = int(clusters.json("clusters.json")["k"]), prepared.open_pool()
        texts = pool.texts(np.arange(len(pool)), part="prompt")
        nearest = nearest_to_centre(load_embeddings(prepared.embeddings), assignment, k, EXEMPLARS)
        with session.progress("describe clusters", named_texts(assignment), "texts") as progress:
            terms = telling_terms(texts, assignment, k, TERMS, progress)
        write_json(out / "cards.json", {"terms": terms, "exemplars": [rows.tolist() for rows in nearest]})

    def stage() -> Artifact:
        """The stage `cards`."""
        return session.run.stage(
            "cards",
            version=1,
            inputs={"pool": prepared.pool, "embeddings": prepared.embeddings, "clusters": clusters},
            params={"terms": TERMS, "exemplars": EXEMPLARS},
            build=build,
            label="describe clusters",
        )

    return _or_none(session, "describe clusters", "the report's cluster cards lack terms and exemplars", stage)


def _or_none(session: Session, label: str, instead: str, stage: Callable[[], Artifact]) -> Artifact | None:
    """What `stage` gives; None and a note if it fails, unless the user stopped it or the run is damaged."""
    try:
        return stage()
    except (Interrupted, RunStateError):
        raise
    except Exception as error:  # a library that only the report needs must not cost a round
        what = f"{type(error).__name__}: {error}"
        session.run.event("stage.failed", stage=label, error=what)
        session.tell(f"note: {label} failed ({what}); {instead}.")
        return None


def for_the_report(session: Session, prepared: Prepared, clusters: Artifact) -> dict[str, Artifact]:
    """The artifacts of this module that could be made, by role."""
    made = {"projection": project(session, prepared), "cards": describe_clusters(session, prepared, clusters)}
    return {role: artifact for role, artifact in made.items() if artifact is not None}
