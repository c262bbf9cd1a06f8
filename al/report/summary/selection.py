"""The parts of a summary that tell of the pool, of what was measured of it, and of what was selected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al.lineage.outcomes import OUTCOMES, SELECTABLE
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact
from al.run.session import Session
from selection.cluster import PROJECTION_SAMPLE
from selection.config import SelectConfig
from selection.scores import SCORES, describe, length_correlation
from selection.scores import length_correlation as rank_correlation
from selection.strategy import resolve
from trainer.tokens import SKIPPED, TRUNCATED, TokenTable

MAP_POINTS = 5_000
BINS = 24


def picked_rows(table: pa.Table) -> np.ndarray:
    """(n,) bool: selected in this round; rows are those of the pool, `table` is its selection.parquet."""
    return pc.equal(table["outcome"].cast(pa.string()), "selected").to_numpy(zero_copy_only=False)


def pool_part(prepared: Prepared, table: pa.Table) -> dict[str, Any]:
    """Counts of the pool: examples, sources, tokens, and what was left out before anything was scored."""

    pool, tokens = prepared.pool.json("pool.json"), prepared.tokens.json("tokens.json")
    token_table = TokenTable.open(prepared.tokens.path)
    outcomes = outcome_counts(table)
    selectable = sum(outcomes[name] for name in SELECTABLE)
    return {
        "version": prepared.version,
        "examples": pool["examples"],
        "labelled": pool["labelled"],
        "unlabelled": pool["unlabelled"],
        "exact_duplicates": pool["duplicates"],
        "quarantined": pool["quarantined"],
        "sources": pool["sources"],
        "overlength": int((token_table.status == SKIPPED).sum()),
        "truncated": int((token_table.status == TRUNCATED).sum()),
        "tokens_dropped": int(token_table.dropped.sum()),
        "tokens": int(token_table.lengths.sum()),
        "near_duplicates": outcomes["near_duplicate"],
        "selectable": selectable,
        "template": tokens.get("template"),
    }


def outcome_counts(table: pa.Table) -> dict[str, int]:
    """Examples by outcome, zeros included."""
    counts = {
        entry["values"]: entry["counts"] for entry in pc.value_counts(table["outcome"].cast(pa.string())).to_pylist()
    }
    return {name: counts.get(name, 0) for name in OUTCOMES if name != "selectable"}


def scoring_part(roles: Mapping[str, Artifact], table: pa.Table, number: int) -> dict[str, Any]:
    """What was measured and at what cost, and how the scores go with length and with each other."""

    parts = [roles["score"], roles["shortlist"]]
    facts = [a.json("score.json") for a in parts]
    nll, tokens = table["nll"].to_numpy(), table["tokens"].to_numpy()
    known = np.isfinite(nll)
    scores = scores_of(table)
    fp8 = [f["fp8_rank_correlation"] for f in facts if f.get("fp8_rank_correlation") is not None]
    return {
        "measured": int(known.sum()),
        "tokens": sum(f["tokens"] for f in facts),
        "seconds": sum(a.manifest["seconds"] for a in parts),
        "adapter": f"round {number - 1}" if number > 1 else "base",
        "nll_mean": float(nll[known].mean()) if known.any() else None,
        "length_correlation": {name: length_correlation(values, tokens) for name, values in scores.items()},
        "agreement": agreement(scores),
        "fp8_rank_correlation": min(fp8, default=None),
        "gradients_through_adam": next((f["adam_moments"] for f in facts if "adam_moments" in f), None),
        "target": roles["target"].json("target.json") if "target" in roles else None,
        "noise": roles["suspects"].json("suspects.json") if "suspects" in roles else None,
    }


def scores_of(table: pa.Table) -> dict[str, np.ndarray]:
    """Every score of the selection that is not a plain column of the pool: name → (n,), NaN where not measured."""

    return {name: table[name].to_numpy().astype(np.float64) for name in SCORES if name in table.column_names}


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


def selection_part(session: Session, roles: Mapping[str, Artifact], table: pa.Table) -> dict[str, Any]:
    """The strategy as it was used, and how many examples each outcome has."""

    used = SelectConfig.model_validate(roles["selection"].manifest["params"]["select"])
    strategy = resolve(used)
    return {
        "strategy": used.strategy,
        "allocation": strategy.allocation,
        "picker": strategy.picker,
        "score": describe(session.config.score.by),
        "outcomes": outcome_counts(table),
    }


def histograms_part(table: pa.Table) -> dict[str, Any]:
    """Distribution of every score that was measured of anything, picked against all measured; of lengths, picked against left."""
    picked = picked_rows(table)
    scores = {name: values for name, values in scores_of(table).items() if np.isfinite(values).any()}
    shown = {name: (values, "measured") for name, values in ({"nll": scores.pop("nll", None)} | scores).items()}
    shown["length"] = (table["tokens"].to_numpy().astype(np.float64), "left")
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


def map_part(roles: Mapping[str, Artifact], table: pa.Table) -> dict[str, Any]:
    """Where examples lie in two dimensions, of at most 5,000, all picked ones first; `method` says how they were placed."""
    xy, method = coordinates(roles)
    cluster, picked = table["cluster"].to_numpy(), picked_rows(table)
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


def coordinates(roles: Mapping[str, Artifact]) -> tuple[np.ndarray, dict[str, Any]]:
    """(n, 2) coordinates of the pool, and {"method": "umap" or "pca", "fitted": examples the method was fitted on}."""
    if "projection" in roles:
        return np.load(roles["projection"].path / "map.npy"), roles["projection"].json("map.json")

    points = pq.read_table(roles["clusters"].path / "clusters.parquet", columns=["x", "y"])
    xy = np.stack([points["x"].to_numpy(), points["y"].to_numpy()], axis=1)
    return xy, {"method": "pca", "fitted": min(len(xy), PROJECTION_SAMPLE)}
