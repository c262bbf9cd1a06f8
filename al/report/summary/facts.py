"""What the parts of a report read of a round: opened once, and handed to every part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.excerpt import prompt_and_response
from al.lineage.history import CONTROL, SELECTED, History
from al.pool.store import Pool
from al.preparation.stages import Prepared
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.session import Session
from selection.plane import PLANE_SAMPLE
from selection.scores import SCORES
from trainer.tokens import TokenTable


@dataclass(frozen=True)
class RoundFacts:
    """A round and its artifacts by role. Arrays have a row per example of the pool (n,); `table` is selection.parquet.

    `outcome`: names of outcomes. `lineages`: artifacts of the selected line and of the control, this round included.
    """

    session: Session
    prepared: Prepared
    roles: Mapping[str, Artifact]
    number: int
    table: pa.Table
    pool: Pool
    tokens: TokenTable
    outcome: np.ndarray
    lineages: Mapping[str, History]

    @classmethod
    def read(cls, session: Session, prepared: Prepared, roles: Mapping[str, Artifact], number: int) -> RoundFacts:
        """The facts of round `number`, whose artifacts are `roles`."""
        table = pq.read_table(roles["selection"].path / "selection.parquet")
        outcome = table["outcome"].cast(pa.string()).to_numpy(zero_copy_only=False)
        lineages = {line.name: History.recorded(session.run, line, number + 1) for line in (SELECTED, CONTROL)}
        tokens = TokenTable.open(prepared.tokens.path)
        return cls(session, prepared, roles, number, table, prepared.open_pool(), tokens, outcome, lineages)

    @cached_property
    def picked(self) -> np.ndarray:
        """(n,) bool: selected in this round."""
        return self.outcome == "selected"

    @cached_property
    def cluster(self) -> np.ndarray:
        """(n,) int: the cluster of each example."""
        return self.table["cluster"].to_numpy()

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Every score of the selection: name → (n,) float, NaN where not measured."""
        return {
            name: self.table[name].to_numpy().astype(np.float64) for name in SCORES if name in self.table.column_names
        }

    @cached_property
    def rounds(self) -> list[rounds.Round]:
        """The run's rounds up to this one."""
        return [entry for entry in rounds.all_rounds(self.session.run) if entry.number <= self.number]

    @cached_property
    def timings(self) -> dict[str, float]:
        """Seconds of the stages that were made for this round, in the order of work; reused ones cost it nothing."""
        started = self.rounds[-1].started
        stages = {
            label: seconds for label, (seconds, created) in self.session.run.timings.items() if created >= started
        }
        return {**stages, "total": round(sum(stages.values()), 3)}

    @cached_property
    def coordinates(self) -> tuple[np.ndarray, dict[str, str | int]]:
        """(n, 2) coordinates of the pool, and {"method": "umap" or "pca", "fitted": examples the method was fitted on}."""
        if "projection" in self.roles:
            projection = self.roles["projection"]
            return np.load(projection.path / "map.npy"), projection.json("map.json")
        points = pq.read_table(self.roles["clusters"].path / "clusters.parquet", columns=["x", "y"])
        xy = np.stack([points["x"].to_numpy(), points["y"].to_numpy()], axis=1)
        return xy, {"method": "pca", "fitted": min(len(xy), PLANE_SAMPLE)}

    @cached_property
    def quotas(self) -> list[dict]:
        """The entries of quotas.json, by cluster."""
        return self.roles["selection"].json("quotas.json")

    def pick_order(self) -> np.ndarray:
        """Rows of the picked examples in the order of picking."""
        rows = np.flatnonzero(self.picked)
        return rows[np.argsort(self.table["pick"].to_numpy()[rows], kind="stable")]

    def examples(self, rows: np.ndarray) -> list[tuple[dict[str, Any], str, str]]:
        """(row of the table, prompt, response) of the examples at `rows`."""
        records = self.table.take(pa.array(rows)).to_pylist()
        texts = map(prompt_and_response, self.pool.messages(rows))
        return [(record, *text) for record, text in zip(records, texts, strict=True)]
