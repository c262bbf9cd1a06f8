"""`details.json`: what a reader can look up on the page, beyond its tables: points of the map, cards of clusters, every picked example.

It stands beside summary.json and not in it, since it takes megabytes where the summary takes kilobytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from al.excerpt import cut, prompt_and_response
from al.preparation.stages import Prepared
from al.report.summary.cards import cluster_cards
from al.report.summary.examples import reason_of
from al.report.summary.map_points import choose_texts, hover_texts, map_points
from al.report.summary.selection import coordinates, picked_rows, scores_of
from al.run.artifacts import Artifact

PICKS, PICK_TEXT = 5_000, 120
"""Picked examples that the page can search, and characters of their prompts."""


def build_details(
    prepared: Prepared, roles: Mapping[str, Artifact], table: pa.Table, number: int, score_by: Any
) -> dict[str, Any]:
    """The document. `table`: selection.parquet of round `number`; `score_by`: the config's score, by which the map can be coloured."""
    return {
        "map": _map(prepared, roles, table, number, score_by),
        "cards": cluster_cards(prepared, roles, table),
        "picks": _picks(prepared, table),
    }


def _map(
    prepared: Prepared, roles: Mapping[str, Artifact], table: pa.Table, number: int, score_by: Any
) -> dict[str, Any]:
    xy, _ = coordinates(roles)
    pool, picked, scores = prepared.open_pool(), picked_rows(table), scores_of(table)
    name = score_by if isinstance(score_by, str) and score_by in scores else "nll"
    document, chosen = map_points(
        xy,
        table["cluster"].to_numpy(),
        pool.sources,
        table["outcome"].cast(pa.string()).to_pylist(),
        np.where(picked, number, table["trained_round"].to_numpy()),
        scores.get(name, np.full(len(picked), np.nan)),
        name,
    )
    at = choose_texts(picked[chosen])
    prompts = [prompt_and_response(messages)[0] for messages in pool.messages(chosen[at])]
    return document | {"texts": hover_texts(at, pool.ids[chosen[at]], prompts)}


def _picks(prepared: Prepared, table: pa.Table) -> dict[str, Any]:
    """The picked examples in pick order, one list per column; at most `PICKS` of them, an even spread over the order of picking."""
    picked = np.flatnonzero(picked_rows(table))
    picked = picked[np.argsort(table["pick"].to_numpy()[picked], kind="stable")]
    rows = picked[np.linspace(0, len(picked) - 1, min(len(picked), PICKS)).astype(np.int64)]
    records = table.take(pa.array(rows)).to_pylist()
    prompts = [prompt_and_response(messages)[0] for messages in prepared.open_pool().messages(rows)]
    nll = table["nll"].to_numpy()[rows].astype(np.float64)
    return {
        "total": len(picked),
        "id": [record["id"] for record in records],
        "source": [record["source"] for record in records],
        "cluster": [record["cluster"] for record in records],
        "tokens": [record["tokens"] for record in records],
        "nll": [None if not np.isfinite(value) else round(float(value), 4) for value in nll],
        "why": [reason_of(record) for record in records],
        "prompt": [cut(" ".join(prompt.split()), PICK_TEXT) for prompt in prompts],
    }
