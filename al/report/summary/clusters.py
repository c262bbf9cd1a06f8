"""The clusters of a summary: quotas.json, with what the round before measured of the same examples' clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from al.lineage.history import History
from al.lineage.past import losses_before
from al.report.summary.facts import RoundFacts
from al.run.artifacts import Artifact
from al.scoring.noise import held_back
from selection.losses import grouped_means


def clusters_part(facts: RoundFacts) -> list[dict[str, Any]]:
    """The entries of quotas.json, in order, each with `loss_before`, `loss_before_stderr`, `gain`, `gain_stderr` (nats; None where one
    of the two rounds measured nothing of the cluster) and `change` (what adapting did to it in this round, or None).

    gain = loss before - loss now. The two are means of two independent samples of the cluster, so the variances add up.
    """
    before, stderr = _before(facts, len(facts.quotas))
    changes = changes_by_cluster(facts.roles["clusters"], len(facts.quotas), facts.number)
    return [
        {**entry, **gain(entry, before[c], stderr[c]), "change": changes.get(c)} for c, entry in enumerate(facts.quotas)
    ]


def gain(entry: Mapping[str, Any], before: float, stderr: float) -> dict[str, float | None]:
    """What a cluster's loss was in the round before (NaN: unknown), and by how much it fell since."""
    known = bool(np.isfinite(before)) and entry["loss"] is not None
    sure = known and bool(np.isfinite(stderr)) and entry["loss_stderr"] is not None
    return {
        "loss_before": float(before) if np.isfinite(before) else None,
        "loss_before_stderr": float(stderr) if np.isfinite(stderr) else None,
        "gain": float(before - entry["loss"]) if known else None,
        "gain_stderr": float(np.hypot(stderr, entry["loss_stderr"])) if sure else None,
    }


def _before(facts: RoundFacts, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(k,) mean loss and its standard error that the round before measured in each of the present clusters; NaN where none."""
    line, pool, cluster = facts.lineages["selected"], facts.pool, facts.cluster
    history = History(line.lineage, line.rounds[: facts.number - 1])
    before = losses_before(history, pool.keys, ("score",))
    samples = [(rows, losses) for n, rows, losses in before if n == facts.number - 1]
    unknown = np.full(k, np.nan)
    if not samples or not len(samples[0][0]):
        return unknown, unknown
    rows, losses = samples[0]
    noise = facts.session.config.noise
    held = held_back(history.last("suspects"), pool.keys[rows], pool.ids[rows], noise.hold, noise.release)
    means = grouped_means(cluster[rows], np.where(held, np.nan, losses), np.bincount(cluster, minlength=k))
    return means.mean, means.stderr


def changes_by_cluster(clusters: Artifact, k: int, number: int) -> dict[int, str]:
    """Of each cluster that round `number` split or joined, how: {3: "split from cluster 1: its losses …"}."""
    if clusters.stage != "adapted_clusters" or clusters.manifest["params"]["round"] != number:
        return {}
    found = {}
    for change in clusters.json("clusters.json").get("changes", []):
        verb = "split from" if len(change["old"]) == 1 else "joined from"
        of = f"group{'s' * (len(change['old']) > 1)} {', '.join(map(str, change['old']))} of the previous clustering"
        found |= {int(c): f"{verb} {of}: {change['reason']}" for c in change["new"] if int(c) < k}
    return found
