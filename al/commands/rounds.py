"""`round`, `run` and `resume`: run the next round, several rounds, or the rest of one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from al.budget import BudgetRequest, parse_budget, parse_time
from al.commands.options import Options
from al.commands.review import play_round
from al.commands.summary import describe_summary, with_paths
from al.config import difference, parse
from al.errors import ConfigError, RunStateError
from al.planning.needs import cache_if_hub_is_silent
from al.program import PROGRAM
from al.review.ask import Asking
from al.round.loop import at_once, gained, run_round
from al.round.standing import with_control_decided
from al.round.time_limit import TimeLimit
from al.run import rounds
from al.run.progress import duration, stop_on_signals
from al.run.rounds import read_summary
from al.run.session import Session
from al.run.store import Run
from al.scoring.stage import scoring_notices
from al.terminal import displayable, show, show_drawn
from al.tracking.rounds import tracked
from al.tracking.services import check_installed
from selection.errors import PoolUsedUp

if TYPE_CHECKING:
    from al.review.ask import Asking


def run_next_round(options: Options, budget: str, asking: Asking | None = None) -> dict[str, Any]:
    """Run the next round, or the rest of an unfinished one. Returns its summary, or where it stopped for a review."""
    request, config = parse_budget(budget), options.load_config()
    check_installed(config.track)
    opened = Run.create_or_open(options.run_directory())
    with opened as run, cache_if_hub_is_silent(config), asking or Asking() as asking:
        session = Session(run, config, options.as_json, bool(options.pool))
        number = rounds.next_number(session.run)
        _announce(session, number, request.text)
        with tracked(session):
            return play_round(session, request, number, asking)


def _announce(session: Any, number: int, budget: str) -> None:
    """Print which round runs, and which config keys changed since it was started."""
    last = rounds.unfinished_round(session.run)
    if session.quiet:
        return
    for line in scoring_notices(session.config):
        show(f"note: {line}")
    if last is None:
        show(f"round {number} in {session.run.path}, budget {budget}")
        return
    show(f"continuing round {number} in {session.run.path}, started {last.started}, budget {budget}")
    changes = difference(last.config, session.config.model_dump(mode="json"))
    if last.budget != budget:
        changes["budget"] = [last.budget, budget]
    for key, (before, after) in changes.items():
        show(f"  changed since it was started: {key}: {before} → {after}; stages that depend on it run again")


def run_rounds(
    options: Options, budget: str, count: int | None, until_no_gain: bool, until: str | None = None
) -> tuple[dict[str, Any], bool]:
    """Run rounds until the run has `count`, until one has no significant dev gain, or until the time `until` is spent. Each summary is
    printed as its round ends. A round that was interrupted is finished first, with its own budget.

    Returns:
        (the last summary, whether it has been printed: no round may have been left to run)

    Raises:
        ConfigError: neither `count` nor `until`, or a limit of time that no round fits in.
    """
    request, config = parse_budget(budget), options.load_config()
    limit = TimeLimit(parse_time(until, "--until")) if until is not None else None
    if count is None and limit is None:
        raise ConfigError("run: expected --rounds K, --until TIME, or both.")
    if until_no_gain and not config.holdout.dev and not config.holdout.dev_files:
        raise ConfigError("run: --until-no-gain needs a dev set, and holdout.dev is 0. Raise it, or use --all-rounds.")
    check_installed(config.track)
    stop_on_signals()
    session_of = partial(Session, config=config, quiet=options.as_json, pool_named=bool(options.pool))
    opened = Run.create_or_open(options.run_directory())
    with opened as run, cache_if_hub_is_silent(config), tracked(session := session_of(run)):
        printed = False
        while count is None or rounds.next_number(session.run) <= count:
            number, begun = rounds.next_number(session.run), rounds.unfinished_round(session.run) is not None
            fitting = _fitting(session, request, number, limit)
            if fitting is None:
                break
            _announce(session, number, fitting.text)
            try:
                summary = run_round(session, fitting, number)
            except PoolUsedUp as reason:
                if limit is None or number == 1:
                    raise
                if not begun:
                    rounds.withdraw_round(run, number)
                session.say(f"stopping after round {number - 1}, before the time is spent: {reason}")
                break
            if not options.as_json:
                show_drawn(describe_summary(displayable(with_paths(run.path, summary))))
                printed = True
            if until_no_gain and not gained(summary):
                if not options.as_json:
                    show(f"stopping after round {number}: its dev gain is not significant")
                break
        done = [entry.number for entry in rounds.all_rounds(run) if entry.state == "done"]
        if not done:
            raise ConfigError(
                f"--until {until}: expected time for at least one round of {budget}, with its control. Raise it."
            )
        return with_paths(run.path, read_summary(run, done[-1])), printed


def _fitting(session: Session, asked: BudgetRequest, number: int, limit: TimeLimit | None) -> BudgetRequest | None:
    """The budget of the next round; None if it does not fit in the time that is left."""
    if limit is None:
        return asked
    unfinished = rounds.unfinished_round(session.run)
    if unfinished is not None:
        return parse_budget(unfinished.budget)
    config, _ = with_control_decided(session.config, session.run, number)
    found = limit.fit(session.run, asked, config, number, at_once(session))
    left = duration(max(0.0, limit.left(session.run)))
    if found is None:
        session.tell(f"stopping before round {number}: {left} of {duration(limit.seconds)} left, too little for it")
    else:
        session.tell(f"time: {left} of {duration(limit.seconds)} left")
    return found


def resume(options: Options) -> dict[str, Any]:
    """Finish the unfinished round with its own recorded config and budget; returns its summary."""
    path = options.existing_run()
    Run.read(path).close()
    stop_on_signals()
    with Run.create_or_open(path) as run:
        last = rounds.unfinished_round(run)
        if last is None and (path / "comparison.json").exists():
            raise RunStateError(f"{path}: this is a comparison; the same `compare` command resumes it.")
        if last is None:
            newest = rounds.last_round(run)
            done = "no round has started" if newest is None else f"round {newest.number} is finished"
            raise RunStateError(
                f"{path}: nothing to resume, {done}. `{PROGRAM} round --run {path} --budget N` starts the next one."
            )
        session = Session(run, parse(last.config, f"{path}/run.db"), quiet=options.as_json)
        check_installed(session.config.track)
        _announce(session, last.number, last.budget)
        with cache_if_hub_is_silent(session.config), tracked(session):
            return with_paths(path, run_round(session, parse_budget(last.budget), last.number))
