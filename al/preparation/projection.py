"""What only the report shows of a pool and its clusters: where examples lie on the map, terms and exemplars of each cluster.

Both are stages of their own, cached like every other, and neither is needed to train: if one fails, the round continues and prints a note.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from al.errors import Interrupted, RunStateError
from al.pool.store import locate
from al.preparation.growing import as_input, earlier_of, grew_from, known_rows
from al.preparation.pool_state import load_embeddings
from al.preparation.stages import Prepared
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.cluster import named_texts, nearest_to_centre, telling_terms
from selection.projection import FITTED, LEAST, add_to_map, fitted_rows
from selection.projection import project as place

TERMS, EXEMPLARS = 8, 3
"""Of each cluster: terms that set it apart, examples nearest to its centre."""
GROWN = 0.25
"""Terms and exemplars of clusters are made again once a pool has grown by more than this share."""
MADE_FROM = "made_from.json"
"""How many examples a map or the cards were made from, before the pool grew."""


def laid_out(examples: int) -> bool:
    """Whether UMAP lays out a pool of so many examples: not a small one, and not without umap-learn (extra `map`)."""
    return examples >= LEAST and find_spec("umap") is not None


def project(session: Session, prepared: Prepared, number: int) -> Artifact | None:
    """Coordinates of the pool by UMAP. Publishes `map.npy` ((n, 2) float32, a row per example of the pool) and `map.json`. Where the pool
    has grown since the round before `number`, new examples are placed on its map.

    None where the map shows principal components (which `clusters.parquet` holds) instead: where `laid_out` says so, and when UMAP
    fails, which is said.
    """
    size = int(prepared.embeddings.json("embeddings.json")["examples"])
    if not laid_out(size):
        return None
    inputs = {"embeddings": prepared.embeddings}
    params = {"method": "umap", "fitted": FITTED, "seed": session.config.seed}
    before = rounds.recorded(session.run, number - 1, "projection")
    earlier = earlier_of(session.run, before, inputs, params, partial(_map_holds, session, prepared))

    def build(out: Path, scratch: Path) -> None:
        """Write `map.npy` (n, 2), `fitted.npy` (the keys of the examples that UMAP was fitted on) and `map.json`."""
        vectors, keys = load_embeddings(prepared.embeddings), _keys(prepared.embeddings)
        with session.progress("map", size, "examples") as progress:
            if earlier is None:
                places = place(vectors, session.config.seed, progress=progress)
                fitted, first = keys[fitted_rows(size, session.config.seed)], size
            else:
                fitted, first = np.load(earlier.path / "fitted.npy"), earlier.json(MADE_FROM)["examples"]
                places = _added(session, earlier, vectors, keys, fitted, progress)
        np.save(out / "map.npy", places)
        np.save(out / "fitted.npy", fitted)
        write_json(out / "map.json", {"method": "umap", "fitted": len(fitted)})
        write_json(out / MADE_FROM, {"examples": first})

    def stage() -> Artifact:
        """The stage `projection`."""
        return session.run.stage(
            "projection",
            version=1,
            inputs=inputs | as_input(earlier),
            params=params,
            build=build,
            label="map",
        )

    return _or_none(session, "map", "the map shows principal components instead", stage)


def _map_holds(session: Session, prepared: Prepared, before: Artifact) -> bool:
    """Whether new examples are placed on the map of the round before: unless clusters are made again, or the pool has doubled since it
    was made."""
    seen = session.run.find("embeddings", before.manifest["inputs"]["embeddings"])
    return (
        not session.config.cluster.recluster
        and before.has("fitted.npy")
        and int(prepared.embeddings.json("embeddings.json")["examples"]) <= 2 * before.json(MADE_FROM)["examples"]
        and seen is not None
        and seen.manifest["params"] == prepared.embeddings.manifest["params"]
        and grew_from(session.run, prepared.pool, seen.manifest["inputs"]["pool"])
    )


def _added(
    session: Session,
    earlier: Artifact,
    vectors: np.ndarray,
    keys: np.ndarray,
    fitted: np.ndarray,
    progress: Callable[[int], None],
) -> np.ndarray:
    """(n, 2) coordinates: those of `earlier`, and the new examples between those that the map was fitted on."""
    seen = session.run.find("embeddings", earlier.manifest["inputs"]["embeddings"])
    at, old = locate(_keys(seen), keys)
    places, new = np.load(earlier.path / "map.npy")[at], np.flatnonzero(~old)
    progress(int(old.sum()))
    places[new] = add_to_map(vectors, places, locate(keys, fitted)[0], new, progress)
    return places


def _keys(embeddings: Artifact) -> np.ndarray:
    return np.load(embeddings.path / "keys.npy")


def describe_clusters(session: Session, prepared: Prepared, clusters: Artifact, number: int) -> Artifact | None:
    """Terms and exemplars of each cluster of `clusters`. Publishes `cards.json`: {"terms": [[…]], "exemplars": [[pool row, …]]}, by
    cluster. None when it fails, which is said. Clusters that have only grown since the round before `number` keep them."""
    inputs = {"pool": prepared.pool, "embeddings": prepared.embeddings, "clusters": clusters}
    params = {"terms": TERMS, "exemplars": EXEMPLARS}
    before = rounds.recorded(session.run, number - 1, "cards")
    earlier = earlier_of(session.run, before, inputs, params, partial(_cards_hold, prepared, clusters))

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
        write_json(out / MADE_FROM, {"examples": len(pool)})

    def keep(out: Path, scratch: Path) -> None:
        """Write the terms and exemplars of before, which have moved to other rows."""
        _, old = known_rows(session.run, earlier, prepared.open_pool().keys)
        row, cards = np.flatnonzero(old), earlier.json("cards.json")
        write_json(out / "cards.json", cards | {"exemplars": [row[rows].tolist() for rows in cards["exemplars"]]})
        write_json(out / MADE_FROM, earlier.json(MADE_FROM))

    def stage() -> Artifact:
        """The stage `cards`."""
        return session.run.stage(
            "cards",
            version=1,
            inputs=inputs | as_input(earlier),
            params=params,
            build=build if earlier is None else keep,
            label="describe clusters",
        )

    return _or_none(session, "describe clusters", "the report's cluster cards lack terms and exemplars", stage)


def _cards_hold(prepared: Prepared, clusters: Artifact, before: Artifact) -> bool:
    """Whether `clusters` are those that the cards of `before` describe, with at most a quarter more examples and no new cluster."""
    inputs, described = clusters.manifest["inputs"], before.manifest["inputs"]["clusters"]
    grown = inputs.get("clusters") if "own" in inputs else inputs.get("earlier")
    if grown != described or not before.has(MADE_FROM):
        return False
    size = int(prepared.embeddings.json("embeddings.json")["examples"])
    return (
        len(before.json("cards.json")["terms"]) == clusters.json("clusters.json")["k"]
        and size <= (1 + GROWN) * before.json(MADE_FROM)["examples"]
    )


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


def for_the_report(session: Session, prepared: Prepared, clusters: Artifact, number: int) -> dict[str, Artifact]:
    """The artifacts of this module that could be made for round `number`, by role."""
    made = {
        "projection": project(session, prepared, number),
        "cards": describe_clusters(session, prepared, clusters, number),
    }
    return {role: artifact for role, artifact in made.items() if artifact is not None}
