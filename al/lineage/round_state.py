"""Where a lineage stands at the start of a round, and what was measured for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from al.lineage.history import History
from al.lineage.outcomes import PoolState, candidates
from al.preparation.stages import Prepared
from al.preparation.target import Target
from al.run.artifacts import Artifact
from al.run.session import Session
from selection.config import SelectConfig
from selection.strategy import by_default


@dataclass(frozen=True)
class Standing:
    """Where a lineage stands at the start of a round. `clusters`: the clustering that this round uses."""

    session: Session
    prepared: Prepared
    history: History
    clusters: Artifact

    @property
    def number(self) -> int:
        """The round."""
        return self.history.number

    @property
    def seed(self) -> tuple[int, int]:
        """What random draws of this round belong to."""
        return self.session.config.seed, self.number

    @cached_property
    def select(self) -> SelectConfig:
        """The config's strategy; with a target the default one aims at it, if the pool holds its kind."""
        return aimed(self.session.config.select, self.prepared.target)

    @cached_property
    def state(self) -> PoolState:
        """Who may be picked."""
        return candidates(self.prepared, self.clusters, self.history, self.session.config.review.forget)


def aimed(config: SelectConfig, target: Target | None) -> SelectConfig:
    """What the default strategy comes to with a target: nearest to it, or random if the pool does not hold its kind."""

    if target is None or not by_default(config):
        return config
    return config.model_copy(
        update={"strategy": "nearest" if target.artifact.json("target.json")["held"] else "random"}
    )


@dataclass(frozen=True)
class Scored:
    """What was measured for a round: the sample, what is suspected noise, the target (None: nothing looks at one), and the
    shortlist."""

    sample: Artifact
    suspects: Artifact
    aims: Artifact | None
    shortlist: Artifact | None = None

    @property
    def of_the_pool(self) -> list[Artifact]:
        """The measurements of pool examples."""
        return [self.sample] if self.shortlist is None else [self.sample, self.shortlist]
