"""Which examples may be picked in a round, and why each of the others may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al import labels
from al.cleaning.stage import why_left_out
from al.errors import DataError
from al.lineage.history import History
from al.pool.store import Pool, locate
from al.preparation.stages import Compared, Prepared
from al.program import PROGRAM
from al.run.artifacts import Artifact
from selection.holdout import DEV, SHADOW, TEST
from trainer.tokens import NO_TARGET_LEFT, SKIPPED, TokenTable

OUTCOMES = (
    "selectable",
    "selected",
    "quota_full",
    "no_quota",
    "tail_cut",
    "suspected_noise",
    "answered",
    "unlabelled",
    "over_length",
    "no_target",
    "held_out_dev",
    "held_out_test",
    "other_language",
    "refusal",
    "near_duplicate_of_holdout",
    "near_duplicate_of_target",
    "near_duplicate",
    "trained",
    "dropped_in_review",
    "banned_in_review",
)
"""Every example of the pool ends a round with exactly one of these (none stays "selectable")."""
SELECTABLE = ("selected", "suspected_noise", "tail_cut", "quota_full", "no_quota")
"""Outcomes of the examples among which a round picks."""
CODE = {name: code for code, name in enumerate(OUTCOMES)}
DECIDED_BY = {
    "over_length": "tokens.max_length",
    "held_out_dev": "holdout.dev",
    "held_out_test": "holdout.test",
    "near_duplicate_of_holdout": "holdout.overlap, dedup.threshold",
    "near_duplicate_of_target": "holdout.overlap, dedup.threshold",
    "near_duplicate": "dedup.threshold",
}
"""Config keys that decide whether an example is left out for this reason."""
REMOVED_FILE = "removed.parquet"
"""In a selection that was reviewed: key and outcome of what was dropped or banned for good."""

EDITED_FROM = "edited_from"
"""Metadata of an example that was edited in a review: the id of what it was."""


@dataclass(frozen=True)
class PoolState:
    """The pool as selection sees it; arrays are row-aligned to the pool (n,).

    `outcome`: code into OUTCOMES, "selectable" for an example that may be picked. `tokens`: length in tokens.
    """

    keys: np.ndarray
    cluster: np.ndarray
    tokens: np.ndarray
    outcome: np.ndarray
    trained_round: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Rows that may be picked."""
        return np.flatnonzero(self.outcome == CODE["selectable"])


def candidates(prepared: Prepared, clusters: Artifact, history: History, forget: Sequence[str] = ()) -> PoolState:
    """Which examples may be picked in the round that follows `history`, and why the others may not.

    Args:
        forget: as `review.forget`, what reviews of earlier rounds removed and may be picked again.

    Raises:
        DataError: nothing can be picked, with the counts that say why.
    """
    outcome, trained = outcomes(prepared, history, forget)
    if not (outcome == CODE["selectable"]).any():
        raise DataError(
            f"no example of the pool can be picked in round {history.number}. {counts_left_out(outcome)} Add data with "
            f"`{PROGRAM} pool import FILE… --run DIR`."
        )
    cluster = pq.read_table(clusters.path / "clusters.parquet", columns=["cluster"])["cluster"].to_numpy()
    lengths = np.asarray(TokenTable.open(prepared.tokens.path).lengths)
    return PoolState(prepared.open_pool().keys, cluster, lengths, outcome, trained)


def outcomes(prepared: Compared, history: History, forget: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """What decides who may be picked in the round that follows `history`: the outcome (n,) uint8 of each example as of `PoolState`, and the
    earlier round (n,) in which it was picked, 0 for never. `forget`: as of `candidates`."""
    pool = prepared.open_pool()
    split = np.load(prepared.split.path / "split.npy")
    representative = pq.read_table(prepared.groups.path / "groups.parquet")["representative"].to_numpy()
    status = np.asarray(TokenTable.open(prepared.tokens.path).status)
    trained = trained_rounds(pool.keys, history)
    removed = removed_in_reviews(pool, history, forget)
    near = representative != np.arange(len(pool))
    near[edited_rows(pool, near, representative, removed)] = False
    checks = (
        ("answered", pool.answered),
        ("unlabelled", ~pool.labelled),
        ("over_length", status == SKIPPED),
        ("no_target", status == NO_TARGET_LEFT),
        ("held_out_dev", split == DEV),
        ("held_out_test", split == TEST),
        *why_left_out(prepared.cleaned, len(pool)).items(),
        ("near_duplicate_of_holdout", split == SHADOW),
        ("near_duplicate_of_target", _near_target(prepared, len(pool))),
        ("near_duplicate", near),
        ("trained", trained > 0),
        *removed,
    )
    outcome = np.full(len(pool), CODE["selectable"], dtype=np.uint8)
    for name, applies in reversed(checks):
        outcome[applies] = CODE[name]
    return outcome, trained


def counts_left_out(outcome: np.ndarray) -> str:
    """What most of the examples that cannot be picked are left out for, with the keys that decide it; "" if none is. `outcome`: (n,) codes
    into OUTCOMES."""
    counts = [(int((outcome == CODE[name]).sum()), name) for name in OUTCOMES if name != "selectable"]
    found = sorted(((count, name) for count, name in counts if count), reverse=True)[:4]
    parts = [
        f"{count:,} ({labels.outcome(name)}{': ' + DECIDED_BY[name] if name in DECIDED_BY else ''})"
        for count, name in found
    ]
    return f"Left out of {len(outcome):,}: {', '.join(parts)}." if parts else ""


def removed_in_reviews(pool: Pool, history: History, forget: Sequence[str] = ()) -> list[tuple[str, np.ndarray]]:
    """What reviews of earlier rounds removed for good, as (outcome, (n,) bool); [] where none did.

    Args:
        forget: ids and sources that are taken back; "*" takes back all.
    """
    selections = (done["selection"] for done in history.rounds if "selection" in done)
    reviewed = [artifact for artifact in selections if (artifact.path / REMOVED_FILE).is_file()]
    if not reviewed or "*" in forget:
        return []
    tables = [pq.read_table(artifact.path / REMOVED_FILE) for artifact in reviewed]
    kept = ~(np.isin(pool.ids, list(forget)) | np.isin(pool.sources, list(forget)))
    found = []
    for name in ("dropped_in_review", "banned_in_review"):
        keys = np.concatenate([t.filter(pc.equal(t["outcome"], name))["key"].to_numpy() for t in tables])
        found.append((name, np.isin(pool.keys, keys) & kept))
    return found


def edited_rows(
    pool: Pool, near: np.ndarray, representative: np.ndarray, removed: Sequence[tuple[str, np.ndarray]]
) -> np.ndarray:
    """(m,) near-duplicates that take the place of what they were edited from: it leads their group and was removed, so nothing would be
    left of it. `near`: (n,) bool. `representative`: (n,) rows. `removed`: as of `removed_in_reviews`."""
    gone = np.zeros(len(pool), dtype=bool)
    for _, rows in removed:
        gone |= rows
    rows = np.flatnonzero(near & gone[representative])
    names = set(pool.ids[gone].tolist()) if len(rows) else set()
    edited = [metadata.get(EDITED_FROM) in names for metadata in pool.metadata(rows)]
    return rows[np.array(edited, dtype=bool)]


def _near_target(prepared: Compared, n: int) -> np.ndarray:
    near = np.zeros(n, dtype=bool)
    if prepared.target is not None:
        near[prepared.target.excluded] = True
    return near


def trained_rounds(keys: np.ndarray, history: History) -> np.ndarray:
    """(n,) the earlier round in which each example was picked; 0 for never."""
    result = np.zeros(len(keys), dtype=np.int16)
    for earlier in range(1, history.number):
        result[find_rows(keys, history.picked(earlier))] = earlier
    return result


def find_rows(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rows of the `wanted` keys in the sorted `keys`, in the order wanted; keys that are not there are left out."""
    at, found = locate(keys, wanted)
    return at[found]
