"""The round, as drawn:

    adapter k-1 ──score──▶ statistics ──select──▶ selection ──pack──▶ packs ──train──▶ adapter k ──evaluate──▶ metrics ──▶ report, folder
                                          │          └─(review)
                                          └─────▶ random picks ─────▶ packs ──train──▶ control k ──evaluate──▶ metrics ──┘

Every line below is one arrow. A stage whose artifact is published is not run again, so `run_round` after a crash continues after
the last published stage.
"""

from __future__ import annotations

from typing import Any

from al.budget import BudgetRequest
from al.choosing import control
from al.choosing import stage as selecting
from al.choosing.adapt_clusters import adapt_clusters
from al.choosing.scored import MeasuredPool, Scored
from al.evaluation import generations
from al.evaluation.answering import answer
from al.evaluation.asked import ask_holdout
from al.evaluation.stage import evaluate
from al.lineage.artifacts import Keep, RoundArtifacts
from al.lineage.history import CONTROL, SELECTED, History
from al.lineage.round_state import RoundState
from al.lineage.training_rows import late_holdout, training_rows
from al.planning.forecast import forecast
from al.planning.needs import require
from al.preparation.groups import groups_notices
from al.preparation.grown_clusters import growth_notices
from al.preparation.projection import for_the_report
from al.preparation.sources import check_sources, sources_notices
from al.preparation.stages import Prepared, as_dict, prepare
from al.preparation.target import target_notices
from al.release.stage import publish_adapter
from al.report.publish import publish_report
from al.report.reading.verdict import nll_metric
from al.review.apply import Proposed, take_answers
from al.review.ask import Asking, settle
from al.round import train as stages
from al.round.standing import with_control_decided
from al.round.throughput import resolve_budget
from al.round.warmup import warmed_up
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.session import Session
from al.scoring import stage as scoring
from al.scoring.hidden_states import hidden_states
from al.scoring.noise import find_suspects
from selection.strategy import Budget

TITLES = {"base": "base", "previous": "previous round", "selected": "this round", "control": "control"}


def run_round(
    session: Session, budget: BudgetRequest, number: int, asking: Asking | None = None
) -> dict[str, Any] | None:
    """Run round `number`, or what is left of it, and return its summary; None where it stops before training, as `asking` says."""
    run, config = session.run, session.config
    require(session.config, run.path)
    check_sources(session)
    stages.check_continued(config, continued(session, History.recorded(run, SELECTED, number)))
    scoring.measurements(session)
    ours, theirs = (History.recorded(run, lineage, number).on(config) for lineage in (SELECTED, CONTROL))
    take_answers(session, number)
    rounds.open_round(run, number, budget.text, config.model_dump(mode="json"))
    run.event("round.started", round=number)
    config, decisions = with_control_decided(config, run, number)
    session = session.with_config(config)
    done = RoundArtifacts(session, number)

    prepared = prepare(session, number)
    for role, artifact in as_dict(prepared).items():
        done.keep(role, artifact)
    notices = decisions + (
        sources_notices(session)
        + target_notices(prepared.target)
        + groups_notices(session.config, prepared.clusters)
        + growth_notices(prepared.clusters)
    )
    for line in notices + late_holdout(session, prepared, ours):
        session.tell(f"note: {line}")
    previous = ours.adapter()
    if number > 1 and previous is None:
        session.tell(
            "note: the base is another one than in the round before, so that round's adapter is neither used nor evaluated"
        )

    done.keep("plan", forecast(session, prepared, budget, number))
    resolved = resolve_budget(session, prepared, budget, done)
    proposed = propose(session, prepared, ours, resolved, done.keep)
    selection = settle(proposed, asking or Asking(), done.keep)
    if selection is None:
        return None
    if config.control:
        adapter = train_both(session, prepared, ours, theirs, selection, done.keep)
    else:
        adapter = train_lineage(session, prepared, ours, selection, None, done.keep)

    models = {"base": None} | ({"previous": previous} if previous is not None else {}) | {"selected": adapter}
    models |= {"control": done.roles["control.train"]} if config.control else {}
    for name, model in models.items():
        done.keep(f"evaluate.{name}", evaluate(session, prepared, model, f"evaluate {TITLES[name]}"))
    generate_answers(session, prepared, ours, adapter, done.roles.get("control.train"), done.keep)
    asked = ask_holdout(session, prepared)
    for name, model in models.items() if asked.ids else ():
        done.keep(f"answers.{name}", answer(session, asked, model, f"answer {TITLES[name]}"))

    for role, artifact in for_the_report(session, prepared, done.roles["clusters"], number).items():
        done.keep(role, artifact)
    summary = publish_report(session, prepared, done.roles, budget, number)
    done.keep(rounds.ADAPTER, publish_adapter(session, prepared, done.roles, number))
    rounds.finish_round(run, number)
    run.event("round.finished", round=number)
    return summary


def propose(session: Session, prepared: Prepared, history: History, budget: Budget, keep: Keep) -> Proposed:
    """Score and select for the round that follows `history`; every artifact goes through `keep` by role."""
    clusters = keep("clusters", adapt_clusters(session, prepared, history))
    state = warmed_up(RoundState(session, prepared, history, clusters, budget), keep)
    sample = keep("score", selecting.measure_sample(state))
    aims = selecting.measure_target(state)
    if aims is not None:
        keep("score.target", aims)
    states = hidden_states(state)
    if states is not None:
        keep("hidden_states", states)
    measured = MeasuredPool(state, (sample,), aims, states)
    scored = Scored(state, measured, measured, find_suspects(state, [sample]))
    shortlist = keep("shortlist", selecting.measure_shortlist(scored))
    scored = scored.with_shortlist(shortlist, keep("suspects", find_suspects(state, [sample, shortlist])))
    return Proposed(scored, keep("selection", selecting.select(scored)))


def generate_answers(
    session: Session, prepared: Prepared, history: History, adapter: Artifact, control: Artifact | None, keep: Keep
) -> None:
    """Answers of the base, of this round's adapter and of the control's to a few dev prompts, and those of the round before."""
    before = history.last("generations.selected")
    rows = generations.choose_prompts(session, prepared, before)
    if len(rows):
        keep("generations.base", generations.generate(session, prepared, None, rows, "generate base"))
        if before is not None:
            keep("generations.previous", before)
        keep("generations.selected", generations.generate(session, prepared, adapter, rows, "generate this round"))
        if control is not None:
            keep("generations.control", generations.generate(session, prepared, control, rows, "generate control"))


def train_lineage(
    session: Session, prepared: Prepared, history: History, selection: Artifact, steps: int | None, keep: Keep
) -> Artifact:
    """Pack and train a lineage's picks of this round: on the adapter before, with replay, or from scratch on all picks so far."""
    training = _packed(session, prepared, history, selection, steps, keep)
    return keep(f"{history.lineage.prefix}train", training.publish())


def at_once(session: Session) -> bool:
    """Whether selection and control train at the same time: if there are workers for both, and the number of the control's steps is known
    before; with `train.patience` it is not."""
    return not session.config.train.patience and session.engine.size(session.config) > 1


def train_both(
    session: Session, prepared: Prepared, ours: History, theirs: History, selection: Artifact, keep: Keep
) -> Artifact:
    """Train the selected lineage and the control, `at_once` or one after the other; returns the selected adapter."""
    selected = _packed(session, prepared, ours, selection, None, keep)
    adapter = None if at_once(session) else keep("train", selected.publish())
    picks = keep("control.selection", control.random_picks(session, prepared, ours, selection, theirs))
    random = _packed(session, prepared, theirs, picks, None, keep)
    steps = control.control_steps(random.planned_steps(), adapter, selected.planned_steps())
    if steps is not None:
        random = _packed(session, prepared, theirs, picks, steps, keep)
    if adapter is None:
        adapter = keep("train", selected.publish(alongside=random))
    keep("control.train", random.publish())
    return adapter


def _packed(
    session: Session, prepared: Prepared, history: History, selection: Artifact, steps: int | None, keep: Keep
) -> stages.Training:
    lineage, rows = history.lineage, training_rows(session, prepared, selection, history)
    packs = keep(f"{lineage.prefix}packs", stages.plan_packs(session, prepared, rows, lineage))
    return stages.Training(session, prepared, packs, continued(session, history), history.number, lineage, steps)


def continued(session: Session, history: History) -> Artifact | None:
    """The adapter that the round's training continues, or None."""
    return history.last("train") if session.config.train.mode == "continue" else None


def gained(summary: dict[str, Any]) -> bool:
    """Whether this round's dev loss fell significantly below the round before (95% interval of NLL below zero)."""
    found = summary["dev"]["differences"]
    difference = found.get("selected - previous") or found.get("selected - base")
    return difference is not None and bool(difference[nll_metric(summary)]["high"] < 0)
