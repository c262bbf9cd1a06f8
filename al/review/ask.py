"""Where a round's decision comes from: no review, the page, a file, or a decision that is already recorded."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from al.errors import RunStateError
from al.excerpt import counted
from al.lineage.artifacts import Keep
from al.program import PROGRAM
from al.review.apply import Proposed, apply_decision, decided, record_decision
from al.review.decision import Decision
from al.review.desk import Desk
from al.review.draft import DRAFT, find_draft, save_draft, supersede_draft
from al.review.server import serve
from al.review.sheet import read_approval, write_batch
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.rounds import round_directory


@dataclass
class Asking:
    """The command line's options of a review.

    `page`: serve a page and wait. `again`: also if a decision is recorded. `export`: write the batch to this file and stop.
    `approve`: read the decision from this file. `auto`: do not ask, and set a decision on another proposal aside. `go_on`: train
    after the decision. Used as a context: a page is served until it ends.
    """

    page: bool = False
    again: bool = False
    export: Path | None = None
    approve: Path | None = None
    auto: bool = False
    go_on: bool = True
    port: int = 0
    desk: Desk | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def silent(self) -> bool:
        """Whether the round trains without asking."""
        return not (self.page or self.export or self.approve)


def settle(proposed: Proposed, asking: Asking, keep: Keep) -> Artifact | None:
    """The selection to train on: the proposal, or the proposal changed by a decision. None if the round stops here.

    Raises:
        RunStateError: the recorded decision is on another proposal. DataError, SelectionError: it cannot be applied.
    """
    recorded = _recorded(proposed, asking)
    if recorded is None and asking.silent:
        _note_unapproved(proposed, Decision(proposal=proposed.artifact.fingerprint))
        return proposed.artifact
    keep("proposal", proposed.artifact)
    if asking.export is not None:
        _export(proposed, asking.export, _kept_decision(proposed, recorded, keep))
        return None
    if recorded is not None and asking.approve is None and not asking.again:
        proposed.session.tell(f"review: the decision of {recorded.manifest['created']} is recorded and applied")
        _note_unapproved(proposed, decided(recorded))
    else:
        decision = _ask(proposed, asking, recorded)
        proposed.revised(decision)  # a decision that cannot be met is not recorded
        recorded = record_decision(proposed, decision)
        if note := supersede_draft(_folder(proposed), decided(recorded)):
            proposed.session.say(f"note: {note}")
    keep("decision", recorded)
    selection = keep("selection", apply_decision(proposed, recorded))
    if not asking.go_on:  # the command prints the changes as its result
        return None
    proposed.session.tell(f"review: {summary_line(selection)}")
    return selection


def _recorded(proposed: Proposed, asking: Asking) -> Artifact | None:
    """The recorded decision of this round on this proposal, or None."""
    run, number = proposed.session.run, proposed.number
    recorded = rounds.recorded(run, number, "decision")
    if recorded is None or recorded.manifest["inputs"]["proposal"] == proposed.artifact.fingerprint:
        return recorded
    if asking.auto:
        proposed.session.tell("review: the recorded decision is on another proposal; it is set aside (--auto)")
    if asking.auto or not asking.silent:
        for role in ("proposal", "decision"):
            rounds.unrecord(run, number, role)
        return None
    raise RunStateError(
        f"{run.path}: the decision recorded for round {number} is on another proposal; config, pool or budget changed since. "
        "Review the new proposal with `round --review`, or set the decision aside with `round --auto`."
    )


def review_folder(run: Path, number: int) -> Path:
    """`<run>/rounds/003/review`: the draft."""
    return round_directory(run, number) / "review"


def _folder(proposed: Proposed) -> Path:
    return review_folder(proposed.session.run.path, proposed.number)


def _note_unapproved(proposed: Proposed, decision: Decision) -> None:
    """Print a note about a draft that differs from the applied decision."""
    draft, _ = find_draft(_folder(proposed), proposed.artifact.fingerprint)
    if draft is not None and draft != decision:
        proposed.session.say(
            "note: a review on the page was not approved and is not applied (before training, "
            f"`{PROGRAM} review --run {proposed.session.run.path}` shows it again)"
        )


def _ask(proposed: Proposed, asking: Asking, recorded: Artifact | None) -> Decision:
    session, folder = proposed.session, _folder(proposed)
    if asking.approve is not None:
        decision, notes = read_approval(asking.approve, proposed.batch)
        for line in notes:
            session.say(f"note: {line}")
        return decision

    if recorded is not None and not (folder / DRAFT).exists():
        save_draft(folder, decided(recorded))
    resume = None if asking.go_on else f"{PROGRAM} {shlex.join(['resume', '--run', str(session.run.path)])}"
    asking.desk = Desk(proposed, folder, resume)
    if asking.desk.notice:
        session.say(f"note: {asking.desk.notice}")
    session.run.event("review.opened", round=proposed.number)
    served = asking._stack.enter_context(serve(asking.desk, asking.port))
    session.say(f"review: {served.url}")
    session.say("waiting for Approve on the page; Ctrl-C leaves the round open and keeps the draft")
    served.wait()
    return asking.desk.draft


def _kept_decision(proposed: Proposed, recorded: Artifact | None, keep: Keep) -> frozenset[str]:
    """Ids that the recorded decision takes out. The round's selection stays the one that it made of the proposal."""
    if recorded is None:
        return frozenset()
    keep("decision", recorded)
    selection = keep("selection", apply_decision(proposed, recorded))
    found = frozenset(entry["id"] for entry in selection.json("review.json")["taken_out"])
    proposed.session.tell(
        f"review: the decision of {recorded.manifest['created']} is recorded and stays; {counted(len(found), 'example')} with keep=no in "
        "the file"
    )
    return found


def _export(proposed: Proposed, path: Path, taken_out: frozenset[str]) -> None:
    count = write_batch(proposed.batch, path, taken_out)
    proposed.session.tell(f"review: {counted(count, 'example')} written to {path}")


def summary_line(selection: Artifact) -> str:
    """The changes of a review in one line."""
    changes = selection.json("review.json")
    pinned = sum(entry["pinned"] for entry in changes["brought_in"])
    parts = [
        f"{changes['kept']:,} of {counted(changes['proposed'], 'proposed example')} kept",
        f"{len(changes['taken_out']):,} removed",
        f"{pinned:,} pinned and {counted(len(changes['brought_in']) - pinned, 'other')} added",
    ]
    parts += [f"{changes['answered']:,} answered (in the pool from the next round on)"] * bool(changes["answered"])
    edited = changes.get("edited", 0)
    parts += [f"{edited:,} edited (in the pool from the next round on)"] * bool(edited)
    return ", ".join(parts)
