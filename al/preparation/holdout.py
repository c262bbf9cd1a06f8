"""Which examples are held out as dev and test, and which lie too near to one of them to be trained on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from al.cleaning.stage import role, wanted
from al.errors import DataError
from al.pool.identity import describe_sources
from al.pool.importer import import_pool
from al.pool.repair import make_repair
from al.pool.store import Pool, locate
from al.preparation.growing import goes_on, known_rows, made_alike
from al.preparation.near_duplicates import answers_of
from al.preparation.pool_state import load_embeddings, trainable
from al.preparation.sources import held_out_sources
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.answers import Answered, joint_cosine
from selection.candidates import Vectors
from selection.dedup import near
from selection.holdout import DEV, NEW, POOL, SHADOW, TEST
from selection.holdout import hold_out as split_rows
from selection.overlap import Counted, compare_passages

SIDES = {"pool": POOL, "dev": DEV, "test": TEST, "shadow": SHADOW}


def named_files(session: Session) -> dict[str, int]:
    """Files of the config that are held out whole, and the side that each is for."""
    config = session.config.holdout
    return dict.fromkeys(config.dev_files, DEV) | dict.fromkeys(config.test_files, TEST)


def hold_out(
    session: Session,
    pool: Artifact,
    tokens: Artifact,
    embeddings: Artifact,
    groups: Artifact,
    number: int,
    cleaned: Artifact | None = None,
) -> Artifact:
    """Dev and test, stratified by source, whole near-duplicate groups on one side; pool examples near a held-out one are shadowed.

    Nothing is drawn that is `cleaned` away; files that are named for dev or test are taken whole.

    Later rounds keep the sides of the round before: what was not held out then may have been trained on since.
    """
    config = session.config.holdout
    previous = rounds.recorded(session.run, number - 1, "split")
    named = name_sides(session) if named_files(session) else None
    inputs = {"pool": pool, "tokens": tokens, "embeddings": embeddings, "groups": groups, **role(cleaned)}
    if named is not None:
        inputs["named"] = named
    params = {"holdout": config.model_dump(mode="json"), "seed": session.config.seed}
    if previous is not None and made_alike(previous, inputs, params, follows="previous"):
        return previous

    def build(out: Path, scratch: Path) -> None:
        """Write `split.npy`, one side per example, and `split.json`; `runs.npy` and `seen.npy` for when the pool grows."""
        reader = Pool.open(pool.path)
        usable = trainable(pool, tokens)
        kept = _carry_split(reader.keys, previous)
        if named is not None:
            sides = named_sides(named, reader.keys, usable)
            _check_not_late(kept, sides)
            kept = sides if kept is None else np.where(kept == NEW, sides, kept)
        table = pq.read_table(groups.path / "groups.parquet")
        representative = table["representative"].to_numpy()
        dev, test = drawn_sizes(session)
        usable &= wanted(cleaned, len(reader))
        split = split_rows(reader.keys, reader.sources, representative, usable, dev, test, session.config.seed, kept)
        before = _compared_before(session, previous, pool, embeddings, params)
        answers = answers_of(reader, session.config.dedup)
        _shadow_near(split, load_embeddings(embeddings), session.config.dedup.threshold, before, answers)
        counted = _shadow_shared(session, split, reader, before)
        np.save(out / "split.npy", split)
        np.save(out / "keys.npy", reader.keys)
        np.save(out / "runs.npy", counted.runs)
        np.save(out / "seen.npy", counted.seen)
        write_json(out / "split.json", {name: int((split == code).sum()) for name, code in SIDES.items()})

    return session.run.stage(
        "split", version=2, params=params, inputs={**inputs, "previous": previous}, build=build, label="hold out"
    )


@dataclass(frozen=True)
class _Compared:
    """What the round before compared: `old` (n,) bool, the pool's examples that were there; `split` (n,) their sides then; `counted`:
    their passages."""

    old: np.ndarray
    split: np.ndarray
    counted: Counted


def _compared_before(
    session: Session, previous: Artifact | None, pool: Artifact, embeddings: Artifact, params: dict[str, Any]
) -> _Compared | None:
    """What need not be compared again; None for nothing: in the first round, and where the thresholds or the embedder changed."""
    if previous is None or previous.manifest["params"] != params or not previous.has("runs.npy"):
        return None
    groups = session.run.find("groups", previous.manifest["inputs"]["groups"])
    if groups is None or groups.manifest["params"]["threshold"] != session.config.dedup.threshold:
        return None
    if not goes_on(session.run, previous, pool, embeddings):
        return None
    at, old = known_rows(session.run, previous, Pool.open(pool.path).keys)
    split = np.where(old, np.load(previous.path / "split.npy")[at], NEW)
    runs, seen = (np.load(previous.path / f"{name}.npy") for name in ("runs", "seen"))
    return _Compared(old, split, Counted(runs, seen, old))


def _check_not_late(kept: np.ndarray | None, named: np.ndarray) -> None:
    """Raises DataError if a file names examples that an earlier round could pick."""
    late = 0 if kept is None else int(((kept == POOL) & np.isin(named, (DEV, TEST))).sum())
    if late:
        raise DataError(
            f"holdout.dev_files, holdout.test_files: {late:,} of the examples they name were in the pool in an earlier round and may have "
            "been trained on; start another run with these files, or name others."
        )


def name_sides(session: Session) -> Artifact:
    """The keys of the examples in files that are held out whole. Publishes `keys.npy` (sorted) and `sides.npy`."""
    sides = {side: [f for f, s in named_files(session).items() if s == side] for side in (DEV, TEST)}
    sources = {side: held_out_sources(session.config, files) for side, files in sides.items()}

    def build(out: Path, scratch: Path) -> None:
        """Write the examples of the named files by side."""
        found: dict[int, int] = {}
        for side, entries in sources.items():
            if entries:
                shutil.rmtree(scratch / str(side), ignore_errors=True)
                (scratch / str(side)).mkdir()
                with session.progress("import held out", None, "rows") as progress:
                    strict, repair = session.config.pool.strict, make_repair(session.config.clean)
                    import_pool(entries, scratch / str(side), strict=strict, progress=progress, repair=repair)
                found |= dict.fromkeys(Pool.open(scratch / str(side)).keys.tolist(), side)
        keys = np.array(sorted(found), dtype=np.uint64)
        np.save(out / "keys.npy", keys)
        np.save(out / "sides.npy", np.array([found[int(key)] for key in keys], dtype=np.int8))

    return session.run.stage(
        "named_holdout",
        version=2,
        inputs={},
        params={
            str(side): describe_sources(entries, session.config.clean.repairs()) for side, entries in sources.items()
        },
        build=build,
        label="import held out",
    )


def named_sides(named: Artifact, keys: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """(n,) the side that a file names for each key, SHADOW where it cannot be measured, NEW where no file names it."""
    at, found = locate(np.load(named.path / "keys.npy"), keys)
    sides = np.where(usable, np.load(named.path / "sides.npy")[at], SHADOW)
    return np.where(found, sides, NEW).astype(np.int8)


def drawn_sizes(session: Session) -> tuple[int | float, int | float]:
    """How many examples are drawn for dev and test; none where files name them."""
    config = session.config.holdout
    return 0 if config.dev_files else config.dev, 0 if config.test_files else config.test


def _carry_split(keys: np.ndarray, previous: Artifact | None) -> np.ndarray | None:
    """The side that the `previous` split gave each key, NEW where it did not know it."""
    if previous is None:
        return None
    old_keys, old_split = np.load(previous.path / "keys.npy"), np.load(previous.path / "split.npy")
    at, found = locate(old_keys, keys)
    return np.where(found, old_split[at], NEW).astype(np.int8)


def _shadow_near(
    split: np.ndarray,
    embeddings: np.ndarray,
    threshold: float,
    before: _Compared | None,
    answers: np.ndarray | None = None,
) -> None:
    """Mark pool rows within `threshold` cosine of any held-out row that answers alike (`answers_of`), whichever group they are in. What was
    compared `before` is compared with newly held-out rows alone."""
    held, rows = held_out(split), np.flatnonzero(split == POOL)
    old = np.zeros(len(split), dtype=bool) if before is None else before.old
    newly = held[before.split[held] != split[held]] if before is not None else held
    for some, others in ((rows[~old[rows]], held), (rows[old[rows]], newly)):
        if len(others) and len(some):
            ours, theirs, least = Vectors(embeddings, some), embeddings[others], threshold
            if answers is not None:
                ours, theirs = Answered(ours, answers[some]), Answered(embeddings, answers)[others]
                least = joint_cosine(threshold)
            _, cosine = near(ours, theirs)
            split[some[cosine >= least]] = SHADOW


def _shadow_shared(session: Session, split: np.ndarray, pool: Pool, before: _Compared | None) -> Counted:
    """Mark pool rows that share a passage with a held-out row. What was compared `before` is not compared again, unless other rows are
    held out. Returns what is compared now."""
    with session.progress("shared passages", 2 * len(pool), "texts") as progress:
        shared, counted = compare_passages(
            pool.texts(np.arange(len(pool))),
            pool.sources,
            held_out(split),
            session.config.holdout.overlap,
            progress,
            before=None if before is None else before.counted,
        )
    split[shared & (split == POOL)] = SHADOW
    return counted


def held_out(split: np.ndarray) -> np.ndarray:
    """Rows of dev and test."""
    return np.flatnonzero((split == DEV) | (split == TEST))
