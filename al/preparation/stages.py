"""The arrows drawn once per pool version: import → tokenize → embed → group → hold out → cluster.

Every function is one stage: it names what its result depends on, and builds it only when that is not published yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from al.cleaning.stage import leave_out, wanted, why_left_out
from al.errors import DataError
from al.pool.identity import describe_sources
from al.pool.importer import holds_all, import_pool, same_pool
from al.pool.repair import make_repair
from al.pool.sources import Source
from al.pool.store import Pool
from al.preparation.clusters import cluster
from al.preparation.embedding import embed
from al.preparation.holdout import hold_out
from al.preparation.near_duplicates import group
from al.preparation.pool_state import trainable
from al.preparation.sources import check_sources, with_labels
from al.preparation.target import Target, import_target, keep_apart
from al.preparation.tokens import tokenize
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.session import Session
from trainer.tokens import NO_TARGET_LEFT, SKIPPED, TokenTable


@dataclass(frozen=True)
class Tokenized:
    """One pool version, tokenized and split: enough to train and to evaluate."""

    version: int
    pool: Artifact
    tokens: Artifact
    split: Artifact

    def open_pool(self) -> Pool:
        """The pool's reader."""
        return Pool.open(self.pool.path)


@dataclass(frozen=True)
class Compared(Tokenized):
    """One pool version whose examples were compared with each other: enough to say which may be picked. `cleaned`: None while nothing is
    left out."""

    embeddings: Artifact
    groups: Artifact
    target: Target | None
    cleaned: Artifact | None


@dataclass(frozen=True)
class Prepared(Compared):
    """One pool version brought through every pool stage: enough to select from."""

    clusters: Artifact


def prepare(session: Session, number: int) -> Prepared:
    """Bring the newest pool version through every pool stage, for round `number`."""
    version, pool = pool_version(session)
    found = compare(session, version, pool, number)
    return Prepared(**vars(found), clusters=cluster(session, pool, found.embeddings, number))


def compare(session: Session, version: int, pool: Artifact, number: int) -> Compared:
    """Bring a pool version through the stages that decide which examples may be picked, for round `number`."""
    cleaned = leave_out(session, pool)
    tokens = tokenize(session, pool)
    check_trainable(session, pool, tokens, cleaned)
    embeddings = embed(session, pool)
    groups = group(session, pool, tokens, embeddings, cleaned, number)
    split = hold_out(session, pool, tokens, embeddings, groups, number, cleaned)
    target = aim(session, pool, embeddings, split) if session.config.target.files else None
    return Compared(version, pool, tokens, split, embeddings, groups, target, cleaned)


def aim(session: Session, pool: Artifact, embeddings: Artifact, split: Artifact) -> Target:
    """The target of the config, brought through the same stages as the pool and kept apart from it and from the holdout."""
    examples = import_target(session)
    tokens, vectors = tokenize(session, examples), embed(session, examples)
    return Target(examples, tokens, keep_apart(session, pool, embeddings, split, examples, tokens, vectors), vectors)


def pool_version(session: Session) -> tuple[int, Artifact]:
    """The run's newest pool version; the first one is imported from the config's sources.

    Raises:
        DataError: no pool yet and no source named.
        RunStateError: the config names other files than the run was made with, or a file changed since.
    """
    sources, present = check_sources(session), rounds.current_pool(session.run)
    if present is not None:
        return present
    artifact = import_sources(session, sources, previous=None)
    return rounds.add_pool(session.run, artifact), artifact


class _AddsNothing(Exception):
    """The pool that was read is the one that is there."""


def import_sources(session: Session, sources: list[Source], previous: Artifact | None) -> Artifact:
    """Read sources into a pool version; with `previous`, all its examples are kept and the new ones added. If there is nothing to add,
    that is `previous` itself."""
    strict, repair = session.config.pool.strict, make_repair(session.config.clean)
    sources = with_labels(session.run, sources, previous)
    if previous is not None and not strict and holds_all(previous.path, sources, repair):
        return previous

    def build(out: Path, scratch: Path) -> None:
        """Write the pool."""
        with session.progress("import", None, "rows") as progress:
            import_pool(
                sources,
                out,
                previous=previous.path if previous else None,
                strict=strict,
                progress=progress,
                repair=repair,
            )
        if previous is not None and same_pool(previous.path, out):
            raise _AddsNothing

    try:
        artifact = session.run.stage(
            "pool",
            version=3,
            inputs={"previous": previous},
            params={"sources": describe_sources(sources, session.config.clean.repairs()), "strict": strict},
            build=build,
            label="import",
        )
    except _AddsNothing:
        session.run.event("stage.failed", stage="import", error="there is nothing to add")
        return previous
    rounds.record_labels(session.run, {source.place: source.label for source in sources if source.place is not None})
    return artifact


def check_trainable(session: Session, pool: Artifact, tokens: Artifact, cleaned: Artifact | None = None) -> None:
    """Stop before the costly stages if there is nothing to train on.

    Raises:
        DataError: with the counts that say why.
    """
    usable = trainable(pool, tokens)
    if (usable & wanted(cleaned, len(usable))).any():
        return
    if usable.any():
        why = ", ".join(f"{int(rows.sum()):,} {name}" for name, rows in why_left_out(cleaned, len(usable)).items())
        raise DataError(
            f"none of the {len(usable):,} examples is left to train on: clean.languages and clean.refusals leave out {why}. "
            "Allow more languages, keep refusals, or import other examples."
        )
    status, labelled = np.asarray(TokenTable.open(tokens.path).status), Pool.open(pool.path).labelled
    long, empty = int((labelled & (status == SKIPPED)).sum()), int((labelled & (status == NO_TARGET_LEFT)).sum())
    raise DataError(
        f"none of the {len(labelled):,} examples can be trained on: {int((~labelled).sum()):,} have no response, {long:,} are longer than "
        f"tokens.max_length ({session.config.tokens.max_length}), {empty:,} have an empty response. Import examples with responses, "
        "or raise tokens.max_length."
    )


def as_dict(prepared: Prepared) -> dict[str, Artifact]:
    """Role → artifact, for recording in the run."""
    found = {key: value for key, value in vars(prepared).items() if isinstance(value, Artifact)}
    return found if prepared.target is None else found | {"target": prepared.target.artifact}
