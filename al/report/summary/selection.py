"""The parts of a summary on the pool, on what was measured of it, on what was selected, and on the review."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from al.lineage.outcomes import OUTCOMES, SELECTABLE
from al.preparation.groups import describe_groups, groups_notices
from al.report.summary.facts import RoundFacts
from selection.config import SelectConfig
from selection.ranked import EXPLORATION
from selection.scores import describe, length_correlation
from selection.scores import length_correlation as rank_correlation
from selection.strategy import resolve
from trainer.tokens import SKIPPED, TRUNCATED

MAP_POINTS = 5_000
BINS = 24
LISTED = 100
"""Examples listed of those that a review brought in and of those that it took out; review.json of the selection has all."""


def pool_part(facts: RoundFacts) -> dict[str, Any]:
    """Counts of the pool: examples, sources, tokens, and what was left out before anything was scored."""
    prepared, token_table, outcomes = facts.prepared, facts.tokens, outcome_counts(facts.outcome)
    pool, tokens = prepared.pool.json("pool.json"), prepared.tokens.json("tokens.json")
    selectable = sum(outcomes[name] for name in SELECTABLE)
    return {
        "version": prepared.version,
        **{name: pool[name] for name in ("examples", "labelled", "unlabelled", "quarantined", "sources")},
        "exact_duplicates": pool["duplicates"],
        "overlength": int((token_table.status == SKIPPED).sum()),
        "truncated": int((token_table.status == TRUNCATED).sum()),
        "tokens_dropped": int(token_table.dropped.sum()),
        "tokens": int(token_table.lengths.sum()),
        "near_duplicates": outcomes["near_duplicate"],
        "selectable": selectable,
        "template": tokens.get("template"),
    }


def outcome_counts(outcome: np.ndarray) -> dict[str, int]:
    """Examples by outcome, zeros included."""
    counts = dict(zip(*np.unique(outcome.astype(str), return_counts=True), strict=True))
    return {name: int(counts.get(name, 0)) for name in OUTCOMES if name != "selectable"}


def scoring_part(facts: RoundFacts) -> dict[str, Any]:
    """What was measured and at what cost, and how the scores correlate with length and with each other."""
    roles, number, scores = facts.roles, facts.number, facts.scores
    parts = [roles["score"], roles["shortlist"]]
    measured = [a.json("score.json") for a in parts]
    nll, tokens = facts.table["nll"].to_numpy(), facts.table["tokens"].to_numpy()
    known = np.isfinite(nll)
    fp8 = [f["fp8_rank_correlation"] for f in measured if f.get("fp8_rank_correlation") is not None]
    return {
        "measured": int(known.sum()),
        "tokens": sum(f["tokens"] for f in measured),
        "seconds": sum(a.manifest["seconds"] for a in parts),
        "adapter": f"round {number - 1}" if number > 1 else "base",
        "nll_mean": float(nll[known].mean()) if known.any() else None,
        "length_correlation": {name: length_correlation(values, tokens) for name, values in scores.items()},
        "agreement": agreement(scores),
        "fp8_rank_correlation": min(fp8, default=None),
        "gradients_through_adam": next((f["adam_moments"] for f in measured if "adam_moments" in f), None),
        "target": roles["target"].json("target.json") if "target" in roles else None,
        "noise": roles["suspects"].json("suspects.json") if "suspects" in roles else None,
    }


def agreement(scores: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of every pair of scores over the examples that have both, with their count; None where fewer than 3
    have both or one of the two is constant there."""
    names = list(scores)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    found = []
    for a, b in pairs:
        both = np.isfinite(scores[a]) & np.isfinite(scores[b])
        value = rank_correlation(scores[a][both], scores[b][both])
        found.append({"scores": [a, b], "spearman": value, "examples": int(both.sum())})
    return found


def selection_part(facts: RoundFacts) -> dict[str, Any]:
    """The strategy as it was used, what its groups are, how many picks were explored, and how many examples each outcome has."""
    used = SelectConfig.model_validate(facts.roles["selection"].manifest["params"]["select"])
    strategy, reasons = resolve(used), facts.table["why"].to_numpy(zero_copy_only=False)[facts.picked]
    return {
        "strategy": used.strategy,
        "why": groups_notices(facts.session.config, facts.prepared.clusters),
        "groups": describe_groups(facts.roles["clusters"].json("clusters.json")),
        "explored": sum(str(why).startswith(EXPLORATION) for why in reasons),
        "allocation": strategy.allocation,
        "picker": strategy.picker,
        "score": describe(facts.session.config.score.by),
        "outcomes": outcome_counts(facts.outcome),
    }


def histograms_part(scores: Mapping[str, np.ndarray], tokens: np.ndarray, picked: np.ndarray) -> dict[str, Any]:
    """Distribution of every score that was measured of anything, picked against all measured; of lengths, picked against left."""
    scores = {name: values for name, values in scores.items() if np.isfinite(values).any()}
    shown = {name: (values, "measured") for name, values in ({"nll": scores.pop("nll", None)} | scores).items()}
    shown["length"] = (tokens.astype(np.float64), "left")
    result = {}
    for name, (values, other) in shown.items():
        values = np.full(len(picked), np.nan) if values is None else values
        known = np.isfinite(values)
        edges = np.histogram_bin_edges(values[known], bins=BINS) if known.any() else np.array([0.0, 1.0])
        rest = known if other == "measured" else known & ~picked
        result[name] = {
            "edges": edges,
            other: np.histogram(values[rest], edges)[0],
            "picked": np.histogram(values[known & picked], edges)[0],
        }
    return result


def map_part(facts: RoundFacts) -> dict[str, Any]:
    """Where examples lie in two dimensions, of at most 5,000, all picked ones first; `method` says how they were placed."""
    (xy, method), cluster, picked = facts.coordinates, facts.cluster, facts.picked
    rows = np.arange(len(picked))
    if len(rows) > MAP_POINTS:
        rest = np.random.default_rng([0x3A9]).permutation(rows[~picked])[: max(0, MAP_POINTS - int(picked.sum()))]
        rows = np.sort(np.concatenate([rows[picked][:MAP_POINTS], rest]))
    return {
        "x": np.round(xy[rows, 0], 4),
        "y": np.round(xy[rows, 1], 4),
        "cluster": cluster[rows],
        "picked": picked[rows].astype(int),
        "sampled_from": len(picked),
        **method,
    }


def review_part(facts: RoundFacts) -> dict[str, Any] | None:
    """What was changed, by kind, with the first examples of each; None without a review."""
    selection = facts.roles["selection"]
    if "review.json" not in selection.manifest["files"]:
        return None
    changes = selection.json("review.json")
    counts = {f"{name}_count": len(changes[name]) for name in ("taken_out", "brought_in")}
    return {**changes, **counts, **{name: changes[name][:LISTED] for name in ("taken_out", "brought_in")}}
