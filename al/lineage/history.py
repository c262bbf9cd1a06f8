"""A line of adapters and what it did so far: the selected one of a run, its control, or one strategy of a comparison.

Everything that depends on earlier rounds takes a `History`, and nothing looks them up anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from al.errors import RunStateError
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.store import Run


@dataclass(frozen=True)
class Lineage:
    """`name` of the line, `title` of its training in progress and timings, `prefix` of its roles in the run's records."""

    name: str
    title: str
    prefix: str = ""


SELECTED = Lineage("selected", "train")
CONTROL = Lineage("control", "train control", "control.")


@dataclass(frozen=True)
class History:
    """Artifacts of a line's earlier rounds by role, without its prefix; the first round's come first.

    Roles: those of pool, clusters, score, shortlist, selection, packs, train that the lineage has.
    """

    lineage: Lineage
    rounds: tuple[Mapping[str, Artifact], ...] = ()

    @classmethod
    def recorded(cls, run: Run, lineage: Lineage, number: int) -> History:
        """What `run` knows of the rounds before `number`."""
        return cls(lineage, tuple(_of(rounds.roles(run, n), lineage) for n in range(1, number)))

    @property
    def number(self) -> int:
        """The round that follows."""
        return len(self.rounds) + 1

    def last(self, role: str) -> Artifact | None:
        """The artifact of the round before; None in the first round, and where that round had none."""
        return self.rounds[-1].get(role) if self.rounds else None

    def adapter(self) -> Artifact | None:
        """The adapter of the round before; None in the first round.

        Raises:
            RunStateError: the round before has none (any more).
        """
        if self.rounds and "train" not in self.rounds[-1]:
            raise RunStateError(
                f"round {len(self.rounds)} has no `train` any more. `python cli.py resume --run DIR` makes it again."
            )
        return self.last("train")

    def picked(self, number: int) -> np.ndarray:
        """Keys that were picked in round `number`, in pick order; empty if there was none."""
        artifact = self.rounds[number - 1].get("selection") if number <= len(self.rounds) else None
        return np.load(artifact.path / "picked.npy") if artifact else np.empty(0, dtype=np.uint64)

    def all_picked(self) -> np.ndarray:
        """Keys of all rounds' picks, oldest first."""
        keys = [self.picked(n) for n in range(1, self.number)]
        return np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)

    def then(self, artifacts: Mapping[str, Artifact]) -> History:
        """The history with one more round."""
        return History(self.lineage, (*self.rounds, artifacts))


def _of(roles: Mapping[str, Artifact], lineage: Lineage) -> dict[str, Artifact]:
    """The roles of one line, without its prefix."""
    if lineage.prefix:
        return {k.removeprefix(lineage.prefix): v for k, v in roles.items() if k.startswith(lineage.prefix)}
    return {k: v for k, v in roles.items() if not k.startswith(CONTROL.prefix)}
