"""Rounds that stop for a review: parts of the commands `round` and `review`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from al.budget import BudgetRequest, parse_budget
from al.commands.options import Options
from al.commands.summary import with_paths
from al.config import parse
from al.errors import RunStateError
from al.program import PROGRAM
from al.review.ask import Asking, summary_line
from al.round.loop import run_round
from al.run import rounds
from al.run.progress import stop_on_signals
from al.run.session import Session
from al.run.store import Run


def play_round(session: Session, request: BudgetRequest, number: int, asking: Asking) -> dict[str, Any]:
    """Run a round with the review options `asking`. Returns its summary with the page's path, or where it stopped for a review."""
    summary = run_round(session, request, number, asking)
    document = stopped(session, number, asking) if summary is None else with_paths(session.run.path, summary)
    if asking.desk is not None:
        asking.desk.finished = document.get("report_path") or "the decision is recorded"
    return document


def stopped(session: Session, number: int, asking: Asking) -> dict[str, Any]:
    """The document of a round that stopped for a review before training."""
    path, reviewed = session.run.path, rounds.recorded(session.run, number, "decision")
    exported = str(asking.export) if asking.export else None
    changes = summary_line(rounds.required(session.run, number, "selection")) if reviewed and not exported else None
    go_on = ["review", "--run", str(path), "--approve", exported] if exported else ["resume", "--run", str(path)]
    return {
        "run": str(path),
        "round": number,
        "exported": exported,
        "review": changes,
        "next": f"{PROGRAM} {shlex.join(go_on)}",
    }


def review(options: Options, port: int, approve: Path | None = None) -> dict[str, Any]:
    """Serve the review page of the open round's proposal, or read the decision from the file `approve`, and record it; `resume` then
    trains.

    Raises:
        RunStateError: no round is open, it has no proposal yet, or it is already trained.
    """
    path = options.existing_run()
    Run.read(path).close()
    stop_on_signals()
    how = Asking(page=approve is None, again=True, approve=approve, go_on=False, port=port)
    with Run.create_or_open(path) as run, how as asking:
        last = rounds.unfinished_round(run)
        known = rounds.roles(run, last.number) if last is not None else {}
        if "selection" not in known:
            state = "no round is open" if last is None else f"round {last.number} has no selection yet"
            raise RunStateError(
                f"{path}: nothing to review, {state}. `{PROGRAM} round --run {path} --budget N --review` stops after its selection."
            )
        if "train" in known:
            raise RunStateError(
                f"{path}: round {last.number} is already trained; `{PROGRAM} resume --run {path}` finishes it."
            )
        session = Session(run, parse(last.config, f"{path}/run.db"), quiet=options.as_json)
        return play_round(session, parse_budget(last.budget), last.number, asking)
