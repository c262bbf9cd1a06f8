"""The state of a lineage at the start of a round: what is fixed before anything is measured. Each part is made once, on first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from al.config import Config
from al.lineage.history import History
from al.lineage.outcomes import PoolState, candidates
from al.lineage.past import lowest_before, past_rounds
from al.lineage.quality import quality_column
from al.preparation.groups import spread_over
from al.preparation.stages import Prepared
from al.preparation.target import Target
from al.run.artifacts import Artifact
from al.run.session import Session
from selection.cluster import distinctness
from selection.config import SelectConfig
from selection.strategy import Budget, PastRound, by_default


@dataclass(frozen=True, eq=False)
class RoundState:
    """The state of a lineage at the start of a round. `clusters`: the clustering that this round uses; `budget`: of this round;
    `warmup`: a training on random examples, whose adapters give gradients where no round before left any."""

    session: Session
    prepared: Prepared
    history: History
    clusters: Artifact
    budget: Budget
    warmup: Artifact | None = None

    @property
    def number(self) -> int:
        """The round."""
        return self.history.number

    @property
    def seed(self) -> tuple[int, int]:
        """Seed parts of every random draw of this round."""
        return self.session.config.seed, self.number

    @cached_property
    def adapter(self) -> Artifact | None:
        """The adapter that measures: that of the round before; None in the first round."""
        return self.history.adapter()

    @cached_property
    def select(self) -> SelectConfig:
        """The strategy that the config's comes to on this pool."""
        return used(self.session.config, self.prepared.target, self.clusters)

    @cached_property
    def pool(self) -> PoolState:
        """Which examples may be picked, and why the others may not."""
        return candidates(self.prepared, self.clusters, self.history, self.session.config.review.forget)

    @cached_property
    def distinctness(self) -> float:
        """How far this round's clusters are kinds of example, 0 to 1."""
        return distinctness(self.clusters.json("clusters.json")["quality"]["silhouette"])

    @cached_property
    def past(self) -> list[PastRound]:
        """Earlier rounds by the clusters of this one, oldest first; amounts in the budget's unit."""
        return past_rounds(self.history, self.pool, self.budget.unit)

    @cached_property
    def lowest_before(self) -> np.ndarray:
        """(n,) the lowest mean NLL that an earlier round measured of each example, NaN for none."""
        return lowest_before(self.history, self.pool.keys)

    @cached_property
    def quality(self) -> np.ndarray:
        """(n,) the column `score.quality` of the user's files. Raises ConfigError as `quality_column` does."""
        return quality_column(str(self.session.config.score.quality), self.prepared, self.pool)


def used(config: Config, target: Target | None, clusters: Artifact) -> SelectConfig:
    """The strategy that a config comes to on a pool: with a target the default is `rds_centered`, with `goal: pool` `proportional`; over
    sources it is `source_kinds`, over uneven kinds of prompt `kind_uniform`. Any other strategy is used as it is."""
    select = config.select
    if not by_default(select):
        return select
    if target is not None:
        name = "rds_centered"
    elif config.goal == "pool":
        name = "proportional"
    else:
        name = {"kinds": "source_kinds", "wording": "kind_uniform"}.get(spread_over(clusters), select.strategy)
    return select.model_copy(update={"strategy": name})
