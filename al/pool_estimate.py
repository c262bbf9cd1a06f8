"""How large a pool is: exact when the run has tokenized it, else estimated from a sample of its files."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from al import rounds
from al.config import Config
from al.pool.sources import Source, find_sources
from al.store import Run

ROWS_SAMPLED_PER_FILE = 200
CHARACTERS_PER_TOKEN = 4.0
"""Of English text under common tokenizers; used only before the tokenizer has seen the pool."""


@dataclass(frozen=True)
class PoolEstimate:
    """Size of a pool. `mean_tokens` is cut at tokens.max_length; `exact` says it was counted, not estimated."""

    examples: int
    mean_tokens: float
    bytes: int
    new_to_embed: int
    exact: bool


def estimate_pool(config: Config, run_path: Path) -> PoolEstimate:
    """Count the run's newest pool version if it is tokenized, else sample the config's sources."""
    if (run_path / "run.db").is_file():
        with Run.read(run_path) as run:
            current = rounds.current_pool(run)
            tokens = [
                a for a in run.published("tokens") if current and a.manifest["inputs"]["pool"] == current[1].fingerprint
            ]
            embedded = [
                a
                for a in run.published("embeddings")
                if current and a.manifest["inputs"]["pool"] == current[1].fingerprint
            ]
        if current and tokens:
            return _counted(current[1], tokens[0], bool(embedded))
    return _sampled(find_sources(config.pool), config.tokens.max_length)


def _counted(pool: Any, tokens: Any, embedded: bool) -> PoolEstimate:
    from trainer.tokens import TokenTable

    lengths = np.asarray(TokenTable.open(tokens.path).lengths)
    size = sum(entry["bytes"] for entry in pool.manifest["files"].values())
    return PoolEstimate(
        len(lengths), float(lengths.mean()) if len(lengths) else 0.0, size, 0 if embedded else len(lengths), True
    )


def _sampled(sources: list[Source], longest: int) -> PoolEstimate:
    from al.pool.reading.rows import read_rows

    rows, characters, sampled, size = 0.0, 0.0, 0, 0
    for source in sources:
        if source.is_hub:
            continue
        lengths = [len(str(row[1])) for row in islice(read_rows(source), ROWS_SAMPLED_PER_FILE)]
        file_size = Path(source.path).stat().st_size
        size += file_size
        if not lengths:
            continue
        complete = len(lengths) < ROWS_SAMPLED_PER_FILE
        rows += len(lengths) if complete else file_size / max(np.mean(lengths), 1.0)
        characters += sum(min(n / CHARACTERS_PER_TOKEN, longest) for n in lengths)
        sampled += len(lengths)
    return PoolEstimate(int(rows), characters / max(sampled, 1), size, int(rows), False)
