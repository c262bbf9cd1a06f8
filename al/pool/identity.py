"""The sources of a pool version, so that a run detects a config that points at other data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from al.config import refuse_passwords
from al.config.pool import PoolConfig
from al.errors import RunStateError
from al.pool.presets import find
from al.pool.sources import Source, parse_hub
from al.program import PROGRAM
from al.run.file_hashes import remembered_sha256


def describe_sources(sources: Iterable[Source], repairs: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """One entry per source: its label, how rows are read and repaired (`CleanConfig.repairs`), and the sha256 of the file (of a hub
    data set: its revision)."""
    described = []
    for source in sources:
        described.append(
            {
                "label": source.label,
                "format": source.format,
                "source_field": source.source_field,
                # Only if set, so that pools made before these options existed keep their fingerprint.
                **({"map": dict(source.map)} if source.map else {}),
                **({"text_template": source.text_template} if source.text_template else {}),
                **({"clean": dict(repairs)} if repairs else {}),
                **_content(source),
            }
        )
    return described


def _content(source: Source) -> dict[str, Any]:
    if source.is_preset:
        preset = find(source.path)[0]
        only = {"only": [preset.only[0], *preset.only[1]]} if preset.only is not None else {}
        return {"preset": preset.path, "revision": preset.revision, **only}
    if source.is_hub:
        return {"revision": parse_hub(source.path).revision}
    return {"sha256": remembered_sha256(Path(source.path))}


def check_same_pool(
    recorded: Iterable[Mapping[str, Any]],
    sources: Iterable[Source],
    run: str,
    repairs: Mapping[str, Any] | None = None,
) -> None:
    """Compare the config's sources with those of the run's pool.

    Args:
        recorded: `describe_sources` entries of every version of the run's pool.

    Raises:
        RunStateError: a source has changed, has other `repairs`, or is not in the pool.
    """
    known: dict[str, list[Mapping[str, Any]]] = {}
    for entry in recorded:
        known.setdefault(entry["label"], []).append(entry)
    for entry in describe_sources(sources, repairs):
        versions = known.get(entry["label"])
        advice = (
            f"A run keeps the pool that it imported: start another run (--run DIR), or add to this one with "
            f"`{PROGRAM} pool import {entry['label']} --run {run}`."
        )
        if versions is None:
            raise RunStateError(
                f"pool.files: {entry['label']} is not part of the pool of {run} ({len(known)} sources). {advice}"
            )
        if entry not in versions:
            if any(_less(entry, "clean") == _less(version, "clean") for version in versions):
                raise RunStateError(
                    f"clean.repair_encoding, clean.mask_pii: {entry['label']} was imported into {run} with other settings, and "
                    f"examples are named by their text. Set them back, or start another run (--run DIR)."
                )
            raise RunStateError(f"pool.files: {entry['label']} changed since {run} imported it. {advice}")


def _less(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


def sources_config(config: PoolConfig, names: Iterable[str], format_name: str | None, strict: bool) -> PoolConfig:
    """The pool section with its sources replaced by `names` (paths, globs, presets, `hub:` names) given on the command line.

    Raises:
        ConfigError: a URL with a password.
    """
    names = list(names)
    refuse_passwords(names, "pool", "files")
    values = {
        "files": [n for n in names if not n.startswith("hub:")],
        "hub": [n for n in names if n.startswith("hub:")],
        "strict": strict,
    }
    return PoolConfig.model_validate(
        {**config.model_dump(), **values, **({"format": format_name} if format_name else {})}
    )
