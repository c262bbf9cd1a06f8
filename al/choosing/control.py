"""The control: as many examples picked at random, trained for as many epochs, on adapters of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from al.cleaning.stage import role
from al.lineage.history import History
from al.lineage.outcomes import CODE, PoolState, candidates, find_rows, removed_in_reviews
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact, write_json
from al.run.rows import rows_digest
from al.run.session import Session
from selection.config import SelectConfig
from selection.strategy import Budget, Candidates, allocate, select


def random_picks(session: Session, prepared: Prepared, ours: History, selection: Artifact, theirs: History) -> Artifact:
    """The control's picks: as many as the selected lineage has so far, less the control's own earlier ones, at random; none of what reviews
    dropped or banned."""
    state, removed = _reviewed(
        session, prepared, candidates(prepared, prepared.clusters, theirs), ours.then({"selection": selection})
    )
    unit = selection.manifest["params"]["budget"]["unit"]
    wanted = np.concatenate([ours.all_picked(), np.load(selection.path / "picked.npy")])
    amount = Budget(unit=unit, amount=max(1, _spent(state, wanted, unit) - _spent(state, theirs.all_picked(), unit)))
    params = {
        "seed": session.config.seed,
        "round": theirs.number,
        "budget": {"unit": unit, "amount": amount.amount},
        "trained": rows_digest(np.flatnonzero(state.trained_round)),
    }
    params |= {"removed": rows_digest(removed)} if len(removed) else {}

    def build(out: Path, scratch: Path) -> None:
        """Write `picked.npy` and `picked.json`."""
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
            **role(prepared.cleaned),
        },
    )


def _reviewed(session: Session, prepared: Prepared, state: PoolState, ours: History) -> tuple[PoolState, np.ndarray]:
    """The pool without what reviews of the selected lineage dropped or banned, and the rows of that: nobody wants these trained on."""
    outcome = state.outcome.copy()
    for name, rows in removed_in_reviews(prepared.open_pool(), ours, session.config.review.forget):
        outcome[rows & (outcome == CODE["selectable"])] = CODE[name]
    return replace(state, outcome=outcome), np.flatnonzero(outcome != state.outcome)


def draw_random(session: Session, state: PoolState, amount: Budget, number: int) -> np.ndarray:
    """Pool rows of `amount` drawn uniformly from the selectable ones; capped at all of them."""
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


def control_steps(planned: int, trained: Artifact | None, of: int) -> int | None:
    """Optimizer steps the control trains in this round; None: its own epochs, so that it sees each of its examples as often as the
    selection does, however many packs they fill. Where dev ended the selection early, the same part of its own.

    Args:
        planned: steps of the control's own epochs. trained: the selected adapter of this round, if it is known. of: steps that one planned.
    """
    if trained is None or not trained.json("train.json")["stopped_early"]:
        return None
    return max(1, round(planned * trained.json("train.json")["steps"] / of))
