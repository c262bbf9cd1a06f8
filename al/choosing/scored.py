"""What was measured for a round, as the selection takes it. Each part is made once, on first use, and handed over from the shortlist
to the selection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from al.lineage.outcomes import counts_left_out
from al.lineage.round_state import RoundState
from al.run.artifacts import Artifact
from al.scoring.columns import measured_columns
from al.scoring.noise import held_back
from al.scoring.vectors import vectors_of
from selection.errors import PoolUsedUp
from selection.scores import compute
from selection.strategy import Candidates, Quotas, allocate


@dataclass(frozen=True, eq=False)
class MeasuredPool:
    """Score artifacts of the pool (`artifacts`) and of the target (`aims`) for a round, and the base model's hidden states of both
    (`states`). None: nothing needs it."""

    state: RoundState
    artifacts: tuple[Artifact, ...]
    aims: Artifact | None
    states: Artifact | None = None

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """Columns (n,) over the pool as scores take them, NaN where nothing was measured."""
        return measured_columns(self.state, self.artifacts, self.aims)

    def candidates(self, suspect: np.ndarray) -> Candidates:
        """The selectable rows; `suspect` (n,) bool over the pool: held back as suspected noise."""
        pool, rows = self.state.pool, self.state.pool.rows
        return Candidates(
            keys=pool.keys[rows],
            cluster=pool.cluster[rows],
            tokens=pool.tokens[rows].astype(np.int32),
            score=compute(self.state.session.config.score.by, self.columns)[rows],
            loss=self.columns["nll_mean"][rows],
            confidence=self.columns["top_mean"][rows],
            suspect=suspect[rows],
            vectors=vectors_of(self.state, rows, self.artifacts, self.aims, self.states),
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """A round ready to select: the measured `sample` that sets the quotas, all that was `measured`, and the `suspects` of noise.

    `shortlist`: the artifact of what the picker needed measured; None before it is made.
    """

    state: RoundState
    sample: MeasuredPool
    measured: MeasuredPool
    suspects: Artifact
    shortlist: Artifact | None = None

    def with_shortlist(self, shortlist: Artifact, suspects: Artifact) -> Scored:
        """The same with the shortlist measured. What does not change by it is not computed again."""
        more = shortlist.json("score.json")["examples"] > 0
        sample = self.sample
        measured = replace(sample, artifacts=(*sample.artifacts, shortlist)) if more else sample
        later = Scored(self.state, sample, measured, suspects, shortlist)
        if suspects.fingerprint == self.suspects.fingerprint:
            for name in ("suspect", "_of_the_sample", "quotas"):
                if name in self.__dict__:
                    later.__dict__[name] = self.__dict__[name]
        return later

    @cached_property
    def suspect(self) -> np.ndarray:
        """(n,) bool over the pool: held back as suspected noise."""
        noise, pool = self.state.session.config.noise, self.state.pool
        ids = np.asarray(self.state.prepared.open_pool().ids) if noise.release else np.empty(len(pool.keys), "U1")
        return held_back(self.suspects, pool.keys, ids, noise.hold, noise.release)

    @cached_property
    def _of_the_sample(self) -> Candidates:
        return self.sample.candidates(self.suspect)

    @cached_property
    def candidates(self) -> Candidates:
        """The selectable rows with all that was measured."""
        return self._of_the_sample if self.measured is self.sample else self.measured.candidates(self.suspect)

    @cached_property
    def quotas(self) -> Quotas:
        """Quotas from the losses of the sample alone: what a picker needs measured is no random part of a cluster.

        Raises:
            PoolUsedUp: fewer can be picked than the budget asks for, with the counts that say why.
        """
        state = self.state
        try:
            return allocate(self._of_the_sample, state.budget, state.select, state.seed, state.past, state.distinctness)
        except PoolUsedUp as error:
            raise PoolUsedUp(f"{error} {counts_left_out(state.pool.outcome)}".rstrip()) from None
