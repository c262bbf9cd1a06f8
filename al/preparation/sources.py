"""The sources that a config names, compared with the pool that a run has."""

from __future__ import annotations

import os
from collections.abc import Iterable

from al.config import Config
from al.errors import DataError
from al.pool.identity import check_same_pool
from al.pool.sources import Source, find_sources, tell_apart
from al.program import PROGRAM
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.session import Session
from al.run.store import Run

SHOWN = 3


def pool_sources(config: Config) -> list[Source]:
    """What the config reads a pool from: its pool's sources, and the files that are held out whole. Each file once.

    Raises:
        DataError, ConfigError: as `al.pool.sources.find_sources`.
    """
    return _each_once([*find_sources(config.pool), *held_out_sources(config)])


def held_out_sources(config: Config, files: Iterable[str] | None = None) -> list[Source]:
    """Sources of files that are held out, which are read as the pool's are. `files`: by default all that the config names."""
    named = [*config.holdout.dev_files, *config.holdout.test_files] if files is None else list(files)
    if not named:
        return []
    return find_sources(config.pool.model_copy(update={"files": named, "hub": []}), held_out=True)


def with_labels(run: Run, sources: list[Source], pool: Artifact | None) -> list[Source]:
    """The sources under the labels that they have, or will have, in the run's pool."""
    files = pool.json("pool.json")["files"] if pool is not None else []
    return tell_apart(sources, rounds.labels(run), {file["file"]: file["sha256"] for file in files})


def outside(run: Run, sources: Iterable[Source]) -> list[str]:
    """Labels of the sources (`with_labels`) that no version of the run's pool has read."""
    known = {entry["label"] for pool in run.published("pool") for entry in pool.manifest["params"]["sources"]}
    return [source.label for source in sources if source.label not in known]


def check_sources(session: Session) -> list[Source]:
    """The config's sources, if the run's pool may be made of them, or was made of them as they are now.

    If the pool was imported before the first round, what was imported is the pool: sources of a config file that it does not have are left
    out (`sources_notices`). Sources given by --pool are never left out.

    Raises:
        DataError: no pool yet and no source, or a source that does not exist.
        RunStateError: a source that the pool does not have, or that changed since it was read.
    """
    run, config, present = session.run, session.config, rounds.current_pool(session.run)
    if present is None:
        sources = pool_sources(config)
        if not sources:
            raise DataError(
                "there is no pool: name files with --pool, or under `pool.files` (data sets under `pool.hub`) in the config, "
                f"or run `{PROGRAM} pool import FILE… --run {run.path}`."
            )
        return with_labels(run, sources, None)
    sources = [*_imported(session)[0], *held_out_sources(config)] if _is_imported(session) else pool_sources(config)
    sources = with_labels(run, _each_once(sources), present[1])
    recorded = [entry for pool in run.published("pool") for entry in pool.manifest["params"]["sources"]]
    check_same_pool(recorded, sources, str(run.path), config.clean.repairs())
    return sources


def sources_notices(session: Session) -> list[str]:
    """A note on the config's sources that an imported pool does not have; none if there are none."""
    others = _imported(session)[1] if _is_imported(session) else []
    if not others:
        return []
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return [
        f"the pool is what was imported into {session.run.path}. The config also names {', '.join(others[:SHOWN])}{more}, which is not "
        "part of it and is not read"
    ]


def _is_imported(session: Session) -> bool:
    return rounds.pool_was_imported(session.run) and not session.pool_named


def _imported(session: Session) -> tuple[list[Source], list[str]]:
    """The sources of the config's pool that the run's pool has, and the names of the others."""
    run, config, present = session.run, session.config, rounds.current_pool(session.run)
    try:
        sources = with_labels(run, find_sources(config.pool), present[1])
    except DataError:  # files that were never here
        return [], [*config.pool.files, *config.pool.hub]
    others = outside(run, sources)
    return [source for source in sources if source.label not in others], others


def _each_once(sources: list[Source]) -> list[Source]:
    """Without those that name a file again: a held-out file may lie in a folder of the pool."""
    found: dict[str, Source] = {}
    for source in sources:
        found.setdefault(source.path if source.is_hub else os.path.realpath(source.path), source)
    return list(found.values())
