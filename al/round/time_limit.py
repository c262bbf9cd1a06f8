"""A limit of time for all rounds of a run: how much of it the next round may spend, so that nothing runs into what is left for exporting.

A round costs more than its training: measuring, evaluation, the control. The next round is expected to spend
as much on these as the one before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from al.budget import BudgetRequest
from al.config import Config
from al.run import rounds
from al.run.store import Run
from al.run.work_time import work_of_round, work_seconds

SHORTEST = 0.1
"""A round is not started for less than this share of the budget asked for."""


@dataclass(frozen=True)
class TimeLimit:
    """`seconds` of work on the run by all its processes; see al.run.work_time."""

    seconds: float

    def left(self, run: Run) -> float:
        """Seconds that are left now; below zero if more was spent."""
        run.event("time.left", limit=self.seconds)
        return self.seconds - work_seconds(run.path)

    def fit(
        self, run: Run, asked: BudgetRequest, config: Config, number: int, at_once: bool = False
    ) -> BudgetRequest | None:
        """The budget of round `number`: `asked`, or less training time if no more is left, or None if the round does not fit.

        `config` says whether the round has a control. Budgets in examples or tokens are not made smaller. The first round has nothing to
        compare with: it fits if its own training and its control's do.

        Args:
            at_once: whether selection and control train at the same time, each on half of the workers (`al.round.loop.at_once`).
        """
        left, lines = self.left(run), 1 + bool(config.control)
        ours, theirs = _training_seconds(run, number - 1)
        took = max(ours, theirs) if at_once else ours + theirs
        besides = work_of_round(run.path, number - 1) - took if number > 1 else 0.0
        if asked.unit != "seconds":
            again = took if theirs else ours * (1 + _rounds_to_train(run, number, config))
            expected = besides + (again if lines == 2 else ours) * _passes(config, number) / _passes(config, number - 1)
            return asked if left > 0 and expected <= left else None
        most = (left - besides) / lines
        if most >= asked.amount:
            return asked
        return (
            BudgetRequest("seconds", math.floor(most), f"{math.floor(most)}s")
            if most >= SHORTEST * asked.amount
            else None
        )


def _training_seconds(run: Run, number: int) -> tuple[float, float]:
    """What the trainings of a round took, that on the selection and that of its control; 0 where there was none."""
    found = [rounds.recorded(run, number, role) for role in ("train", "control.train")]
    ours, theirs = (0.0 if artifact is None else float(artifact.json("train.json")["seconds"]) for artifact in found)
    return ours, theirs


def _rounds_to_train(run: Run, number: int, config: Config) -> int:
    """Rounds whose random examples a control of round `number` trains on: its own and those before it that had none."""
    if config.train.mode == "retrain":
        return 1  # all in one training, as the selection
    count = 1
    while count < number and rounds.recorded(run, number - count, "control.train") is None:
        count += 1
    return count


def _passes(config: Config, number: int) -> float:
    """How many budgets round `number` trains on, with earlier picks as `train.mode` says."""
    if config.train.mode == "retrain":
        return float(max(number, 1))
    return 1.0 + config.train.replay * (number > 1)
