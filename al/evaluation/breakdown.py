"""The comparison of models split by source and by task group, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from al.evaluation.bootstrap import Differences, Interval
from al.evaluation.metrics import Measured, sums

LEAST_EXAMPLES = 5
"""Of a source, for an interval of its own: of fewer, resampling repeats the same few values."""
MEASURES = ("nll", "em")


def group_sources(
    sources: Sequence[str], patterns: Mapping[str, Sequence[str]], known: Mapping[str, str]
) -> dict[str, str]:
    """{source: group}: the first group with a pattern (as in shells, case counts) that fits the source, else what is `known` of it.

    Sources of no group are left out.
    """
    found = {}
    for source in sources:
        fits = (name for name, each in patterns.items() if any(fnmatchcase(source, pattern) for pattern in each))
        group = next(fits, known.get(source))
        if group is not None:
            found[source] = group
    return found


def by_source(
    names: Sequence[str], models: Mapping[str, Measured], against: Mapping[str, Differences]
) -> list[dict[str, Any]]:
    """A row per source: {"source", "examples", "<model>_nll", "<model>_em", "intervals": {other: {"nll", "em": {"low", "high"}}}}.

    The intervals are of the selected model minus the other; there are none for a source of fewer than LEAST_EXAMPLES.
    """
    size = np.bincount(next(iter(models.values())).source, minlength=len(names))
    values = {name: source_values(measured) for name, measured in models.items()}
    rows = []
    for code, source in enumerate(names):
        row: dict[str, Any] = {"source": str(source), "examples": int(size[code])}
        row |= {f"{name}_{m}": float(values[name][m][code]) for name in models for m in MEASURES}
        if size[code] >= LEAST_EXAMPLES and against:
            row["intervals"] = {
                other: {m: _ends(found.of_sources(np.array([code]), m)) for m in MEASURES}
                for other, found in against.items()
            }
        rows.append(row)
    return rows


def by_group(
    names: Sequence[str], models: Mapping[str, Measured], against: Mapping[str, Differences], groups: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row per group, means over its sources: {"group", "sources", "examples", "models": {name: {"nll", "em"}}, "differences":
    {other: {"nll", "em": {"value", "low", "high", "p"}}}}, in the order of names. [] if no source is in a group."""
    member = np.array([groups.get(str(source)) or "" for source in names])
    size = np.bincount(next(iter(models.values())).source, minlength=len(names))
    values = {name: source_values(measured) for name, measured in models.items()}
    rows = []
    for group in sorted(set(member.tolist()) - {""}):
        sources = np.flatnonzero(member == group)
        rows.append(
            {
                "group": group,
                "sources": len(sources),
                "examples": int(size[sources].sum()),
                "models": {
                    name: {m: float(found[m][sources].mean()) for m in MEASURES} for name, found in values.items()
                },
                "differences": {
                    other: {m: found.of_sources(sources, m) for m in MEASURES} for other, found in against.items()
                },
            }
        )
    return rows


def source_values(measured: Measured) -> dict[str, np.ndarray]:
    """{"nll", "em", …: (S,)} of each source: NLL per token, share of examples right."""
    return {
        name: np.bincount(measured.source, weights=top) / np.maximum(np.bincount(measured.source, weights=bottom), 1)
        for name, (top, bottom) in sums(measured).items()
    }


def changed_answers(before: Measured, now: Measured) -> dict[str, Any]:
    """What the newer model forgot and learned of the same examples, by exact match: {"forgotten", "learned", "kept", "never", "p",
    "nll_rose"}: counts, the p-value of McNemar's exact test of forgotten against learned, and on how many the NLL rose."""
    from scipy.special import bdtr

    was, still = before.correct > 0, now.correct > 0
    forgotten, learned = int((was & ~still).sum()), int((~was & still).sum())
    return {
        "forgotten": forgotten,
        "learned": learned,
        "kept": int((was & still).sum()),
        "never": int((~was & ~still).sum()),
        "p": min(1.0, 2 * float(bdtr(min(forgotten, learned), forgotten + learned, 0.5))),
        "nll_rose": int((now.nll > before.nll).sum()),
    }


def _ends(found: Interval) -> Interval:
    return {key: found[key] for key in ("low", "high")}
