"""The proposed selection in readable form: every example of the pool with its outcome, reason and text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al.errors import DataError
from al.lineage.outcomes import SELECTABLE, find_rows
from al.pool.store import Pool, Texts
from al.report.summary.examples import explain_outcome
from al.review.decision import Decision
from al.run.artifacts import Artifact
from selection.scores import SCORES


@dataclass(frozen=True)
class Batch:
    """A proposal with its texts. `proposal`: the selection's artifact. `pool`: its pool; row numbers are those of the pool."""

    proposal: Artifact
    pool: Pool

    @cached_property
    def table(self) -> pa.Table:
        """selection.parquet."""
        return pq.read_table(self.proposal.path / "selection.parquet")

    @cached_property
    def outcome(self) -> np.ndarray:
        """(n,) object: outcome of each example in the proposal."""
        return np.asarray(self.table["outcome"].cast(pa.string()).to_pylist(), dtype=object)

    @cached_property
    def cluster(self) -> np.ndarray:
        """(n,) int."""
        return self.table["cluster"].to_numpy()

    @cached_property
    def picked(self) -> np.ndarray:
        """(m,) proposed rows in pick order."""
        order = self.table["pick"].to_numpy()
        rows = np.flatnonzero(order >= 0)
        return rows[np.argsort(order[rows])]

    @cached_property
    def quotas(self) -> list[dict[str, Any]]:
        """The entries of quotas.json, one per cluster."""
        return self.proposal.json("quotas.json")

    @cached_property
    def scores(self) -> list[str]:
        """Names of the scores measured on at least one example."""
        known = (name for name in SCORES if name in self.table.column_names)
        return [name for name in known if np.isfinite(self.table[name].to_numpy()).any()]

    @property
    def unit(self) -> str:
        """Unit of the budget: "examples" or "tokens"."""
        return self.proposal.manifest["params"]["budget"]["unit"]

    def rows_of(self, ids: list[str], where: str = "") -> np.ndarray:
        """(m,) pool rows of these ids. Raises DataError with the first id that the pool does not have."""
        keys = np.array([int(name, 16) for name in ids], dtype=np.uint64)
        rows = find_rows(self.pool.keys, keys)
        if len(rows) < len(ids):
            known = set(self.pool.keys[rows].tolist())
            missing = next(name for name, key in zip(ids, keys.tolist(), strict=True) if key not in known)
            raise DataError(f"{where}no example of the pool has the id {missing}.")
        return rows

    def why(self, record: dict[str, Any]) -> str:
        """One sentence on an example's outcome in the proposal."""
        return record["why"] or explain_outcome(record)

    def records(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Rows of the table with `prompt` (as "role: content" lines) and `response`, not shortened."""
        found = []
        for record, messages in zip(self.table.take(pa.array(rows)).to_pylist(), self.pool.messages(rows), strict=True):
            answer = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
            asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
            prompt = "\n".join(f"{m['role']}: {m['content']}" for m in asked)
            found.append(record | {"prompt": prompt, "response": answer})
        return found

    def matching(self, words: str) -> np.ndarray:
        """(n,) bool: examples whose text, id or reason contains `words`, ignoring case."""
        why = pc.fill_null(self.table["why"].cast(pa.string()), "")
        said = [pc.match_substring(column, words, ignore_case=True) for column in (self.table["id"], why)]
        return self._texts.holding(words) | np.logical_or.reduce([f.to_numpy() for f in said])

    @cached_property
    def _texts(self) -> Texts:
        return self.pool.texts(np.arange(len(self.pool))).held()

    def check(self, decision: Decision) -> None:
        """Check a decision's examples, clusters and sources against this proposal.

        Raises:
            DataError: it is on another proposal, or names an example, cluster or source that does not exist or cannot be picked.
        """
        if decision.proposal not in (None, self.proposal.fingerprint):
            raise DataError(
                f"the decision is on another proposal ({decision.proposal}) than this round's "
                f"({self.proposal.fingerprint}): the config, the pool or the budget changed since. Review this proposal."
            )
        self.rows_of(decision.drop, "drop: ")
        self._check_pins(decision)
        unknown = [c for c in [*decision.ban_clusters, *decision.quotas] if c >= len(self.quotas)]
        if unknown:
            raise DataError(f"there is no group {unknown[0]}; the groups are 0 to {len(self.quotas) - 1}.")
        for name in decision.ban_sources:
            if not (self.pool.sources == name).any():
                raise DataError(f"ban_sources: no example of the pool has the source {name!r}.")
        answers = list(decision.answers)
        for name, row in zip(answers, self.rows_of(answers, "answers: "), strict=True):
            if self.pool.labelled[row]:
                raise DataError(f"answers: {name} has a response; only examples without one can be answered.")
        self._check_edits(decision)

    def _check_edits(self, decision: Decision) -> None:
        ids = list(decision.edits)
        rows = self.rows_of(ids, "edits: ")
        for name, row, messages in zip(ids, rows, self.pool.messages(rows), strict=True):
            if not self.pool.labelled[row]:
                raise DataError(f"edits: {name} has no response to correct; answer it instead.")
            if len(messages) == 1:
                raise DataError(f"edits: {name} is a response without a prompt; drop it and import the corrected text.")
            if messages[-1]["content"].strip() == decision.edits[name].strip():
                raise DataError(f"edits: {name}: the response is the pool's own; change it, or remove the edit.")

    def _check_pins(self, decision: Decision) -> None:
        for name, row in zip(decision.pin, self.rows_of(decision.pin, "pin: "), strict=True):
            if self.outcome[row] not in SELECTABLE:
                why = self.why(self.table.slice(int(row), 1).to_pylist()[0])
                raise DataError(f"pin: {name} cannot be picked: {why}.")
            if self.cluster[row] in decision.ban_clusters or self.pool.sources[row] in decision.ban_sources:
                raise DataError(f"pin: {name} is pinned, but its group or source is banned; undo one of them.")

    def banned(self, decision: Decision) -> np.ndarray:
        """(n,) bool: members of banned clusters and sources."""
        return np.isin(self.cluster, decision.ban_clusters) | np.isin(self.pool.sources, decision.ban_sources)
