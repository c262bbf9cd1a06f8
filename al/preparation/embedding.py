"""Texts of a pool → unit vectors, in shards that any worker can embed: 4,096 rows in a row, so each row group is read about once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from al.engine.models import Models
from al.engine.worker import Work
from al.pool.store import Pool, locate
from al.run.artifacts import Artifact, write_json
from al.run.base import local_identity
from al.run.session import Session
from al.run.shards import Arrays, finish_shards, read_shards
from selection.embed import CHUNK, embed_texts
from selection.vectors import blocks
from trainer.shortage import Shortage, attempt, report


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
        known, missing = _known_embeddings(session, params), np.arange(len(reader))
        if known is not None:
            at, hit = locate(known[0], reader.keys)
            missing = np.flatnonzero(~hit)
        with session.progress("embed", len(missing), "examples") as progress:
            shards = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
            paths = finish_shards(session, "embed", shard_work(pool), shards, scratch, progress)
        dimensions = next(read_shards(paths))["vectors"].shape[1] if paths else known[1].shape[1]
        shape = (len(reader), dimensions)
        vectors = np.lib.format.open_memmap(out / "embeddings.npy", mode="w+", dtype=np.float16, shape=shape)
        if known is not None:
            for some in blocks(np.flatnonzero(hit)):
                vectors[some] = known[1][at[some]]
        for shard, found in zip(shards, read_shards(paths), strict=True):
            vectors[shard] = found["vectors"]
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


def shard_work(pool: Artifact) -> Work:
    """The work of a worker that embeds rows of a pool."""
    return partial(_embed, pool.path)


@contextmanager
def _embed(pool: Path, models: Models) -> Iterator[Callable[[np.ndarray, Callable[[int], None]], Arrays]]:
    config, reader = models.config.embed, Pool.open(pool)
    with models.embedder.at_work() as embedder:

        def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
            """Vectors of the texts at `rows`."""
            vectors = np.empty((len(rows), embedder.get_embedding_dimension()), dtype=np.float16)
            texts = list(reader.texts(rows, part=config.text))
            embed_texts(texts, config, vectors, progress=progress, embedder=embedder, attempt=_or_none)
            return {"vectors": vectors}

        yield run


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
