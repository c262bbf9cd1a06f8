"""What a pool version was made from, so that a run notices when its config points at something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from al.artifacts import sha256_file
from al.errors import RunStateError
from al.pool.config import PoolConfig
from al.pool.sources import Source, parse_hub


def describe_sources(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """One entry per source: its label, how rows are read, and the sha256 of the file (of a hub data set: its revision)."""
    described = []
    for source in sources:
        content = (
            {"revision": parse_hub(source.path).revision}
            if source.is_hub
            else {"sha256": sha256_file(Path(source.path))}
        )
        described.append(
            {"label": source.label, "format": source.format, "source_field": source.source_field, **content}
        )
    return described


def check_same_pool(recorded: Iterable[Mapping[str, Any]], sources: Iterable[Source], run: str) -> None:
    """Compare the config's sources with those the run's pool was made from.

    Args:
        recorded: `describe_sources` entries of every version of the run's pool.

    Raises:
        RunStateError: a source was changed since, or is not in the pool.
    """
    known: dict[str, list[Mapping[str, Any]]] = {}
    for entry in recorded:
        known.setdefault(entry["label"], []).append(entry)
    for entry in describe_sources(sources):
        versions = known.get(entry["label"])
        advice = (
            f"Rounds already run rest on the old pool: start another run (--run DIR), or add to this one with "
            f"`python cli.py pool import {entry['label']} --run {run}`."
        )
        if versions is None:
            raise RunStateError(
                f"pool.files: {entry['label']} is not part of the pool that {run} was made with ({len(known)} sources). {advice}"
            )
        if entry not in versions:
            raise RunStateError(f"pool.files: {entry['label']} changed since {run} imported it. {advice}")


def sources_config(config: PoolConfig, names: Iterable[str], format_name: str | None, strict: bool) -> PoolConfig:
    """The pool section with its sources replaced by `names` (paths, globs, `hub:` names) given on the command line."""
    names = list(names)
    values = {
        "files": [n for n in names if not n.startswith("hub:")],
        "hub": [n for n in names if n.startswith("hub:")],
        "strict": strict,
    }
    return PoolConfig.model_validate(
        {**config.model_dump(), **values, **({"format": format_name} if format_name else {})}
    )
