"""`details.json`: what a reader can look up on the page, beyond its tables: points of the map, cards of clusters, every picked example.

It is apart from summary.json because it takes megabytes where the summary takes kilobytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from al.excerpt import prompt_and_response
from al.report.summary.cards import cluster_cards
from al.report.summary.examples import reason_of
from al.report.summary.facts import RoundFacts
from al.report.summary.map_points import choose_texts, hover_texts, map_points
from al.report.summary.searchable import fit, parts_of

PICKS = 5_000
"""Picked examples that the page can search."""


def build_details(facts: RoundFacts) -> dict[str, Any]:
    """The document of a round."""
    return {"map": _map(facts), "cards": cluster_cards(facts), "picks": _picks(facts)}


def _map(facts: RoundFacts) -> dict[str, Any]:
    by, picked = facts.session.config.score.by, facts.picked
    name = by if isinstance(by, str) and by in facts.scores else "nll"
    document, chosen = map_points(
        facts.coordinates[0],
        facts.cluster,
        facts.pool.sources,
        facts.outcome,
        np.where(picked, facts.number, facts.table["trained_round"].to_numpy()),
        facts.scores.get(name, np.full(len(picked), np.nan)),
        name,
    )
    at = choose_texts(picked[chosen])
    prompts = [prompt_and_response(messages)[0] for messages in facts.pool.messages(chosen[at])]
    return document | {"texts": hover_texts(at, facts.pool.ids[chosen[at]], prompts)}


def _picks(facts: RoundFacts) -> dict[str, Any]:
    """The picked examples in pick order, one list per column; at most `PICKS` of them, an even spread over the order of picking."""
    picked = facts.pick_order()
    rows = picked[np.linspace(0, len(picked) - 1, min(len(picked), PICKS)).astype(np.int64)]
    records = facts.table.take(pa.array(rows)).to_pylist()
    nll = facts.table["nll"].to_numpy()[rows].astype(np.float64)
    return {
        "total": len(picked),
        **{name: [record[name] for record in records] for name in ("id", "source", "cluster", "tokens")},
        "nll": [None if not np.isfinite(value) else round(float(value), 4) for value in nll],
        "why": [reason_of(record) for record in records],
        **fit([parts_of(messages) for messages in facts.pool.messages(rows)]),
    }
