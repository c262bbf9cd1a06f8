"""What a comparison prints while it works: how many runs there are, which one begins, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from al.budget import BudgetRequest
from al.excerpt import counted
from al.planning.forecast import planned
from al.preparation.stages import Prepared
from al.run.progress import duration
from al.run.session import Session
from selection.strategy import Budget

WORK = ("warm up", "hidden states", "score", "train")
"""Stages of a plan that a run does for itself, besides its evaluation. The pool's own are shared."""

DOUBT = (2.0, 1.5, 1.0)
"""By what factor the time left may be more or less while no run, one, and more are done: other work on the machine, and what the first
run prepares for all."""

Key = tuple[str, int]
"""A run: label of its strategy and seed."""


@dataclass
class Course:
    """The runs of a comparison in seconds: what each is planned to take, and what those took that are done."""

    planned: Mapping[Key, float]
    taken: dict[Key, float]

    def seconds_left(self) -> float:
        """What is planned for the runs that are left, times how much longer than planned those took that are done."""
        done = sum(self.planned[key] for key in self.taken)
        ratio = sum(self.taken.values()) / done if done else 1.0
        return ratio * sum(seconds for key, seconds in self.planned.items() if key not in self.taken)

    def place(self, key: Key) -> str:
        """`run 2 of 6 (strategy random, seed 0)`, where one is done."""
        strategy, seed = key
        return f"run {len(self.taken) + 1:,} of {len(self.planned):,} (strategy {strategy}, seed {seed})"

    def announcement(self, key: Key) -> str:
        """The line at the start of a run: its place and the time left, as wide as one can know it: by the plan while no run has been
        measured."""
        left, doubt = self.seconds_left(), DOUBT[min(len(self.taken), len(DOUBT) - 1)]
        shown = duration(left) if doubt == 1 else f"{duration(left / doubt)} to {duration(left * doubt)}"
        return f"{self.place(key)}: about {shown} left{'' if self.taken else ' by the plan'}"

    def resumed(self) -> str:
        """The line on what an earlier command finished; "" where there is nothing."""
        done, count = len(self.taken), len(self.planned)
        verb = "is" if done == 1 else "are"
        return f"{done:,} of {counted(count, 'run')} {verb} finished already and not repeated" if done else ""


def opening(strategies: Sequence[str], seeds: int) -> str:
    """The first line: how many runs, and what they share."""
    runs, names = counted(len(strategies) * seeds, "run"), ", ".join(strategies)
    return (
        f"{runs}: {counted(len(strategies), 'strategy', 'strategies')} ({names}) × {counted(seeds, 'seed')}. They share the pool, the "
        "test examples and the base model's evaluation. Ctrl-C is safe: the same command goes on."
    )


def planned_seconds(session: Session, prepared: Prepared, budget: Budget, rounds: int) -> float:
    """Seconds that a run of `rounds` rounds under the session's config takes, as `plan` estimates them. `budget`: of all rounds."""
    alone = session.with_config(session.config.model_copy(update={"control": False}))
    part = BudgetRequest(budget.unit, budget.amount / rounds, str(budget.amount))
    total = 0.0
    for number in range(1, rounds + 1):
        seconds = planned(alone, prepared, part, number)["seconds"]
        models = 2 if number == 1 else 1  # a plan's first round evaluates the base as well
        total += sum(seconds.get(name, 0.0) for name in WORK) + seconds["evaluate"] / models
    return total


def seconds_of(played: Mapping[str, Any]) -> float:
    """Seconds that the stages of a finished run took."""
    return sum(sum(entry["seconds"].values()) for entry in played["rounds"])
