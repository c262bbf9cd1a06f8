"""From statistics to a selection: who may be picked, what must be measured, who is picked, and why everybody else is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from al.choosing.write import write_quotas, write_selection
from al.cleaning.stage import role, wanted
from al.lineage.history import History
from al.lineage.outcomes import CODE, find_rows, removed_in_reviews
from al.lineage.round_state import Scored, Standing
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact
from al.run.rows import rows_digest
from al.run.session import Session
from al.scoring import stage as scoring
from al.scoring.columns import measured_columns, quality_column, scored_before, statistics_of
from al.scoring.noise import held_back, reasons, suspected_share
from al.scoring.past import past_rounds
from al.scoring.vectors import vectors_of
from selection.cluster import distinctness
from selection.holdout import POOL
from selection.sample import stratified_sample
from selection.scores import TARGETED, computable, compute, needs
from selection.shortlist import shortlist
from selection.strategy import Candidates, aims, allocate, can_do_without_losses, measures, needs_losses
from selection.strategy import select as pick
from trainer.tokens import TokenTable

SCORING_SHARE = 1 / 9
"""sample_per_cluster auto: what scoring may take of the time of training."""
LEAST_SAMPLE = 2
"""Of each cluster; one example tells nothing of how much of a difference between clusters is chance."""
FORWARD_COST = 1 / 3
"""Of a forward pass, in passes of training."""
FIRST_LOOK = 512
"""At most so many picks are looked at to see how much noise there is."""
NOISY = 0.05
"""Share of suspects among what was looked at from which on picks are looked at."""


def score_sample(standing: Standing, amount: Any) -> Artifact:
    """Measure the stratified sample per cluster that sets the quotas; nothing, if the strategy looks at no loss."""

    session, prepared, state = standing.session, standing.prepared, standing.state
    size = _sample_size(standing, amount) if needs_losses(standing.select, standing.number) else 0
    eligible = (state.outcome == CODE["selectable"]) & (size != 0)
    if "quality" in scoring.measurements(session):
        quality_column(session, prepared, state)  # a column that is not there is told before anything is measured
    rows = stratified_sample(state.cluster, state.keys, eligible, size, standing.seed)
    adapter = standing.history.adapter()
    return scoring.score(session, prepared.tokens, adapter, np.sort(rows), standing.number, "score sample")


def _sample_size(standing: Standing, amount: Any) -> Any:
    """`score.sample_per_cluster`, or what auto comes to for what this round trains on: 0 where the allocation makes do without and
    losses would not pay, because two a cluster are too dear or because the clusters are no kinds that losses could tell apart."""

    config, state = standing.session.config, standing.state
    if config.score.sample_per_cluster != "auto":
        return config.score.sample_per_cluster
    clusters = len(np.unique(state.cluster[state.rows]))
    found = sample_per_cluster(_affordable(standing, amount), clusters)
    pays = found >= LEAST_SAMPLE and _distinctness(standing) > 0
    return max(found, LEAST_SAMPLE) if pays or not can_do_without_losses(standing.select) else 0


def _affordable(standing: Standing, amount: Any) -> float:
    """How many examples can be measured in SCORING_SHARE of the time that this round trains."""
    config, state = standing.session.config, standing.state
    examples = amount.amount if amount.unit == "examples" else amount.amount / state.tokens[state.rows].mean()
    if config.train.mode == "retrain":
        examples += len(standing.history.all_picked())
    return affordable(config.train.epochs * examples, _passes_of_measuring(standing))


def _passes_of_measuring(standing: Standing) -> float:
    """Forward passes over an example that measuring it takes: responses once more where noise is looked for."""

    if not scoring.looks_for_noise(standing.session.config, standing.history.adapter()):
        return 1.0
    table, rows = TokenTable.open(standing.prepared.tokens.path), standing.state.rows
    return 1.0 + float(np.asarray(table.target_counts)[rows].sum() / np.asarray(table.lengths)[rows].sum())


def affordable(trained: float, passes: float) -> float:
    """How many examples can be measured, in so many forward passes each, in SCORING_SHARE of the time of training on `trained`."""
    return SCORING_SHARE * trained / (FORWARD_COST * passes)


def sample_per_cluster(examples: float, clusters: int) -> int:
    """How many of each cluster `examples` are; at most 8."""
    return int(min(examples / max(clusters, 1), 8))


def score_target(standing: Standing) -> Artifact | None:
    """Measure the target where a score or a picker looks at it; None otherwise."""

    session, target = standing.session, standing.prepared.target
    by_score = needs(session.config.score.by, *session.config.score.also) & TARGETED
    by_picker = aims(standing.select) and measures(standing.select)
    if target is None or not (by_score or by_picker):
        return None
    if not needs_losses(standing.select, standing.number):
        return None  # nothing of the pool is measured that could be compared
    adapter = standing.history.adapter()
    return scoring.score_target(session, target.artifact, target.tokens, adapter, target.rows, standing.number)


def score_shortlist(standing: Standing, scored: Scored, amount: Any) -> Artifact:
    """Measure what the picker must know inside its quotas and the sample did not cover, or what it would pick is looked at for."""

    session, state = standing.session, standing.state
    chooser = candidates_for(standing, scored)
    quotas = quotas_for(standing, scored, amount)
    look_at = _picks_looked_at(standing, scored, amount)
    wanted = state.rows[shortlist(chooser, quotas, standing.select, standing.seed, look_at)]
    rows = np.setdiff1d(wanted, statistics_of(scored.sample)["row"])
    adapter = standing.history.adapter()
    return scoring.score(session, standing.prepared.tokens, adapter, rows, standing.number, "score shortlist")


def _picks_looked_at(standing: Standing, scored: Scored, amount: Any) -> int:
    """How many picks are measured before they are made, to see whether they are suspected noise (`noise.look`)."""
    config, adapter = standing.session.config, standing.history.adapter()
    noise = config.noise
    if not scoring.looks_for_noise(config, adapter) or not noise.hold or noise.look == "measured":
        return 0
    if noise.look == "picks":
        return len(standing.state.keys)
    sampled = scored.sample.json("score.json")["examples"]
    left = max(0, int(_affordable(standing, amount)) - sampled)
    looked_at, share = suspected_share(standing.history, scored.suspects)
    return left if share >= NOISY else (0 if looked_at else first_look(left))


def first_look(affordable: float) -> int:
    """How many picks are looked at where nothing was measured that could tell how much noise there is."""
    return int(min(affordable, FIRST_LOOK))


def quotas_for(standing: Standing, scored: Scored, amount: Any) -> Any:
    """Quotas from the losses of the sample alone: what a picker wants measured is no random part of a cluster."""

    before = replace(scored, shortlist=None)
    chooser = candidates_for(standing, before)
    past = past_rounds(standing.history, standing.state, amount.unit)
    return allocate(chooser, amount, standing.select, standing.seed, past, _distinctness(standing))


def _distinctness(standing: Standing) -> float:
    """How far this round's clusters are kinds of example, 0 to 1."""

    return distinctness(standing.clusters.json("clusters.json")["quality"]["silhouette"])


def _columns(standing: Standing, scored: Scored) -> dict[str, np.ndarray]:
    return measured_columns(
        standing.session, standing.prepared, standing.state, scored.of_the_pool, scored.aims, standing.history
    )


def candidates_for(standing: Standing, scored: Scored) -> Any:
    """The selectable rows as `selection` takes them."""

    state, columns = standing.state, _columns(standing, scored)
    rows = state.rows
    return Candidates(
        keys=state.keys[rows],
        cluster=state.cluster[rows],
        tokens=state.tokens[rows].astype(np.int32),
        score=compute(standing.session.config.score.by, columns)[rows],
        loss=columns["nll_mean"][rows],
        confidence=columns["top_mean"][rows],
        suspect=_suspect(standing, scored)[rows],
        vectors=vectors_of(standing.select, standing.prepared, rows, scored.of_the_pool, scored.aims, standing.history),
    )


def _suspect(standing: Standing, scored: Scored) -> np.ndarray:
    """(n,) bool over the pool: held back as suspected noise."""
    noise = standing.session.config.noise
    ids = (
        np.asarray(standing.prepared.open_pool().ids)
        if noise.release
        else np.empty(len(standing.state.keys), dtype="U1")
    )
    return held_back(scored.suspects, standing.state.keys, ids, noise.hold, noise.release)


def select(standing: Standing, scored: Scored, amount: Any) -> Artifact:
    """Allocate quotas over clusters and pick inside them.

    Publishes `selection.parquet` (every example of the pool with its outcome), `selection.jsonl` (the picked conversations with
    reasons), `picked.npy` (keys, in pick order) and `quotas.json`.
    """
    session, prepared, history = standing.session, standing.prepared, standing.history
    config = session.config
    params = {
        "select": standing.select.model_dump(mode="json"),
        "score": {"by": config.score.by, "also": config.score.also, "quality": config.score.quality},
        "before": [artifact.fingerprint for _, artifact, _ in scored_before(history)],
        "seed": config.seed,
        "round": standing.number,
        "noise": config.noise.model_dump(mode="json"),
        "budget": {"unit": amount.unit, "amount": amount.amount},
        "trained": rows_digest(find_rows(standing.state.keys, history.all_picked())),
        **_removed_before(standing),
    }

    def build(out: Path, scratch: Path) -> None:

        quotas = quotas_for(standing, scored, amount)
        picks = pick(candidates_for(standing, scored), quotas, amount, standing.select, standing.seed)
        columns = _columns(standing, scored)
        scores = computable(columns, scoring.measurements(session) | {"tokens"})
        write_selection(out, standing, columns, scores, picks, reasons(scored.suspects, standing.state.keys))
        write_quotas(out, standing, quotas, picks)

    return session.run.stage(
        "selection",
        version=4,
        params=params,
        build=build,
        label="select",
        inputs={
            "sample": scored.sample,
            "suspects": scored.suspects,
            "shortlist": scored.shortlist,
            "clusters": standing.clusters,
            "split": prepared.split,
            "groups": prepared.groups,
            "tokens": prepared.tokens,
            "embeddings": prepared.embeddings,
            "aims": scored.aims,
            "target": prepared.target.artifact if prepared.target else None,
            **role(prepared.cleaned),
        },
    )


def late_holdout(session: Session, prepared: Prepared, history: History) -> list[str]:
    """What to tell of an adapter that goes on although it has learned what was held out, or nearly so, only after."""
    if session.config.train.mode != "continue":
        return []
    rows = find_rows(prepared.open_pool().keys, history.all_picked())
    late = int((np.load(prepared.split.path / "split.npy")[rows] != POOL).sum())
    if not late:
        return []
    return [
        f"{late:,} examples that earlier rounds trained on are by now held out, or nearly in what is held out, and the adapter goes "
        "on from them: its figures flatter it; train.mode=retrain leaves them out"
    ]


def _removed_before(standing: Standing) -> dict[str, str]:
    """A parameter that names what earlier reviews removed; none where none did."""
    removed = np.flatnonzero(np.isin(standing.state.outcome, [CODE["dropped_in_review"], CODE["banned_in_review"]]))
    return {"removed": rows_digest(removed)} if len(removed) else {}


def training_rows(session: Session, prepared: Prepared, selection: Artifact, history: History) -> np.ndarray:
    """Pool rows that this round trains on: its picks, plus replayed or all earlier ones as `train.mode` says."""
    keys = prepared.open_pool().keys
    picked, earlier = np.load(selection.path / "picked.npy"), history.all_picked()
    split = np.load(prepared.split.path / "split.npy")  # nor is what a holdout that came later holds, or nearly so
    earlier = np.setdiff1d(earlier, keys[split != POOL], assume_unique=True)
    if prepared.target is not None:  # a target that came later: what it holds is not trained on again
        earlier = np.setdiff1d(earlier, keys[prepared.target.excluded], assume_unique=True)
    if prepared.cleaned is not None:  # nor what was asked to be left out since
        earlier = np.setdiff1d(earlier, keys[~wanted(prepared.cleaned, len(keys))], assume_unique=True)
    reviews = history.then({"selection": selection})
    for _, removed in removed_in_reviews(prepared.open_pool(), reviews, session.config.review.forget):
        earlier = np.setdiff1d(earlier, keys[removed], assume_unique=True)
    if session.config.train.mode == "continue":
        count = min(len(earlier), round(session.config.train.replay * len(picked)))
        rng = np.random.default_rng([session.config.seed, history.number, 0x2E91A7])
        earlier = rng.choice(earlier, size=count, replace=False) if count else earlier[:0]
    return find_rows(keys, np.concatenate([picked, earlier]))
