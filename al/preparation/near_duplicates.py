"""Near-duplicates of a pool version: which example stands for each."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.cleaning.stage import role, wanted
from al.pool.store import Pool
from al.preparation.growing import as_input, earlier_of, goes_on, known_rows
from al.preparation.pool_state import load_embeddings, trainable
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.session import Session
from al.run.store import Run
from selection.answers import answer_codes
from selection.config import DedupConfig
from selection.dedup import Groups, grow_groups, near_duplicate_groups
from selection.shares import Shares

GROUPS_VERSION = 3


def group(
    session: Session,
    pool: Artifact,
    tokens: Artifact,
    embeddings: Artifact,
    cleaned: Artifact | None = None,
    number: int = 1,
) -> Artifact:
    """Near-duplicate groups: one representative each, preferring examples that can be trained on, then those of the earliest pool
    version, so that a new near-duplicate of a trained example never stands for it. What is `cleaned` away comes last and stands
    only for its like. The groups of the round before `number` are kept where the pool has grown, and only new examples compared."""
    config, params = session.config.dedup, session.config.dedup.model_dump(mode="json")
    inputs = {"pool": pool, "tokens": tokens, "embeddings": embeddings, **role(cleaned)}
    before = rounds.recorded(session.run, number - 1, "groups")
    earlier = earlier_of(session.run, before, inputs, params, partial(_hold_on, session.run, pool, embeddings))

    def build(out: Path, scratch: Path) -> None:
        """Write `groups.parquet`: the representative of each example."""
        vectors, rank = load_embeddings(embeddings), _preference(session, pool, tokens, cleaned)
        answers = answers_of(Pool.open(pool.path), config)
        known = None if earlier is None else _known_groups(session, earlier, pool, rank)
        added = len(rank) if known is None else int((known.representative < 0).sum())
        with session.progress("near-duplicates", added, "examples") as progress:
            groups = None if known is None else grow_groups(vectors, rank, config.threshold, known, progress, answers)
            if groups is None:
                shares = Shares(added, progress)  # all examples are compared again, and count as the new ones
                groups = near_duplicate_groups(
                    vectors, rank, config.threshold, config.neighbours, lambda done: shares(done / len(rank)), answers
                )
        table = pa.table({"representative": groups.representative, "cosine": groups.cosine})
        pq.write_table(table, out / "groups.parquet")
        np.save(out / "preference.npy", rank)

    return session.run.stage(
        "groups",
        version=GROUPS_VERSION,
        inputs=inputs | as_input(earlier),
        params=params,
        build=build,
        label="near-duplicates",
    )


def answers_of(pool: Pool, config: DedupConfig) -> np.ndarray | None:
    """(n,) what each example answers, as `near_duplicate_groups` takes it; None where only embeddings count."""
    return answer_codes(pool.texts(np.arange(len(pool)), part="response")) if config.same_answer else None


def _hold_on(run: Run, pool: Artifact, embeddings: Artifact, before: Artifact) -> bool:
    """Whether groups are of a pool that this one grew from, and have what it takes to go on from them."""
    return (
        before.manifest["version"] == GROUPS_VERSION
        and before.has("preference.npy")
        and goes_on(run, before, pool, embeddings)
    )


def _known_groups(session: Session, earlier: Artifact, pool: Artifact, preference: np.ndarray) -> Groups | None:
    """The groups of `earlier` in rows of the pool, -1 for new examples; None if the earlier examples had another order of preference."""
    at, old = known_rows(session.run, earlier, Pool.open(pool.path).keys)
    rows, table = np.flatnonzero(old), pq.read_table(earlier.path / "groups.parquet")
    then = np.load(earlier.path / "preference.npy")
    if len(rows) != len(then) or not np.array_equal(*(np.argsort(p, kind="stable") for p in (preference[rows], then))):
        return None
    representative, cosine = np.full(len(old), -1), np.zeros(len(old), dtype=np.float32)
    representative[rows], cosine[rows] = rows[table["representative"].to_numpy()], table["cosine"].to_numpy()
    return Groups(representative, cosine)


def _preference(session: Session, pool: Artifact, tokens: Artifact, cleaned: Artifact | None) -> np.ndarray:
    """(n,) int: examples with lower values stand for those with higher ones."""
    age = first_version(session, pool)
    result = np.where(trainable(pool, tokens), age, age.max() + 1)
    result[~wanted(cleaned, len(result))] = age.max() + 2
    return result.astype(np.int32)


def first_version(session: Session, pool: Artifact) -> np.ndarray:
    """(n,) int: 0 for examples of the pool's first version, 1 for those that the second one added, and so on."""
    chain = [pool]
    while (parent := chain[-1].manifest["inputs"].get("previous")) is not None:
        older = session.run.find("pool", parent)
        if older is None:
            break
        chain.append(older)
    keys = Pool.open(pool.path).keys
    age = np.zeros(len(keys), dtype=np.int64)
    for version in reversed(chain[1:]):
        age += ~np.isin(keys, Pool.open(version.path).keys)
    return age
