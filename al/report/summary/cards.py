"""A card for each cluster: its distinctive terms, the examples at its centre, what was picked of it and what was refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from al.excerpt import cut
from al.report.summary.examples import reason_of
from al.report.summary.facts import RoundFacts

CARDS, SHOWN, TEXT = 300, 3, 240
"""Clusters with a card (the largest quotas come first), examples of a kind on it, and characters of a text."""


def cluster_cards(facts: RoundFacts) -> list[dict[str, Any]]:
    """At most `CARDS` cards, by cluster: {"cluster", "terms", "outcomes": {outcome: examples}, and "exemplars", "picked", "refused", each
    a list of {"id", "source", "why", "text"}}."""
    made = facts.roles["cards"].json("cards.json") if "cards" in facts.roles else None
    largest = sorted(facts.quotas, key=lambda entry: (-entry["quota"], -entry["size"], entry["cluster"]))[:CARDS]
    members, outcome, order = _members(facts.cluster), facts.outcome.astype(str), facts.table["pick"].to_numpy()
    cards, wanted = [], []
    for c in sorted(entry["cluster"] for entry in largest):
        rows = members.get(c, np.empty(0, dtype=np.int64))
        names, counts = np.unique(outcome[rows], return_counts=True)
        outcomes = {str(names[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")}
        cards.append({"cluster": c, "terms": made["terms"][c] if made else [], "outcomes": outcomes})
        picked, left = first_picked(rows, order), refused(rows, outcome, list(outcomes))
        wanted.append({"exemplars": made["exemplars"][c] if made else [], "picked": picked, "refused": left})
    texts = _described(facts, wanted)
    return [
        card | {kind: [texts[int(row)] for row in rows] for kind, rows in rows_of.items()}
        for card, rows_of in zip(cards, wanted, strict=True)
    ]


def first_picked(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The at most `SHOWN` of `rows` that were picked first; `order` (n,) is -1 where an example was not picked."""
    picked = rows[order[rows] >= 0]
    return picked[np.argsort(order[picked], kind="stable")][:SHOWN]


def refused(rows: np.ndarray, outcome: np.ndarray, common_first: Sequence[str]) -> list[int]:
    """At most `SHOWN` of `rows` that were not picked, of as many outcomes as there are, the commonest first."""
    by_outcome = [rows[outcome[rows] == name][:SHOWN].tolist() for name in common_first if name != "selected"]
    turns = [group[turn] for turn in range(SHOWN) for group in by_outcome if turn < len(group)]
    return turns[:SHOWN]


def _members(cluster: np.ndarray) -> dict[int, np.ndarray]:
    """Rows of each cluster, ascending."""
    order = np.argsort(cluster, kind="stable")
    names, starts = np.unique(cluster[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))


def _described(facts: RoundFacts, wanted: Sequence[Mapping[str, Sequence[int]]]) -> dict[int, dict[str, str]]:
    """Every row that some card shows, as it is shown."""
    rows = np.unique([int(row) for kinds in wanted for group in kinds.values() for row in group]).astype(np.int64)
    return {
        record["row"]: {
            "id": record["id"],
            "source": record["source"],
            "why": cut(reason_of(record), TEXT),
            "text": cut(" ".join(prompt.split()), TEXT),
        }
        for record, prompt, _ in facts.examples(rows)
    }
