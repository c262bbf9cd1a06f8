"""Applies a decision to a proposal: what it removes, pins and changes, and the resulting selection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.choosing.scored import Scored
from al.choosing.write import write_picked
from al.config.pool import PoolConfig
from al.excerpt import counted
from al.lineage.outcomes import CODE, EDITED_FROM, OUTCOMES, REMOVED_FILE
from al.lineage.round_state import RoundState
from al.pool.sources import find_sources
from al.preparation.stages import import_sources
from al.review.batch import Batch
from al.review.decision import Decision
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.review import Change, Proposal, propose, revise
from selection.strategy import Selection

DECISION_FILE = "decision.json"
ANSWERS_FILE = "answers.jsonl"


@dataclass(frozen=True)
class Proposed:
    """A round's proposal with its inputs: enough to show it and to compute the effect of a decision."""

    scored: Scored
    artifact: Artifact

    @property
    def state(self) -> RoundState:
        """The state of the round that it was made in."""
        return self.scored.state

    @property
    def session(self) -> Session:
        """The session with the config that made the proposal."""
        return self.state.session

    @property
    def number(self) -> int:
        """The round."""
        return self.state.number

    @cached_property
    def batch(self) -> Batch:
        """The proposal as a readable batch: texts, outcomes and reasons."""
        return Batch(self.artifact, self.state.prepared.open_pool())

    @cached_property
    def terms(self) -> Proposal:
        """The proposal in the form of `selection.review`, with the order of replacements."""
        batch, rows = self.batch, self.state.pool.rows
        place = np.full(len(batch.pool), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        why = batch.table["why"].to_pylist()
        selection = Selection(place[batch.picked], [why[row] for row in batch.picked.tolist()], batch.outcome[rows], 0)
        state, scored = self.state, self.scored
        return propose(scored.candidates, scored.quotas, state.budget, state.select, state.seed, selection)

    def revised(self, decision: Decision) -> Selection:
        """The `Selection` (of the selectable rows) that results from a decision.

        Raises:
            DataError: the decision does not fit this proposal.
            SelectionError: it cannot be met: contradictions, quotas beyond the budget, too few examples.
        """
        batch = self.batch
        batch.check(decision)
        keys = batch.pool.keys
        change = Change(
            dropped=keys[batch.rows_of(decision.removed)],
            pinned=keys[batch.rows_of(decision.pin)],
            banned=keys[batch.banned(decision)],
            quotas=decision.quotas,
        )
        return revise(self.terms, change)


def record_decision(proposed: Proposed, decision: Decision) -> Artifact:
    """Publish a decision: `decision.json`, and its answers and edits as importable rows, `answers.jsonl`. The same decision on
    the same proposal is the same artifact."""
    document = decision.model_copy(update={"proposal": proposed.artifact.fingerprint}).document()

    def build(out: Path, scratch: Path) -> None:
        """Write `decision.json` and, if there are answers or edits, `answers.jsonl`."""
        write_json(out / DECISION_FILE, document)
        if decision.answers or decision.edits:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in answer_rows(proposed.batch, decision))
            (out / ANSWERS_FILE).write_text("".join(lines), encoding="utf-8")

    return proposed.session.run.stage(
        "decision",
        version=1,
        inputs={"proposal": proposed.artifact},
        params={"decision": document, "round": proposed.number},
        build=build,
        label="decision",
    )


def answer_rows(batch: Batch, decision: Decision) -> list[dict[str, Any]]:
    """The answered and the edited examples in the format of `label`, for `pool import`. An edited one has the id of what it was edited
    from in its metadata, as `edited_from`."""
    given = decision.answers | decision.edits
    rows = batch.rows_of(list(given))
    pool = batch.pool
    texts = zip(rows.tolist(), pool.messages(rows), pool.metadata(rows), given.items(), strict=True)
    found = []
    for row, messages, metadata, (name, response) in texts:
        edited = name in decision.edits
        ours = {
            "id": name,
            "source": str(pool.sources[row]),
            "messages": messages[:-1] if edited else messages,
            "response": response,
            "suggestion": "",
            **({EDITED_FROM: name} if edited else {}),
        }
        found.append(ours | {name: value for name, value in metadata.items() if name not in ours})
    return found


def decided(artifact: Artifact) -> Decision:
    """Read the decision of a published artifact."""
    return Decision.model_validate(artifact.json(DECISION_FILE))


def apply_decision(proposed: Proposed, recorded: Artifact) -> Artifact:
    """Publish the selection that results from a recorded decision: the files of a selection, `removed.parquet` (key and outcome of
    examples dropped or banned permanently) and `review.json` (the changes, for the report)."""
    proposal = proposed.artifact

    def build(out: Path, scratch: Path) -> None:
        """Apply the decision and write the files of the selection."""
        decision = decided(recorded)
        selection = proposed.revised(decision)
        table = revised_table(proposed, selection)
        batch = proposed.batch
        pq.write_table(table, out / "selection.parquet")
        write_picked(out, batch.pool, proposed.state.pool.rows[selection.picked], table)
        write_json(out / "quotas.json", revised_quotas(batch, decision, table))
        pq.write_table(_removed(batch, decision), out / REMOVED_FILE)
        write_json(out / "review.json", describe_changes(batch, decision, table))

    kept = ("select", "score", "seed", "round", "budget")
    return proposed.session.run.stage(
        "reviewed",
        version=1,
        inputs={"proposal": proposal, "decision": recorded},
        params={name: proposal.manifest["params"][name] for name in kept},
        build=build,
        label="apply review",
    )


def revised_table(proposed: Proposed, selection: Selection) -> pa.Table:
    """The proposal's selection.parquet with outcome, pick and why of the revised selection."""
    table, rows = proposed.batch.table, proposed.state.pool.rows
    outcome = np.array([CODE[name] for name in proposed.batch.outcome], dtype=np.int8)
    outcome[rows] = [CODE[name] for name in selection.outcome]
    order, why = np.full(len(table), -1, dtype=np.int64), np.full(len(table), None, dtype=object)
    picked = rows[selection.picked]
    order[picked], why[picked] = np.arange(len(picked)), selection.step
    columns = {
        "outcome": pa.DictionaryArray.from_arrays(pa.array(outcome), pa.array(OUTCOMES)),
        "pick": pa.array(order),
        "why": pa.array(why, type=pa.string()),
    }
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def revised_quotas(batch: Batch, decision: Decision, table: pa.Table) -> list[dict[str, Any]]:
    """The proposal's quotas.json with the picks after the review, and changed quotas and reasons."""
    taken = table["pick"].to_numpy() >= 0
    k = len(batch.quotas)
    count = np.bincount(batch.cluster[taken], minlength=k)
    tokens = np.bincount(batch.cluster[taken], weights=table["tokens"].to_numpy()[taken], minlength=k)
    entries = []
    for entry in batch.quotas:
        c = entry["cluster"]
        changed: Mapping[str, Any] = {}
        if c in decision.quotas:
            said = f"set in review (proposed: {entry['quota']:,}); {entry['reason']}"
            changed = {"quota": decision.quotas[c], "reason": said}
        elif c in decision.ban_clusters:
            changed = {"quota": 0, "reason": f"banned in review (proposed: {entry['quota']:,}); {entry['reason']}"}
        entries.append({**entry, "picked": int(count[c]), "tokens": int(tokens[c]), **changed})
    return entries


def _removed(batch: Batch, decision: Decision) -> pa.Table:
    dropped = batch.rows_of(decision.removed)
    banned = np.setdiff1d(np.flatnonzero(batch.banned(decision)), dropped)
    outcome = ["dropped_in_review"] * len(dropped) + ["banned_in_review"] * len(banned)
    keys = batch.pool.keys[np.concatenate([dropped, banned]).astype(np.int64)]
    return pa.table({"key": pa.array(keys, type=pa.uint64()), "outcome": pa.array(outcome, type=pa.string())})


def describe_changes(batch: Batch, decision: Decision, table: pa.Table) -> dict[str, Any]:
    """The changes of a review: counts, and lists of ids with their outcomes."""
    before, after = batch.table["pick"].to_numpy() >= 0, table["pick"].to_numpy() >= 0
    pinned = np.isin(batch.pool.ids, decision.pin)
    ids, sources = batch.pool.ids, batch.pool.sources
    gone, new = np.flatnonzero(before & ~after), np.flatnonzero(after & ~before)
    outcome = table["outcome"].cast(pa.string())
    names = [entry["name"] for entry in batch.quotas]

    def example(row: int) -> dict[str, Any]:
        """Id, source and cluster of pool row `row`."""
        return {"id": str(ids[row]), "source": str(sources[row]), "cluster": int(batch.cluster[row])}

    return {
        "proposed": int(before.sum()),
        "kept": int((before & after).sum()),
        "taken_out": [example(row) | {"outcome": outcome[int(row)].as_py()} for row in gone],
        "brought_in": [example(row) | {"pinned": bool(pinned[row])} for row in new],
        "dropped": len(decision.drop),
        "pinned": len(decision.pin),
        "banned_clusters": [{"cluster": c, "name": names[c]} for c in decision.ban_clusters],
        "banned_sources": decision.ban_sources,
        "banned_examples": int(batch.banned(decision).sum()),
        "quotas": [
            {"cluster": c, "name": names[c], "proposed": batch.quotas[c]["quota"], "set": quota}
            for c, quota in sorted(decision.quotas.items())
        ],
        "answered": len(decision.answers),
        "edited": len(decision.edits),
        "note": decision.note,
    }


def take_answers(session: Session, number: int) -> None:
    """Add the answers and edits of the previous round's review to the pool, as a new version, before round `number` begins."""
    recorded = rounds.recorded(session.run, number - 1, "decision") if number > 1 else None
    present = rounds.current_pool(session.run)
    begun = any(entry.number == number for entry in rounds.all_rounds(session.run))
    if begun or present is None or recorded is None or ANSWERS_FILE not in recorded.manifest["files"]:
        return
    sources = find_sources(PoolConfig(files=[str(recorded.path / ANSWERS_FILE)], format="labelling"))
    known = {entry["sha256"] for entry in present[1].json("pool.json")["files"]}
    if recorded.manifest["files"][ANSWERS_FILE]["sha256"] in known:
        return
    decision = decided(recorded)
    parts = [f"{counted(len(decision.answers), 'answer')}"] * bool(decision.answers)
    parts += [f"{counted(len(decision.edits), 'edited response')}"] * bool(decision.edits)
    session.tell(f"adding {' and '.join(parts)} of the last review to the pool")
    rounds.add_pool(session.run, import_sources(session, sources, previous=present[1]))
