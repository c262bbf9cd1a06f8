"""The round, as drawn:

    adapter k-1 ──score──▶ statistics ──select──▶ selection ──pack──▶ packs ──train──▶ adapter k ──evaluate──▶ metrics ──▶ report
                                          └─────▶ random picks ─────▶ packs ──train──▶ control k ──evaluate──▶ metrics ──┘

Every line below is one arrow. A stage whose artifact is published is not run again, so calling `run_round` after a crash goes on
where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from al import rounds, scoring, selecting, stages
from al.artifacts import Artifact
from al.budget import BudgetRequest
from al.candidates import candidates
from al.evaluate import evaluate
from al.prepare import Prepared, as_dict, prepare
from al.report.publish import publish_report
from al.session import Session
from al.speed import resolve_budget
from al.stages import CONTROL, SELECTED, Lineage


@dataclass
class RoundArtifacts:
    """What a round has published so far, by role; every entry is recorded in the run as it appears."""

    session: Session
    number: int
    roles: dict[str, Artifact] = field(default_factory=dict)

    def keep(self, role: str, artifact: Artifact) -> Artifact:
        """Record `artifact` under `role` and return it."""
        self.roles[role] = artifact
        rounds.record(self.session.run, self.number, role, artifact)
        return artifact


def run_round(session: Session, budget: BudgetRequest, number: int) -> dict[str, Any]:
    """Run round `number`, or what is left of it, and return its summary."""
    run, config = session.run, session.config
    session.check_machine()
    scoring.measurements(session)
    rounds.open_round(run, number, budget.text, config.model_dump(mode="json"))
    done = RoundArtifacts(session, number)

    prepared = prepare(session, number)
    for role, artifact in as_dict(prepared).items():
        done.keep(role, artifact)
    previous = rounds.required(run, number - 1, "train") if number > 1 else None

    amount = resolve_budget(session, prepared, budget, done)
    state = candidates(session, prepared, number)
    sample = done.keep("score", selecting.score_sample(session, prepared, previous, state, number))
    aims = selecting.score_target(session, prepared, previous, number)
    if aims is not None:
        done.keep("score.target", aims)
    shortlist = done.keep(
        "shortlist", selecting.score_shortlist(session, prepared, previous, state, sample, aims, amount, number)
    )
    selection = done.keep(
        "selection", selecting.select(session, prepared, state, sample, shortlist, aims, amount, number)
    )

    adapter = _train_lineage(session, prepared, selection, SELECTED, done, steps=None)
    if config.control:
        picks = done.keep("control.selection", selecting.random_picks(session, prepared, done.roles, number))
        steps = selecting.control_steps(session, number)
        _train_lineage(session, prepared, picks, CONTROL, done, steps=steps)

    done.keep("evaluate.base", evaluate(session, prepared, None, "evaluate base"))
    if previous is not None:
        done.keep("evaluate.previous", evaluate(session, prepared, previous, "evaluate previous round"))
    done.keep("evaluate.selected", evaluate(session, prepared, adapter, "evaluate this round"))
    if config.control:
        done.keep("evaluate.control", evaluate(session, prepared, done.roles["control.train"], "evaluate control"))

    summary = publish_report(session, prepared, done.roles, budget, number)
    rounds.finish_round(run, number)
    return summary


def _train_lineage(
    session: Session, prepared: Prepared, selection: Artifact, lineage: Lineage, done: RoundArtifacts, steps: int | None
) -> Artifact:
    """Pack and train one lineage's picks of this round: on the adapter before, with replay, or anew on all picks so far."""
    prefix = "" if lineage is SELECTED else "control."
    continued = session.config.train.mode == "continue"
    before = rounds.recorded(session.run, done.number - 1, f"{prefix}train") if continued and done.number > 1 else None
    rows = selecting.training_rows(session, prepared, selection, lineage, done.number)
    packs = done.keep(f"{prefix}packs", stages.pack(session, prepared, rows, lineage))
    return done.keep(f"{prefix}train", stages.train(session, prepared, packs, before, done.number, lineage, steps))


def next_round_number(session: Session) -> int:
    """The first unfinished round's number, or that of a new one."""
    unfinished, last = rounds.unfinished_round(session.run), rounds.last_round(session.run)
    if unfinished is not None:
        return unfinished.number
    return last.number + 1 if last is not None else 1


def gained(summary: dict[str, Any]) -> bool:
    """Whether this round's dev loss fell significantly below the round before (95% interval of macro NLL below zero)."""
    difference = (
        summary["dev"]["differences"].get("selected - previous") or summary["dev"]["differences"]["selected - base"]
    )
    return bool(difference["macro_nll"]["high"] < 0)
