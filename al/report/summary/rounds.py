"""The part of summary.json on the rounds so far: learning curve, what each round picked, and how selections drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from al.config import parse, same_question
from al.lineage.outcomes import SELECTABLE, find_rows
from al.report.reading.verdict import compared_with, headline
from al.report.summary.facts import RoundFacts
from al.run.rounds import all_rounds

EVER_PICKED = (*SELECTABLE, "trained", "dropped_in_review", "banned_in_review")
"""Outcomes of examples that some round could pick: what the picks are compared with."""
LARGEST = 8
"""Clusters and sources whose shares are listed."""


def learning_curve(facts: RoundFacts) -> list[dict[str, Any]]:
    """NLL on test ("models": macro), what was picked and what a control said of it, one entry per finished round before this one."""
    run = facts.session.run
    curve, configs = [], {entry.number: parse(entry.config, f"{run.path}/run.db") for entry in all_rounds(run)}
    for n, roles in enumerate(facts.lineages["selected"].rounds[: facts.number - 1], start=1):
        if "report" in roles:
            past = roles["report"].json("summary.json")
            alike = same_question(configs[n], configs[facts.number])
            curve.append(
                {
                    "round": n,
                    "examples": past["budget"]["examples"],
                    "tokens": past["budget"]["tokens"],
                    "models": {k: v["macro_nll"] for k, v in past["evaluation"]["models"].items()},
                    "micro_nll": {k: v["micro_nll"] for k, v in past["evaluation"]["models"].items()},
                    "against_control": headline(past) if alike and compared_with(past, "control") else None,
                }
            )
    return curve


def drift(facts: RoundFacts) -> dict[str, Any]:
    """{"rounds", "clusters", "sources"}: each round's picks of both lineages, and the shares of the largest clusters and sources.

    Rounds are compared by the clusters of this round. A distance is that of Jensen and Shannon, the root of the divergence in bits:
    0 for the same shares, 1 for nothing in common. Few picks are far from the pool by chance alone: the control's distance says how far.
    """
    pool, cluster, number = facts.pool, facts.cluster, facts.number
    names, source = np.unique(pool.sources, return_inverse=True)
    open_to_all = np.isin(facts.outcome.astype(str), EVER_PICKED)
    kinds = {"clusters": (cluster, int(cluster.max()) + 1), "sources": (source, int(source.max()) + 1)}
    picked = {
        name: [find_rows(pool.keys, line.picked(n + 1)) for n in range(number)] for name, line in facts.lineages.items()
    }
    found = []
    for n in range(number):
        entry: dict[str, Any] = {"round": n + 1, **_at_picking(facts, n + 1)}
        for line, rows in picked.items():
            entry[line] = _line(rows[: n + 1], facts.table["tokens"].to_numpy(), kinds, open_to_all)
        found.append(entry)
    clusters = facts.roles["clusters"].json("clusters.json")["names"]
    return {
        "rounds": found,
        "clusters": _shares(cluster, clusters, picked["selected"], open_to_all),
        "sources": _shares(source, names.tolist(), picked["selected"], open_to_all),
    }


def _at_picking(facts: RoundFacts, number: int) -> dict[str, Any]:
    """Mean NLL of a round's picks as that round measured them before training, and of how many it is the mean."""
    columns, selection = facts.table, facts.lineages["selected"].rounds[number - 1].get("selection")
    if number < facts.number:
        if selection is None:
            return {"nll": None, "measured": 0}
        columns = pq.read_table(selection.path / "selection.parquet", columns=["pick", "nll"])
    nll = columns["nll"].to_numpy()[columns["pick"].to_numpy() >= 0]
    known = nll[np.isfinite(nll)]
    return {"nll": float(known.mean()) if len(known) else None, "measured": len(known)}


def _line(
    rows: Sequence[np.ndarray], tokens: np.ndarray, kinds: Mapping[str, tuple[np.ndarray, int]], open_to_all: np.ndarray
) -> dict[str, Any] | None:
    """What a lineage picked in the last of some rounds, and so far; None where it picked nothing."""
    if not len(rows[-1]):
        return None
    entry: dict[str, Any] = {
        "examples": len(rows[-1]),
        "tokens": int(tokens[rows[-1]].sum()),
        "all_examples": sum(map(len, rows)),
        "all_tokens": int(sum(tokens[part].sum() for part in rows)),
    }
    for kind, (code, count) in kinds.items():
        now = np.bincount(code[rows[-1]], minlength=count)
        entry[kind] = int((now > 0).sum())
        entry[f"{kind}_from_pool"] = distance(now, np.bincount(code[open_to_all], minlength=count))
        before = np.bincount(code[rows[-2]], minlength=count) if len(rows) > 1 and len(rows[-2]) else None
        entry[f"{kind}_from_before"] = None if before is None else distance(now, before)
        entry[f"{kind}_overlap"] = None if before is None else overlap(now, before)
    return entry


def distance(counts: np.ndarray, others: np.ndarray) -> float:
    """Jensen-Shannon distance, base 2, of two vectors of counts: 0 to 1 (Lin 1991; Endres and Schindelin 2003)."""
    from scipy.spatial.distance import jensenshannon

    return float(np.nan_to_num(jensenshannon(counts, others, base=2)))  # equal shares may give the root of -1e-17


def overlap(counts: np.ndarray, others: np.ndarray) -> float:
    """Share that two vectors of counts have in common: sum of the lesser shares, 0 to 1."""
    return float(np.minimum(counts / counts.sum(), others / others.sum()).sum())


def _shares(
    code: np.ndarray, names: Sequence[str], rounds_rows: Sequence[np.ndarray], open_to_all: np.ndarray
) -> list[dict[str, Any]]:
    """{"name", "pool", "rounds": [share]} of the LARGEST with the highest share in any round, highest first."""
    count = len(names)
    pool = np.bincount(code[open_to_all], minlength=count) / max(int(open_to_all.sum()), 1)
    each = np.stack([np.bincount(code[rows], minlength=count) / max(len(rows), 1) for rows in rounds_rows])
    top = np.argsort(-each.max(0), kind="stable")[:LARGEST]
    return [
        {"name": str(names[i]), "pool": float(pool[i]), "rounds": each[:, i].tolist()} for i in top if each[:, i].any()
    ]
