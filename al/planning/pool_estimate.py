"""The size of a pool: exact if the run has tokenized it, else estimated from a sample of its files."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from al.config import Config
from al.pool.convert import source_name
from al.pool.reading.rows import read_rows
from al.pool.sources import Source, find_sources
from al.preparation.groups import enough_sources, spread_over
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.ownership import is_run
from al.run.store import Run
from trainer.tokens import TokenTable

ROWS_SAMPLED_PER_FILE = 200
CHARACTERS_PER_TOKEN = 4.0
"""Characters per token of English text under common tokenizers; used only before the pool is tokenized."""


@dataclass(frozen=True)
class PoolEstimate:
    """Size of a pool, and the number of examples still to be embedded and placed on the map.

    `mean_tokens` counts at most tokens.max_length per example; `exact`: counted, not estimated. `several_sources`: whether the default
    strategy probably goes by sources, or by kinds of prompt where the pool's groups are known: then it measures nothing for the quotas.
    """

    examples: int
    mean_tokens: float
    bytes: int
    new_to_embed: int
    new_to_map: int
    exact: bool
    several_sources: bool = False


def estimate_pool(config: Config, run_path: Path) -> PoolEstimate:
    """The counts of the run's newest pool version if it is tokenized, else an estimate from the config's sources."""
    if is_run(run_path):
        with Run.read(run_path) as run:
            current = rounds.current_pool(run)
            pool = current[1] if current else None
            tokens, embeddings = (made_from(run, stage, "pool", pool) for stage in ("tokens", "embeddings"))
            projection = made_from(run, "projection", "embeddings", embeddings)
            clusters = made_from(run, "clusters", "pool", pool)
        if tokens is not None:
            return _counted(pool, tokens, embeddings is not None, projection is not None, clusters)
    return _sampled(find_sources(config.pool), config.tokens.max_length)


def made_from(run: Run, stage: str, role: str, source: Artifact | None) -> Artifact | None:
    """The newest artifact of `stage` with `source` as input `role`."""
    if source is None:
        return None
    found = (a for a in run.published(stage) if a.manifest["inputs"][role] == source.fingerprint)
    return next(found, None)


def _counted(pool: Artifact, tokens: Artifact, embedded: bool, mapped: bool, clusters: Artifact | None) -> PoolEstimate:
    lengths = np.asarray(TokenTable.open(tokens.path).lengths)
    size = sum(entry["bytes"] for entry in pool.manifest["files"].values())
    mean = float(lengths.mean()) if len(lengths) else 0.0
    several = enough_sources(len(pool.json("pool.json")["sources"]), len(lengths))
    if clusters is not None:
        several = spread_over(clusters) != "clusters"
    return PoolEstimate(
        len(lengths), mean, size, len(lengths) * (not embedded), len(lengths) * (not mapped), True, several
    )


def _sampled(sources: list[Source], longest: int) -> PoolEstimate:
    rows, characters, sampled, size, names = 0.0, 0.0, 0, 0, set()
    for source in sources:
        if source.is_hub:
            continue
        read = [row[1] for row in islice(read_rows(source), ROWS_SAMPLED_PER_FILE)]
        lengths = [len(str(row)) for row in read]
        names |= {source_name(row if isinstance(row, dict) else {}, source) for row in read}
        file_size = Path(source.path).stat().st_size
        size += file_size
        if not lengths:
            continue
        complete = len(lengths) < ROWS_SAMPLED_PER_FILE
        rows += len(lengths) if complete else file_size / max(np.mean(lengths), 1.0)
        characters += sum(min(n / CHARACTERS_PER_TOKEN, longest) for n in lengths)
        sampled += len(lengths)
    several = enough_sources(len(names), sampled)
    return PoolEstimate(int(rows), characters / max(sampled, 1), size, int(rows), int(rows), False, several)
