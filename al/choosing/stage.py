"""From statistics to a selection: what must be measured, which examples are picked, and why the others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from al.choosing.scored import Scored
from al.choosing.write import write_quotas, write_selection
from al.cleaning.stage import role
from al.lineage.outcomes import CODE, find_rows
from al.lineage.past import scored_before, statistics_of
from al.lineage.round_state import RoundState
from al.run.artifacts import Artifact
from al.run.rows import rows_digest
from al.scoring import stage as scoring
from al.scoring.amount import picks_checked, sample_size
from al.scoring.noise import why_suspected
from selection.sample import stratified_sample
from selection.scores import TARGETED, computable, needs
from selection.shortlist import shortlist
from selection.strategy import aims, measures, needs_losses
from selection.strategy import select as pick


def measure_sample(state: RoundState) -> Artifact:
    """Measure the stratified sample per cluster that sets the quotas; nothing, if the strategy uses no losses."""
    pool, wanted = state.pool, scoring.measurements(state.session)
    if "quality" in wanted:
        _ = state.quality  # raises before anything is measured if the column is missing
    size = sample_size(state) if needs_losses(state.select, state.number) else 0
    eligible = (pool.outcome == CODE["selectable"]) & (size != 0)
    rows = stratified_sample(pool.cluster, pool.keys, eligible, size, state.seed)
    return scoring.score(state, np.sort(rows), "score sample")


def measure_target(state: RoundState) -> Artifact | None:
    """Measure the target where a score or a picker needs it; None otherwise."""
    score, target = state.session.config.score, state.prepared.target
    by_score = needs(score.by, *score.also) & TARGETED
    by_picker = aims(state.select) and measures(state.select)
    if target is None or not (by_score or by_picker):
        return None
    if not needs_losses(state.select, state.number):
        return None  # nothing of the pool is measured that could be compared
    return scoring.score_the_target(state)


def measure_shortlist(scored: Scored) -> Artifact:
    """Measure what the sample did not cover: what the picker ranks inside its quotas, and the picks that the noise check needs."""
    state, sample = scored.state, scored.sample.artifacts[0]
    checked = picks_checked(state, sample, scored.suspects)
    listed = shortlist(scored.candidates, scored.quotas, state.select, state.seed, checked)
    rows = np.setdiff1d(state.pool.rows[listed], statistics_of(sample)["row"])
    return scoring.score(state, rows, "score shortlist")


def select(scored: Scored) -> Artifact:
    """Pick inside the quotas.

    Publishes `selection.parquet` (every example of the pool with its outcome), `selection.jsonl` (the picked conversations with
    reasons), `picked.npy` (keys, in pick order) and `quotas.json`.
    """
    state = scored.state
    session, prepared, history, budget = state.session, state.prepared, state.history, state.budget
    config = session.config
    params = {
        "select": state.select.model_dump(mode="json"),
        "score": {"by": config.score.by, "also": config.score.also, "quality": config.score.quality},
        "before": [artifact.fingerprint for _, artifact, _ in scored_before(history)],
        "seed": config.seed,
        "round": state.number,
        "noise": config.noise.model_dump(mode="json"),
        "budget": {"unit": budget.unit, "amount": budget.amount},
        "trained": rows_digest(find_rows(state.pool.keys, history.all_picked())),
        **_removed_before(state),
    }

    def build(out: Path, scratch: Path) -> None:
        """Write the selection."""
        picks = pick(scored.candidates, scored.quotas, budget, state.select, state.seed)
        columns = scored.measured.columns
        scores = computable(columns, scoring.measurements(session) | {"tokens"})
        write_selection(out, state, columns, scores, picks, why_suspected(scored.suspects, state.pool.keys))
        write_quotas(out, state, scored.quotas, picks)

    return session.run.stage(
        "selection",
        version=5,
        params=params,
        build=build,
        label="select",
        inputs={
            "sample": scored.sample.artifacts[0],
            "suspects": scored.suspects,
            "shortlist": scored.shortlist,
            "clusters": state.clusters,
            "split": prepared.split,
            "groups": prepared.groups,
            "tokens": prepared.tokens,
            "embeddings": prepared.embeddings,
            "aims": scored.sample.aims,
            "states": scored.sample.states,
            "target": prepared.target.artifact if prepared.target else None,
            **role(prepared.cleaned),
        },
    )


def _removed_before(state: RoundState) -> dict[str, str]:
    """A parameter that names what earlier reviews removed; none where none did."""
    removed = np.flatnonzero(np.isin(state.pool.outcome, [CODE["dropped_in_review"], CODE["banned_in_review"]]))
    return {"removed": rows_digest(removed)} if len(removed) else {}
