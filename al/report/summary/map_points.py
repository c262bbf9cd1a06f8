"""The points of the page's map as columns that a browser reads without parsing: little-endian typed arrays in base64.

A point takes 12 bytes (x, y, cluster, source, score: 2 each; round, outcome: 1 each), so that 100,000 take 1.6 MB of the page. Ids and
the beginnings of prompts would take many times that, so hovering shows them for a stated choice of points only.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from al.excerpt import cut

POINTS, TEXTS = 100_000, 2_000
"""Points on the map, and how many of them show id and text."""
TEXT = 160
"""Characters of a prompt that hovering shows."""
STEPS, UNMEASURED = 65_535, 0
"""Coordinates are 0 … STEPS of the map's side; a score is 1 … STEPS of its range, UNMEASURED where there is none."""
OTHER_SOURCE = "(other sources)"


def map_points(
    xy: np.ndarray,
    cluster: np.ndarray,
    source: np.ndarray,
    outcome: Sequence[str],
    round_of: np.ndarray,
    score: np.ndarray,
    score_name: str,
) -> tuple[dict[str, Any], np.ndarray]:
    """The map's document, and the (m,) rows of the pool that are its points, in the order of the document.

    Args:
        xy: (n, 2) coordinates. cluster: (n,) int. source: (n,) str. outcome: (n,) str.
        round_of: (n,) int, the round in which an example was picked, 0 for never.
        score: (n,) float, NaN where not measured.
    """
    outcome = np.asarray(outcome, dtype=object)
    chosen = choose_points(outcome == "selected", round_of > 0)
    sources, source_code = _codes(source[chosen])
    outcomes, outcome_code = _codes(outcome[chosen].astype(str))
    values = score[chosen]
    known = np.isfinite(values)
    document = {
        "points": len(chosen),
        "sampled_from": len(xy),
        **_places(xy[chosen]),
        "cluster": _base64(np.minimum(cluster[chosen], STEPS), "<u2"),
        "source": _base64(source_code, "<u2"),
        "sources": sources,
        "outcome": _base64(outcome_code, "<u1"),
        "outcomes": outcomes,
        "round": _base64(np.minimum(round_of[chosen], 255), "<u1"),
        "score": _base64(_scaled(values, known), "<u2"),
        "score_range": _range(values[known], score_name),
    }
    return document, chosen


def choose_points(picked: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """(m,) rows, ascending, of at most `POINTS`: this round's picks, then those of earlier rounds, then a random part of the rest."""
    n = len(picked)
    if n <= POINTS:
        return np.arange(n)
    order = np.random.default_rng([0x3A9]).permutation(n)
    rank = np.where(picked, 0, np.where(trained, 1, 2))
    return np.sort(order[np.argsort(rank[order], kind="stable")][:POINTS])


def choose_texts(picked: np.ndarray) -> np.ndarray:
    """Positions, ascending, of the at most `TEXTS` points that show their text: picked ones fill up to half, or more if few others."""
    order = np.random.default_rng([0x7E7]).permutation(len(picked))
    first, rest = order[picked[order]], order[~picked[order]]
    count = max(TEXTS // 2, TEXTS - len(rest))
    return np.sort(np.concatenate([first[:count], rest[: TEXTS - min(len(first), count)]]))


def hover_texts(at: np.ndarray, ids: Sequence[str], prompts: Sequence[str]) -> dict[str, Any]:
    """What hovering shows of the points at positions `at`: ids and the beginnings of prompts."""
    return {
        "point": at.tolist(),
        "id": [str(i) for i in ids],
        "text": [cut(" ".join(prompt.split()), TEXT) for prompt in prompts],
    }


def _places(xy: np.ndarray) -> dict[str, str]:
    """x and y in steps of the longer side, so that distances keep their proportions; the shorter side lies in the middle."""
    xy = np.nan_to_num(np.asarray(xy, dtype=np.float64))
    low, high = (xy.min(axis=0), xy.max(axis=0)) if len(xy) else (np.zeros(2), np.ones(2))
    side = max(float((high - low).max()), 1e-12)
    steps = np.round(((xy - (low + high) / 2) / side + 0.5) * STEPS)
    return {"x": _base64(steps[:, 0], "<u2"), "y": _base64(steps[:, 1], "<u2")}


def _range(known: np.ndarray, name: str) -> dict[str, Any]:
    """What a score's steps span, and between which values (1st and 99th percentile) its colours change."""
    if not len(known):
        return {"name": name, "low": 0.0, "high": 0.0, "shown_low": 0.0, "shown_high": 0.0, "measured": 0}
    low, high, shown_low, shown_high = (float(q) for q in np.quantile(known, [0, 1, 0.01, 0.99]))
    ends = {"low": low, "high": high, "shown_low": shown_low, "shown_high": shown_high}
    return {"name": name, **ends, "measured": len(known)}


def _scaled(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not known.any():
        return np.full(len(values), UNMEASURED)
    low, high = values[known].min(), values[known].max()
    share = (np.where(known, values, low) - low) / max(high - low, 1e-300)
    return np.where(known, 1 + np.round(share * (STEPS - 1)), UNMEASURED)


def _codes(names: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names, most frequent first, and the code of each; beyond 65,535 names the rare ones share one."""
    known, code, counts = np.unique(names, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.argsort(order)
    kept = known[order][: STEPS - 1].tolist()
    return kept + [OTHER_SOURCE] * (len(known) > len(kept)), np.minimum(rank[code], STEPS - 1)


def _base64(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode("ascii")
