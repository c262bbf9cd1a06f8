"""A line of adapters and what it did so far: the selected one of a run, its control, or one strategy of a comparison.

Everything that depends on earlier rounds takes a `History`, and nothing looks them up anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from al.config import Config
from al.errors import RunStateError
from al.program import PROGRAM
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.base import other_base, refuse_other_base
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

    Roles: those of pool, clusters, score, shortlist, selection, packs, train that the lineage has. `fits`: whether the adapters are
    for the base in use.
    """

    lineage: Lineage
    rounds: tuple[Mapping[str, Artifact], ...] = ()
    fits: bool = True

    @classmethod
    def recorded(cls, run: Run, lineage: Lineage, number: int) -> History:
        """What `run` knows of the rounds before `number`."""
        return cls(lineage, tuple(_of(rounds.roles(run, n), lineage) for n in range(1, number)))

    def on(self, config: Config) -> History:
        """The history for the base that `config` names. If it is another one, adapters are left out, which `train.mode=retrain` allows.

        Raises:
            RunStateError: the adapter of the round before was trained on another base and is to be continued.
        """
        before = self.last("train")
        if before is None or other_base(before, config.model) is None:
            return self
        if config.train.mode != "retrain":
            refuse_other_base(before, config.model)
        return replace(self, fits=False)

    @property
    def number(self) -> int:
        """The round that follows."""
        return len(self.rounds) + 1

    def last(self, role: str) -> Artifact | None:
        """The artifact of the round before; None in the first round, and where that round had none."""
        return self.rounds[-1].get(role) if self.rounds else None

    def adapter(self) -> Artifact | None:
        """The adapter of the round before; None in the first round and if it is for another base.

        Raises:
            RunStateError: the round before has none (any more).
        """
        if not self.fits:
            return None
        if self.rounds and "train" not in self.rounds[-1]:
            raise RunStateError(
                f"round {len(self.rounds)} has no `train` any more. `{PROGRAM} resume --run DIR` makes it again."
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
        return replace(self, rounds=(*self.rounds, artifacts))


def _of(roles: Mapping[str, Artifact], lineage: Lineage) -> dict[str, Artifact]:
    """The roles of one line, without its prefix."""
    if lineage.prefix:
        return {k.removeprefix(lineage.prefix): v for k, v in roles.items() if k.startswith(lineage.prefix)}
    return {k: v for k, v in roles.items() if not k.startswith(CONTROL.prefix)}
