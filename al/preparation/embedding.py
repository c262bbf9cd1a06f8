"""The stage that embeds a pool: in shards that outlive a kill, into a file that is mapped, not held."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from al.pool.store import Pool, locate
from al.run.artifacts import Artifact, write_json
from al.run.atomic import replaced
from al.run.base import local_identity
from al.run.session import Session
from selection.embed import embed_texts
from selection.vectors import blocks
from trainer.shortage import Shortage, attempt, report

SHARD = 2048
"""Texts that a kill costs at most: 12 seconds of the demo's embedder on two cores."""


def embed(session: Session, pool: Artifact) -> Artifact:
    """Texts → unit vectors, float16. Rows that an earlier pool version embedded with the same embedder are copied. What was embedded
    before a kill is in scratch and is not embedded again."""
    config = session.config.embed
    params = {
        "embed": config.model_dump(mode="json", exclude={"device", "batch_tokens"}),
        "files": local_identity(config.model),
    }

    def build(out: Path, scratch: Path) -> None:
        """Write `embeddings.npy`."""
        reader = Pool.open(pool.path)
        known = _known_embeddings(session, params)
        with session.embedder.at_work() as embedder:
            shape = (len(reader), embedder.get_embedding_dimension())
            vectors = np.lib.format.open_memmap(out / "embeddings.npy", mode="w+", dtype=np.float16, shape=shape)
            missing = np.arange(len(reader))
            if known is not None:
                missing = _copy_known(reader.keys, vectors, *known)
            with session.progress("embed", len(missing), "examples") as progress:
                for rows in blocks(missing, SHARD):

                    def encode(rows: np.ndarray = rows) -> np.ndarray:
                        """The vectors of the shard's texts."""
                        fresh = np.empty((len(rows), shape[1]), dtype=np.float16)
                        texts = list(reader.texts(rows, part=config.text))
                        embed_texts(texts, config, fresh, progress=progress, embedder=embedder, attempt=_or_none)
                        return fresh

                    vectors[rows] = _shard(scratch, reader.keys[rows], encode, progress)
        vectors.flush()
        np.save(out / "keys.npy", reader.keys)
        write_json(out / "embeddings.json", {"examples": shape[0], "dimensions": shape[1], "embedded": len(missing)})

    return session.run.stage(
        "embeddings",
        version=2,
        inputs={"pool": pool},
        params=params,
        build=build,
        label="embed",
        earlier=[(1, _before_distilling(params))],
    )


def _before_distilling(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of version 1, whose vectors differ by rounding alone: texts were in other batches."""
    return params | {"embed": {name: value for name, value in params["embed"].items() if name != "distill"}}


def _shard(
    scratch: Path, keys: np.ndarray, encode: Callable[[], np.ndarray], progress: Callable[[int], None]
) -> np.ndarray:
    """The vectors of the examples `keys`: as a killed process left them in `scratch`, else encoded and put there."""
    path = scratch / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:24]}.npy"
    if path.exists():
        progress(len(keys))
        return np.load(path)
    fresh = encode()
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.save(file, fresh)
    return fresh


def _or_none(encode: Callable[[], np.ndarray]) -> np.ndarray | None:
    """What `encode` returns; None, after a report, if memory ran out in it."""
    found = attempt(encode)
    if isinstance(found, Shortage):
        report(found, "embedding", "half as many texts at once")
        return None
    return found


def _known_embeddings(session: Session, params: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    same = [json.loads(json.dumps(found)) for found in (params, _before_distilling(params))]
    for artifact in session.run.published("embeddings"):
        of_the_pool = session.run.find("pool", artifact.manifest["inputs"]["pool"]) is not None  # and not of a target
        if of_the_pool and artifact.manifest["params"] in same:
            return np.load(artifact.path / "keys.npy"), np.load(artifact.path / "embeddings.npy", mmap_mode="r")
    return None


def _copy_known(keys: np.ndarray, vectors: np.ndarray, known_keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Copy rows whose key is known; return the rows that are not. `known_keys` is sorted, as every pool is."""
    at, hit = locate(known_keys, keys)
    rows = np.flatnonzero(hit)
    for some in blocks(rows):
        vectors[some] = known[at[some]]
    return np.flatnonzero(~hit)
