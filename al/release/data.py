"""What an adapter was trained on, by source, with the licence of each source where it is known."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from al.pool import presets
from al.pool.sources import parse_hub
from al.pool.store import Pool

UNKNOWN = "unknown"
BLOCK = 50_000
HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "ODC-BY 1.0": "odc-by"}
"""The hub's identifiers of licences. Creative Commons ones follow a rule: "CC BY-SA 3.0" is cc-by-sa-3.0."""


def data_part(pool: Pool, rows: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """The examples at `rows` by source and file, most first; `lengths` (n,) tokens of every example of the pool.

    Returns:
        {"examples", "tokens", "sources": [{"source", "file", "dataset", "licence", "examples", "tokens"}]}. `dataset` is a name on
        the hub or None.
    """
    rows = np.sort(rows)
    examples: Counter[tuple[str, str]] = Counter()
    tokens: Counter[tuple[str, str]] = Counter()
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        files = [origin.rpartition(":")[0] for origin in pool.origin(block)]
        for source, file, length in zip(pool.sources[block].tolist(), files, lengths[block].tolist(), strict=True):
            examples[source, file] += 1
            tokens[source, file] += int(length)
    sources = [
        {"source": source, "file": file, **known_of(file), "examples": count, "tokens": tokens[source, file]}
        for (source, file), count in sorted(examples.items(), key=lambda item: (-item[1], item[0]))
    ]
    return {"examples": len(rows), "tokens": int(lengths[rows].sum()), "sources": sources}


def known_of(label: str) -> dict[str, str | None]:
    """{"dataset", "licence"} of a file or data set by its label in the pool: presets have both, a hub data set the first."""
    if label.startswith(presets.PREFIX):
        preset, _ = presets.find(label)
        return {"dataset": preset.path, "licence": preset.licence}
    if label.startswith("hub:"):
        name = parse_hub(label).name
        return {
            "dataset": name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() else None,
            "licence": UNKNOWN,
        }
    return {"dataset": None, "licence": UNKNOWN}


def hub_licence(licences: set[str]) -> str:
    """The hub's identifier if all sources have one licence that it knows, else "unknown"."""
    if len(licences) != 1:
        return UNKNOWN
    (licence,) = licences
    if re.fullmatch(r"CC BY(-(NC|SA|ND))* \d\.\d", licence):
        return licence.lower().replace(" ", "-")
    return HUB_LICENCES.get(licence, UNKNOWN)
