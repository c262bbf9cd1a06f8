"""Which examples a report shows: picked ones, left-out ones of every outcome, quarantined rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from al.excerpt import cut
from al.report.summary.facts import RoundFacts

SHOWN = 50
TEXT_LIMIT = 2_000
KEPT = ("id", "source", "cluster", "tokens", "nll", "entropy", "stands_for", "outcome")


def shown_examples(facts: RoundFacts) -> dict[str, list[dict[str, Any]]]:
    """At most 50 picked (in pick order), 50 left out (spread over the outcomes) and 50 quarantined, with texts cut at 2,000 characters."""
    suspects = np.array([why is not None for why in facts.table["suspicion"].to_pylist()], dtype=bool)
    left = _spread(np.where(suspects & ~facts.picked, "suspected_noise", facts.outcome))
    quarantine = pq.read_table(facts.prepared.pool.path / "quarantine.parquet").slice(0, SHOWN).to_pylist()
    return {
        "picked": _describe(facts, facts.pick_order()[:SHOWN]),
        "left_out": _describe(facts, left),
        "quarantined": quarantine,
    }


def _spread(outcome: np.ndarray) -> np.ndarray:
    """Rows of unpicked examples, the outcomes taken in turn so that rare ones are seen."""
    names = [name for name in dict.fromkeys(outcome.tolist()) if name != "selected"]
    if not names:
        return np.empty(0, dtype=np.int64)
    share = -(-SHOWN // len(names))
    rng = np.random.default_rng([0x5403])
    parts = [rng.permutation(np.flatnonzero(outcome == name))[:share] for name in sorted(names)]
    return np.concatenate(parts)[:SHOWN].astype(np.int64)


def _describe(facts: RoundFacts, rows: np.ndarray) -> list[dict[str, Any]]:
    return [
        {name: record[name] for name in KEPT}
        | {"why": reason_of(record), "prompt": cut(prompt, TEXT_LIMIT), "response": cut(response, TEXT_LIMIT)}
        for record, prompt, response in facts.examples(rows)
    ]


def reason_of(record: dict[str, Any]) -> str:
    """Why an example was picked, or why not, of a record of selection.parquet; of a suspect that was not held back, that too."""
    suspicion = record.get("suspicion")
    suspected = suspicion is not None and record["outcome"] != "suspected_noise"
    return (record["why"] or explain_outcome(record)) + (f"; suspected noise: {suspicion}" if suspected else "")


def explain_outcome(record: dict[str, Any]) -> str:
    """One sentence for why an example was not picked."""
    name = record["outcome"]
    sentences = {
        "quota_full": f"the quota of group {record['cluster']} was full",
        "no_quota": f"group {record['cluster']} got no quota",
        "tail_cut": f"its NLL is in the top tail of group {record['cluster']}",
        "suspected_noise": f"suspected noise: {record.get('suspicion')}; noise.release=[{record['id']}] lets it be picked",
        "unlabelled": "it has no response to train on",
        "answered": "it has no response; another example answers it",
        "over_length": "it is longer than tokens.max_length",
        "no_target": "its template leaves no token to train on",
        "held_out_dev": "held out for dev",
        "held_out_test": "held out for test",
        "other_language": "its language is none of clean.languages",
        "refusal": "its response declines the request (clean.refusals)",
        "near_duplicate_of_holdout": "it is a near-duplicate of a held-out example",
        "near_duplicate_of_target": "it is a near-duplicate of a target example",
        "near_duplicate": f"near-duplicate of {record['representative']} (cosine {record['representative_cosine']:.3f})",
        "trained": f"already trained on in round {record['trained_round']}",
        "dropped_in_review": "dropped in review",
        "banned_in_review": "its cluster or source was banned in review",
    }
    return sentences[name]
