"""The target: examples of what the model is to be good at. They aim the selection and are never trained on.

A target example that is (nearly) in dev or test would leak it into the selection, so it is left out; a pool example that is
(nearly) a target example would be training on the target, so it cannot be picked. Both are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from al.config.pool import PoolConfig
from al.errors import DataError
from al.labels import TARGET_NOT_HELD
from al.pool.identity import describe_sources
from al.pool.importer import import_pool
from al.pool.repair import make_repair
from al.pool.sources import find_sources
from al.pool.store import Pool
from al.preparation.holdout import held_out
from al.preparation.pool_state import load_embeddings, trainable
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.dedup import near
from selection.holdout import POOL
from selection.overlap import shares_passages
from selection.vectors import blocks, unit

NEARLY = 0.05
"""How much farther, by cosine, the pool may be from a target example than the target itself."""


@dataclass(frozen=True)
class Target:
    """`pool` holds the target's examples, `tokens` their tokens, `embeddings` their vectors; `artifact` what of them is used:
    `rows.npy`, and `excluded.npy`, rows of the run's pool that are too near to it."""

    pool: Artifact
    tokens: Artifact
    artifact: Artifact
    embeddings: Artifact

    @property
    def rows(self) -> np.ndarray:
        """(t,) int64 rows that are used."""
        return np.load(self.artifact.path / "rows.npy")

    @property
    def excluded(self) -> np.ndarray:
        """(m,) int64 rows of the run's pool that cannot be picked."""
        return np.load(self.artifact.path / "excluded.npy")


def import_target(session: Session) -> Artifact:
    """The files of `target.files` as a pool of their own."""
    config = session.config
    asked = config.target.model_dump(include={"files", "format", "map", "text_template"})
    limits = config.pool.model_dump(
        include={"strict", "root", "max_row_bytes", "max_unpack_ratio", "ignore", "leftover"}
    )
    return import_apart(session, PoolConfig(**asked, **limits), "target_pool", "import target")


def import_apart(session: Session, named: PoolConfig, stage: str, label: str) -> Artifact:
    """Files as a pool of their own, next to the run's pool; a preset means its test split."""
    clean, sources = session.config.clean, find_sources(named, held_out=True)

    def build(out: Path, scratch: Path) -> None:
        """Write the pool."""
        with session.progress(label, None, "rows") as progress:
            import_pool(sources, out, strict=named.strict, progress=progress, repair=make_repair(clean))

    return session.run.stage(
        stage,
        version=2,
        inputs={},
        params={"sources": describe_sources(sources, clean.repairs()), "strict": named.strict},
        build=build,
        label=label,
    )


def keep_apart(
    session: Session,
    pool: Artifact,
    embeddings: Artifact,
    split: Artifact,
    target: Artifact,
    target_tokens: Artifact,
    target_embeddings: Artifact,
) -> Artifact:
    """Take target and holdout apart, then pool and target: within `dedup.threshold`, or sharing passages (`holdout.overlap`).

    Raises:
        DataError: no example of the target can be used, with the counts that say why.
    """
    config = session.config
    params = {"threshold": config.dedup.threshold, "overlap": config.holdout.overlap}

    def build(out: Path, scratch: Path) -> None:
        """Write what of target and pool is kept apart, and `target.json`."""
        theirs, ours = load_embeddings(target_embeddings), load_embeddings(embeddings)
        sides, reader, aims = np.load(split.path / "split.npy"), Pool.open(pool.path), Pool.open(target.path)
        usable = trainable(target, target_tokens)
        held = held_out(sides)
        leaks = np.zeros(len(theirs), dtype=bool)
        if len(held):
            leaks = near(theirs, ours[held])[1] >= config.dedup.threshold
            leaks |= np.isin(aims.keys, reader.keys[held])
            leaks |= _shares_passages(aims, np.arange(len(aims)), reader, held, config.holdout.overlap)
        rows = np.flatnonzero(usable & ~leaks)
        if not len(rows):
            raise DataError(
                f"none of the {len(usable):,} target examples can be used: {int((~usable).sum()):,} have no response or do not "
                f"fit, {int((usable & leaks).sum()):,} are in dev or test (nearly). Name other files under target.files."
            )
        candidates = np.flatnonzero(sides == POOL)
        cosine = near(ours, theirs[rows])[1][candidates]
        close = cosine >= config.dedup.threshold
        close |= np.isin(reader.keys[candidates], aims.keys[rows])
        close |= _shares_passages(reader, candidates, aims, rows, config.holdout.overlap)
        np.save(out / "rows.npy", rows)
        np.save(out / "excluded.npy", candidates[close])
        left = candidates[~close]
        nearest = near(theirs[rows], ours[left])[1] if len(left) else np.zeros(len(rows))
        among = nearest_other(theirs[rows])
        write_json(
            out / "target.json",
            {
                "examples": len(usable),
                "used": len(rows),
                "without_response": int((~usable).sum()),
                "near_holdout": int((usable & leaks).sum()),
                "pool_excluded": int(close.sum()),
                "cosine_to_pool": [round(float(np.quantile(nearest, q)), 4) for q in (0.1, 0.5, 0.9)],
                "cosine_to_itself": [round(float(np.quantile(among, q)), 4) for q in (0.1, 0.5, 0.9)],
                "held": holds_kind(nearest, among),
            },
        )

    return session.run.stage(
        "target",
        version=2,
        params=params,
        build=build,
        label="target",
        inputs={
            "pool": pool,
            "embeddings": embeddings,
            "split": split,
            "target": target,
            "target_tokens": target_tokens,
            "target_embeddings": target_embeddings,
        },
    )


def target_notices(target: Target | None) -> list[str]:
    """A note for the user if the pool seems to hold no examples of the target's kind; otherwise []."""
    if target is None or target.artifact.json("target.json")["held"]:
        return []
    return [TARGET_NOT_HELD]


def nearest_other(vectors: np.ndarray) -> np.ndarray:
    """(t,) cosine of each target example to the nearest other one; 1 for a single example."""
    vectors = unit(vectors)
    cosine = np.ones(len(vectors), dtype=np.float32)
    for block in blocks(np.arange(len(vectors))):
        product = vectors[block] @ vectors.T
        product[np.arange(len(block)), block] = -1.0
        cosine[block] = product.max(axis=1) if len(vectors) > 1 else 1.0
    return cosine


def holds_kind(to_pool: np.ndarray, to_itself: np.ndarray) -> bool:
    """Whether the pool holds the target's kind, by embeddings: most target examples have one in the pool about as near as the nearest
    other target example. This misses kin: an aim may gain where it says no (docs/selection.md)."""
    return bool(np.mean(to_pool >= to_itself - NEARLY) >= 0.5)


def _shares_passages(texts: Pool, rows: np.ndarray, of: Pool, others: np.ndarray, overlap: float) -> np.ndarray:
    """(len(rows),) bool: which `rows` of `texts` share more than `overlap` of their passages with one of `others` of `of`."""
    joined = _Joined(of.texts(others), texts.texts(rows))
    sources = np.concatenate([np.char.add("of ", of.sources[others].astype(str)), texts.sources[rows].astype(str)])
    return shares_passages(joined, sources, np.arange(len(others)), overlap, apart=True)[len(others) :]


class _Joined(Sequence[str]):
    """Two sequences as one, without a copy."""

    def __init__(self, first: Sequence[str], second: Sequence[str]):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __iter__(self) -> Iterator[str]:
        return chain(self.first, self.second)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        before = len(self.first)
        return self.first[index] if index < before else self.second[index - before]
