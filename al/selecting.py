"""From statistics to a selection: who may be picked, what must be measured, who is picked, and why everybody else is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al import rounds, scoring, stages
from al.artifacts import Artifact, write_json
from al.candidates import CODE, OUTCOMES, PoolState, candidates, find_rows, picked_keys
from al.columns import measured_columns, nll_of, quality_column, scored_before, statistics_of
from al.pool.store import Pool
from al.prepare import Prepared
from al.session import Session
from al.stages import CONTROL, SELECTED, Lineage
from selection.scores import TARGETED, computable


def score_sample(
    session: Session, prepared: Prepared, previous: Artifact | None, state: PoolState, number: int
) -> Artifact:
    """Measure the stratified sample per cluster that sets the quotas; nothing, if the strategy looks at no loss."""
    from selection.sample import stratified_sample
    from selection.strategy import needs_losses

    config = session.config
    eligible = (state.outcome == CODE["selectable"]) & needs_losses(config.select)
    if "quality" in scoring.measurements(session):
        quality_column(session, prepared, state)  # a column that is not there is told before anything is measured
    rows = stratified_sample(
        state.cluster, state.keys, eligible, config.score.sample_per_cluster, (config.seed, number)
    )
    return scoring.score(session, prepared.tokens, previous, np.sort(rows), number, "score sample")


def score_target(session: Session, prepared: Prepared, previous: Artifact | None, number: int) -> Artifact | None:
    """Measure the target where a score looks at it; None otherwise."""
    from selection.strategy import needs_losses

    if prepared.target is None or not scoring.measurements(session) & TARGETED:
        return None
    if not needs_losses(session.config.select):
        return None  # nothing of the pool is measured that could be compared
    target = prepared.target
    return scoring.score_target(session, target.artifact, target.tokens, previous, target.rows, number)


def score_shortlist(
    session: Session,
    prepared: Prepared,
    previous: Artifact | None,
    state: PoolState,
    sample: Artifact,
    aims: Artifact | None,
    amount: Any,
    number: int,
) -> Artifact:
    """Measure what the picker must know inside its quotas and the sample did not cover."""
    from selection.strategy import allocate, shortlist

    chooser = _candidates_for(session, state, measured_columns(session, prepared, state, [sample], aims, number))
    seed = (session.config.seed, number)
    quotas = allocate(chooser, amount, session.config.select, seed)
    wanted = state.rows[shortlist(chooser, quotas, session.config.select, seed)]
    rows = np.setdiff1d(wanted, statistics_of(sample)["row"])
    return scoring.score(session, prepared.tokens, previous, rows, number, "score shortlist")


def _candidates_for(session: Session, state: PoolState, columns: Mapping[str, np.ndarray]) -> Any:
    """The selectable rows as `selection` takes them."""
    from selection.scores import compute
    from selection.strategy import Candidates

    rows = state.rows
    return Candidates(
        keys=state.keys[rows],
        cluster=state.cluster[rows],
        tokens=state.tokens[rows].astype(np.int32),
        score=compute(session.config.score.by, columns)[rows],
        loss=columns["nll_mean"][rows],
    )


def select(
    session: Session,
    prepared: Prepared,
    state: PoolState,
    sample: Artifact,
    shortlist: Artifact,
    aims: Artifact | None,
    amount: Any,
    number: int,
) -> Artifact:
    """Allocate quotas over clusters and pick inside them.

    Publishes `selection.parquet` (every example of the pool with its outcome), `selection.jsonl` (the picked conversations with
    reasons), `picked.npy` (keys, in pick order) and `quotas.json`.
    """
    config = session.config
    params = {
        "select": config.select.model_dump(mode="json"),
        "score": {"by": config.score.by, "also": config.score.also, "quality": config.score.quality},
        "before": [artifact.fingerprint for artifact, _ in scored_before(session, number)]
        if "history" in scoring.measurements(session)
        else [],
        "seed": config.seed,
        "round": number,
        "budget": {"unit": amount.unit, "amount": amount.amount},
        "trained": stages.rows_digest(np.flatnonzero(state.trained_round)),
    }

    def build(out: Path, scratch: Path) -> None:
        from selection.strategy import allocate
        from selection.strategy import select as pick

        seed = (config.seed, number)
        columns = measured_columns(session, prepared, state, [sample, shortlist], aims, number)
        quotas = allocate(
            _candidates_for(session, state, columns | {"nll_mean": nll_of(sample, state)}), amount, config.select, seed
        )
        picks = pick(_candidates_for(session, state, columns), quotas, amount, config.select, seed)
        scores = computable(columns, scoring.measurements(session) | {"tokens"})
        _write_selection(out, prepared, state, columns, scores, picks)
        _write_quotas(out, prepared, state, quotas, picks)

    return session.run.stage(
        "selection",
        version=2,
        params=params,
        build=build,
        label="select",
        inputs={
            "sample": sample,
            "shortlist": shortlist,
            "clusters": prepared.clusters,
            "split": prepared.split,
            "groups": prepared.groups,
            "tokens": prepared.tokens,
            "aims": aims,
            "target": prepared.target.artifact if prepared.target else None,
        },
    )


def _write_selection(
    out: Path,
    prepared: Prepared,
    state: PoolState,
    columns: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    picks: Any,
) -> None:
    n, rows = len(state.keys), state.rows
    pool = prepared.open_pool()
    groups = pq.read_table(prepared.groups.path / "groups.parquet")
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


def _write_quotas(out: Path, prepared: Prepared, state: PoolState, quotas: Any, picks: Any) -> None:
    names = prepared.clusters.json("clusters.json")["names"]
    rows = state.rows
    k = len(names)
    picked = rows[picks.picked]
    size, free = np.bincount(state.cluster, minlength=k), np.bincount(state.cluster[rows], minlength=k)
    count = np.bincount(state.cluster[picked], minlength=k)
    tokens = np.bincount(state.cluster[picked], weights=state.tokens[picked], minlength=k)
    entries = []
    for c in range(k):
        known = c < len(quotas.quota)
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
                "quota": int(quotas.quota[c]) if known else 0,
                "picked": int(count[c]),
                "tokens": int(tokens[c]),
                "reason": quotas.reason[c] if known else "no selectable example",
            }
        )
    write_json(out / "quotas.json", entries)


def random_picks(session: Session, prepared: Prepared, roles: dict[str, Artifact], number: int) -> Artifact:
    """The control's picks: as many as the selected lineage has so far, less the control's own earlier ones, at random."""
    from selection.strategy import Budget

    state = candidates(session, prepared, number, CONTROL)
    unit = roles["selection"].manifest["params"]["budget"]["unit"]
    ours = sum(_spent(session, prepared, state, SELECTED, unit, n) for n in range(1, number + 1))
    theirs = sum(_spent(session, prepared, state, CONTROL, unit, n) for n in range(1, number))
    amount = Budget(unit=unit, amount=max(1, ours - theirs))
    params = {
        "seed": session.config.seed,
        "round": number,
        "budget": {"unit": unit, "amount": amount.amount},
        "trained": stages.rows_digest(np.flatnonzero(state.trained_round)),
    }

    def build(out: Path, scratch: Path) -> None:
        rows = draw_random(session, state, amount, number)
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


def _spent(session: Session, prepared: Prepared, state: PoolState, lineage: Lineage, unit: str, number: int) -> int:
    keys = picked_keys(session, number, lineage)
    return len(keys) if unit == "examples" else int(state.tokens[find_rows(state.keys, keys)].sum())


def control_steps(session: Session, number: int) -> int:
    """Optimizer steps the control trains in round `number`, so that both lineages have taken the same number in all."""

    def steps(n: int, role: str) -> int:
        artifact = rounds.recorded(session.run, n, role)
        return int(artifact.json("train.json")["steps"]) if artifact else 0

    if session.config.train.mode == "retrain":
        return steps(number, "train")
    return max(
        1,
        sum(steps(n, "train") for n in range(1, number + 1)) - sum(steps(n, "control.train") for n in range(1, number)),
    )


def training_rows(
    session: Session, prepared: Prepared, selection: Artifact, lineage: Lineage, number: int
) -> np.ndarray:
    """Pool rows that this round trains on: its picks, plus replayed or all earlier ones as `train.mode` says."""
    keys = prepared.open_pool().keys
    picked = np.load(selection.path / "picked.npy")
    earlier = np.concatenate(
        [picked_keys(session, n, lineage) for n in range(1, number)] or [np.empty(0, dtype=np.uint64)]
    )
    if prepared.target is not None:  # a target that came later: what it holds is not trained on again
        earlier = np.setdiff1d(earlier, keys[prepared.target.excluded], assume_unique=True)
    if session.config.train.mode == "continue":
        count = min(len(earlier), round(session.config.train.replay * len(picked)))
        rng = np.random.default_rng([session.config.seed, number, 0x2E91A7])
        earlier = rng.choice(earlier, size=count, replace=False) if count else earlier[:0]
    return find_rows(keys, np.concatenate([picked, earlier]))
