"""From statistics to a selection: who may be picked, what must be measured, who is picked, and why everybody else is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al import scoring, stages
from al.artifacts import Artifact, write_json
from al.candidates import CODE, OUTCOMES, PoolState, candidates, find_rows
from al.columns import measured_columns, quality_column, scored_before, statistics_of
from al.lineage import History
from al.past import past_rounds
from al.pool.store import Pool
from al.prepare import Prepared
from al.session import Session
from al.suspects import held_back, reasons
from al.target import Target
from al.vectors import vectors_of
from selection.config import SelectConfig
from selection.scores import TARGETED, computable, needs


@dataclass(frozen=True)
class Standing:
    """Where a lineage stands at the start of a round. `clusters`: the clustering that this round uses."""

    session: Session
    prepared: Prepared
    history: History
    clusters: Artifact

    @property
    def number(self) -> int:
        """The round."""
        return self.history.number

    @property
    def seed(self) -> tuple[int, int]:
        """What random draws of this round belong to."""
        return self.session.config.seed, self.number

    @cached_property
    def select(self) -> SelectConfig:
        """The config's strategy; with a target the default one aims at it, if the pool holds its kind."""
        return aimed(self.session.config.select, self.prepared.target)

    @cached_property
    def state(self) -> PoolState:
        """Who may be picked."""
        return candidates(self.prepared, self.clusters, self.history)


def aimed(config: SelectConfig, target: Target | None) -> SelectConfig:
    """What the default strategy comes to with a target: nearest to it, or random if the pool does not hold its kind."""
    if target is None or config.strategy != "default" or config.allocation or config.picker:
        return config
    return config.model_copy(
        update={"strategy": "nearest" if target.artifact.json("target.json")["held"] else "random"}
    )


@dataclass(frozen=True)
class Scored:
    """What was measured for a round: the sample, what in it is suspected noise, the target (None: nothing looks at one), and the
    shortlist."""

    sample: Artifact
    suspects: Artifact
    aims: Artifact | None
    shortlist: Artifact | None = None

    @property
    def of_the_pool(self) -> list[Artifact]:
        """The measurements of pool examples."""
        return [self.sample] if self.shortlist is None else [self.sample, self.shortlist]


SCORING_SHARE = 1 / 9
"""sample_per_cluster auto: what scoring may take of the time of training."""
FORWARD_COST = 1 / 3
"""Of a forward pass, in passes of training."""


def score_sample(standing: Standing, amount: Any) -> Artifact:
    """Measure the stratified sample per cluster that sets the quotas; nothing, if the strategy looks at no loss."""
    from selection.sample import stratified_sample
    from selection.strategy import needs_losses

    session, prepared, state = standing.session, standing.prepared, standing.state
    eligible = (state.outcome == CODE["selectable"]) & needs_losses(standing.select, standing.number)
    if "quality" in scoring.measurements(session):
        quality_column(session, prepared, state)  # a column that is not there is told before anything is measured
    rows = stratified_sample(state.cluster, state.keys, eligible, _sample_size(standing, amount), standing.seed)
    adapter = standing.history.adapter()
    return scoring.score(session, prepared.tokens, adapter, np.sort(rows), standing.number, "score sample")


def _sample_size(standing: Standing, amount: Any) -> Any:
    """`score.sample_per_cluster`, or what auto comes to for this budget."""
    config, state = standing.session.config, standing.state
    if config.score.sample_per_cluster != "auto":
        return config.score.sample_per_cluster
    examples = amount.amount if amount.unit == "examples" else amount.amount / state.tokens[state.rows].mean()
    clusters = len(np.unique(state.cluster[state.rows]))
    return sample_per_cluster(examples, config.train.epochs, clusters)


def sample_per_cluster(examples: float, epochs: float, clusters: int) -> int:
    """How many of each cluster are measured so that it takes SCORING_SHARE of the time of training; 1 to 8."""
    return int(np.clip(SCORING_SHARE * epochs * examples / FORWARD_COST / max(clusters, 1), 1, 8))


def score_target(standing: Standing) -> Artifact | None:
    """Measure the target where a score or a picker looks at it; None otherwise."""
    from selection.strategy import aims, measures, needs_losses

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
    """Measure what the picker must know inside its quotas and the sample did not cover."""
    from selection.strategy import shortlist

    session, state = standing.session, standing.state
    chooser = _candidates_for(standing, scored)
    quotas = _quotas(standing, scored, amount)
    wanted = state.rows[shortlist(chooser, quotas, standing.select, standing.seed)]
    rows = np.setdiff1d(wanted, statistics_of(scored.sample)["row"])
    adapter = standing.history.adapter()
    return scoring.score(session, standing.prepared.tokens, adapter, rows, standing.number, "score shortlist")


def _quotas(standing: Standing, scored: Scored, amount: Any) -> Any:
    """Quotas from the sample alone, so that they are the same before and after the shortlist is measured."""
    from selection.cluster import distinctness
    from selection.strategy import allocate

    before = replace(scored, shortlist=None)
    chooser = _candidates_for(standing, before)
    past = past_rounds(standing.history, standing.state, standing.prepared.open_pool(), amount.unit)
    distinct = distinctness(standing.clusters.json("clusters.json")["quality"]["silhouette"])
    return allocate(chooser, amount, standing.select, standing.seed, past, distinct)


def _columns(standing: Standing, scored: Scored) -> dict[str, np.ndarray]:
    return measured_columns(
        standing.session, standing.prepared, standing.state, scored.of_the_pool, scored.aims, standing.history
    )


def _candidates_for(standing: Standing, scored: Scored) -> Any:
    """The selectable rows as `selection` takes them."""
    from selection.scores import compute
    from selection.strategy import Candidates

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
        "trained": stages.rows_digest(find_rows(standing.state.keys, history.all_picked())),
    }

    def build(out: Path, scratch: Path) -> None:
        from selection.strategy import select as pick

        quotas = _quotas(standing, scored, amount)
        picks = pick(_candidates_for(standing, scored), quotas, amount, standing.select, standing.seed)
        columns = _columns(standing, scored)
        scores = computable(columns, scoring.measurements(session) | {"tokens"})
        _write_selection(out, standing, columns, scores, picks, reasons(scored.suspects, standing.state.keys))
        _write_quotas(out, standing, quotas, picks)

    return session.run.stage(
        "selection",
        version=3,
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
        },
    )


def _write_selection(
    out: Path,
    standing: Standing,
    columns: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    picks: Any,
    suspicion: np.ndarray,
) -> None:
    state, rows = standing.state, standing.state.rows
    n, pool = len(state.keys), standing.prepared.open_pool()
    groups = pq.read_table(standing.prepared.groups.path / "groups.parquet")
    representative, cosine = groups["representative"].to_numpy(), groups["cosine"].to_numpy()
    outcome = state.outcome.copy()
    outcome[rows] = [CODE[name] for name in picks.outcome]
    picked = rows[picks.picked]
    order = np.full(n, -1, dtype=np.int64)
    order[picked] = np.arange(len(picked))
    why = np.full(n, None, dtype=object)
    why[picked] = picks.step
    stands_for = np.bincount(representative, minlength=n) - 1
    ids = np.asarray(pool.ids)
    table = pa.table(
        {
            "row": np.arange(n),
            "id": ids,
            "source": pool.sources,
            "cluster": state.cluster,
            "tokens": state.tokens,
            "outcome": pa.DictionaryArray.from_arrays(pa.array(outcome.astype(np.int8)), pa.array(OUTCOMES)),
            "pick": order,
            "why": why,
            "suspicion": pa.array(suspicion, type=pa.string()),
            "nll_total": columns["nll_total"],
            **{name: values for name, values in scores.items() if name != "length"},
            "representative": ids[representative],
            "representative_cosine": cosine,
            "stands_for": np.maximum(stands_for, 0),
            "trained_round": state.trained_round,
        }
    )
    pq.write_table(table, out / "selection.parquet")
    np.save(out / "picked.npy", state.keys[picked])
    _write_jsonl(out / "selection.jsonl", pool, picked, table, [name for name in scores if name != "length"])


def _write_jsonl(path: Path, pool: Pool, picked: np.ndarray, table: pa.Table, scores: list[str]) -> None:
    fields = (
        table.select(["id", "source", "cluster", "tokens", *scores, "stands_for", "why"])
        .take(pa.array(picked))
        .to_pylist()
    )
    with path.open("w", encoding="utf-8") as handle:
        for record, messages in zip(fields, pool.messages(picked), strict=True):
            clean = {key: None if value != value else value for key, value in record.items()}
            handle.write(json.dumps({**clean, "messages": messages}, ensure_ascii=False) + "\n")


def _write_quotas(out: Path, standing: Standing, quotas: Any, picks: Any) -> None:
    state, names = standing.state, standing.clusters.json("clusters.json")["names"]
    rows = state.rows
    k = len(names)
    picked = rows[picks.picked]
    size, free = np.bincount(state.cluster, minlength=k), np.bincount(state.cluster[rows], minlength=k)
    count = np.bincount(state.cluster[picked], minlength=k)
    tokens = np.bincount(state.cluster[picked], weights=state.tokens[picked], minlength=k)
    whole = len(quotas.quota) != len(quotas.loss_mean)  # a picker of the whole pool: no quotas by cluster
    entries = []
    for c in range(k):
        known = c < len(quotas.loss_mean)
        loss, error = (float(quotas.loss_mean[c]), float(quotas.loss_stderr[c])) if known else (np.nan, np.nan)
        entries.append(
            {
                "cluster": c,
                "name": names[c],
                "size": int(size[c]),
                "selectable": int(free[c]),
                "measured": int(quotas.measured[c]) if known else 0,
                "loss": loss if np.isfinite(loss) else None,
                "loss_stderr": error if np.isfinite(error) else None,
                "quota": int(count[c] if whole else quotas.quota[c]) if known else 0,
                "picked": int(count[c]),
                "tokens": int(tokens[c]),
                "reason": quotas.reason[0 if whole else c] if known else "no selectable example",
            }
        )
    write_json(out / "quotas.json", entries)


def random_picks(session: Session, prepared: Prepared, ours: History, selection: Artifact, theirs: History) -> Artifact:
    """The control's picks: as many as the selected lineage has so far, less the control's own earlier ones, at random."""
    from selection.strategy import Budget

    state = candidates(prepared, prepared.clusters, theirs)
    unit = selection.manifest["params"]["budget"]["unit"]
    wanted = np.concatenate([ours.all_picked(), np.load(selection.path / "picked.npy")])
    amount = Budget(unit=unit, amount=max(1, _spent(state, wanted, unit) - _spent(state, theirs.all_picked(), unit)))
    params = {
        "seed": session.config.seed,
        "round": theirs.number,
        "budget": {"unit": unit, "amount": amount.amount},
        "trained": stages.rows_digest(np.flatnonzero(state.trained_round)),
    }

    def build(out: Path, scratch: Path) -> None:
        rows = draw_random(session, state, amount, theirs.number)
        np.save(out / "picked.npy", state.keys[rows])
        write_json(out / "picked.json", {"examples": len(rows), "tokens": int(state.tokens[rows].sum())})

    return session.run.stage(
        "random",
        version=1,
        params=params,
        build=build,
        label="pick at random",
        inputs={
            "split": prepared.split,
            "groups": prepared.groups,
            "tokens": prepared.tokens,
            "target": prepared.target.artifact if prepared.target else None,
        },
    )


def draw_random(session: Session, state: PoolState, amount: Any, number: int) -> np.ndarray:
    """Pool rows of `amount` drawn uniformly from the selectable ones; capped at all of them."""
    from selection.config import SelectConfig
    from selection.strategy import Budget, Candidates, allocate, select

    rows = state.rows
    if amount.unit == "examples":
        amount = Budget(unit="examples", amount=min(amount.amount, len(rows)))
    blank = np.full(len(rows), np.nan)
    chooser = Candidates(
        keys=state.keys[rows],
        cluster=np.zeros(len(rows), np.int32),
        tokens=state.tokens[rows].astype(np.int32),
        score=blank,
        loss=blank,
    )
    config, seed = SelectConfig(strategy="random"), (session.config.seed, number, 0xC0)
    return rows[select(chooser, allocate(chooser, amount, config, seed), amount, config, seed).picked]


def _spent(state: PoolState, keys: np.ndarray, unit: str) -> int:
    return len(keys) if unit == "examples" else int(state.tokens[find_rows(state.keys, keys)].sum())


def control_steps(mode: str, ours: History, trained: Artifact, theirs: History) -> int:
    """Optimizer steps the control trains in this round, so that both lineages have taken the same number in all.

    `trained`: the selected lineage's adapter of this round.
    """

    def steps(*adapters: Artifact | None) -> int:
        return sum(int(artifact.json("train.json")["steps"]) for artifact in adapters if artifact)

    if mode == "retrain":
        return steps(trained)
    before = [entry.get("train") for entry in theirs.rounds]
    return max(1, steps(*(entry.get("train") for entry in ours.rounds), trained) - steps(*before))


def training_rows(session: Session, prepared: Prepared, selection: Artifact, history: History) -> np.ndarray:
    """Pool rows that this round trains on: its picks, plus replayed or all earlier ones as `train.mode` says."""
    keys = prepared.open_pool().keys
    picked, earlier = np.load(selection.path / "picked.npy"), history.all_picked()
    if prepared.target is not None:  # a target that came later: what it holds is not trained on again
        earlier = np.setdiff1d(earlier, keys[prepared.target.excluded], assume_unique=True)
    if session.config.train.mode == "continue":
        count = min(len(earlier), round(session.config.train.replay * len(picked)))
        rng = np.random.default_rng([session.config.seed, history.number, 0x2E91A7])
        earlier = rng.choice(earlier, size=count, replace=False) if count else earlier[:0]
    return find_rows(keys, np.concatenate([picked, earlier]))
