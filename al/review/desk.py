"""The state of one review while a page shows it: the proposal, the draft, and the draft's effect. Contains no HTTP.

Methods may be called from several threads; one lock serialises them.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from al.errors import DataError, RunStateError, UserError
from al.review.apply import Proposed
from al.review.decision import Decision, parse_decision
from al.review.draft import changed, load_draft, save_draft
from selection.errors import SelectionError

View = Literal["batch", "changed", "left", "unlabelled", "pool"]
PAGE_ROWS = 200
CUT = 400
"""Characters of a text in a list; the example itself has the whole text."""


class Desk:
    """One proposal under review. `approved` is set when it is approved; no change is possible after that.

    `resume`: the command that trains on the approved selection; None if the process that serves the page goes on with it.
    """

    def __init__(self, proposed: Proposed, folder: Path, resume: str | None = None):
        self.proposed = proposed
        self.resume = resume
        self.folder = folder
        self.draft, self.notice = load_draft(folder, proposed.artifact.fingerprint)
        self.approved = threading.Event()
        self.finished: str | None = None
        self.watched = -math.inf
        """Monotonic time of the page's last progress request."""
        self.revision = 0
        self._past: list[Decision] = []
        self._lock = threading.RLock()
        self._problem: str | None = None
        self._now = np.empty(0, dtype=np.int64)
        self._why: dict[int, str] = {}
        self._apply()

    def _apply(self) -> None:
        """Update the draft's effect. If the draft cannot be met, the last result stays, with the reason."""
        batch = self.proposed.batch
        try:
            selection = self.proposed.revised(self.draft)
        except (UserError, SelectionError) as error:
            self._problem = str(error)
            if not len(self._now):
                self._now = batch.picked
            return
        self._problem = None
        self._now = self.proposed.state.pool.rows[selection.picked]
        self._why = dict(zip(self._now.tolist(), selection.step, strict=True))

    def state(self) -> dict[str, Any]:
        """Everything but the examples: the proposal by cluster and source, and the draft's effect on it."""
        with self._lock:
            batch, state = self.proposed.batch, self.proposed.state
            budget = batch.proposal.manifest["params"]["budget"]
            before, now = set(batch.picked.tolist()), set(self._now.tolist())
            pinned = np.isin(batch.pool.ids, self.draft.pin)
            return {
                "run": state.session.run.path.name,
                "round": state.number,
                "strategy": state.select.strategy,
                "unit": budget["unit"],
                "budget": budget["amount"],
                "spent": int(self.proposed.terms.amount[self._place(self._now)].sum()),
                "counts": {
                    "proposed": len(before),
                    "kept": len(before & now),
                    "out": len(before - now),
                    "pinned": int(pinned.sum()),
                    "filled": len([row for row in now - before if not pinned[row]]),
                    "dropped": len(self.draft.drop),
                    "answered": len(self.draft.answers),
                    "edited": len(self.draft.edits),
                    "unlabelled": int((batch.outcome == "unlabelled").sum()),
                },
                "clusters": self._clusters(),
                "sources": self._sources(),
                "scores": [name for name in batch.scores if name != "length"],
                "draft": {"edits": {}, **self.draft.document()},
                "revision": self.revision,
                "undoable": len(self._past),
                "problem": self._problem,
                "notice": self.notice,
                "approved": self.approved.is_set(),
                "finished": self.finished,
                "resume": self.resume,
            }

    def _place(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.proposed.state.pool.rows, rows)

    def _clusters(self) -> list[dict[str, Any]]:
        batch = self.proposed.batch
        now = np.bincount(batch.cluster[self._now], minlength=len(batch.quotas))
        shown = ("cluster", "name", "size", "selectable", "quota", "picked", "tokens", "reason")
        banned = set(self.draft.ban_clusters)
        return [
            {
                **{key: entry[key] for key in shown},
                "now": int(now[c]),
                "banned": c in banned,
                "set": self.draft.quotas.get(c),
            }
            for c, entry in enumerate(batch.quotas)
        ]

    def _sources(self) -> list[dict[str, Any]]:
        batch = self.proposed.batch
        sources = batch.pool.sources
        before, now = Counter(sources[batch.picked].tolist()), Counter(sources[self._now].tolist())
        names = sorted({*before, *now, *self.draft.ban_sources}, key=lambda name: (-before[name], name))
        banned = set(self.draft.ban_sources)
        return [{"source": n, "picked": before[n], "now": now[n], "banned": n in banned} for n in names]

    def examples(
        self, view: View, cluster: int | None, source: str | None, search: str, offset: int, limit: int
    ) -> dict[str, Any]:
        """A page of examples: `total` matches, and `rows` with texts of at most 400 characters.

        Args:
            view: "batch": examples the draft would train on; "changed": added and removed examples; "left": examples that may be
                picked but are not; "unlabelled": examples without a response; "pool": every example, whatever its outcome.
        """
        with self._lock:
            batch = self.proposed.batch
            rows = self._rows_of(view)
            keep = np.ones(len(rows), dtype=bool)
            if cluster is not None:
                keep &= batch.cluster[rows] == cluster
            if source is not None:
                keep &= batch.pool.sources[rows] == source
            if search.strip():
                keep &= batch.matching(search.strip())[rows]
            rows = rows[keep]
            shown = rows[max(0, offset) :][: max(1, min(limit, PAGE_ROWS))]
            return {"total": len(rows), "offset": max(0, offset), "rows": self._describe(shown, CUT)}

    def example(self, name: str) -> dict[str, Any]:
        """One example with its full text. Raises DataError for an unknown id."""
        if len(name) != 16 or any(c not in "0123456789abcdef" for c in name):
            raise DataError(f"no example of the pool has the id {name[:40]!r}.")
        with self._lock:
            batch = self.proposed.batch
            rows = batch.rows_of([name])
            return self._describe(rows, None)[0] | {"messages": batch.pool.messages(rows)[0]}

    def _rows_of(self, view: View) -> np.ndarray:
        batch = self.proposed.batch
        if view == "batch":
            return self._now
        if view == "pool":
            return np.arange(len(batch.pool))
        if view == "unlabelled":
            return np.flatnonzero(batch.outcome == "unlabelled")
        if view == "changed":
            named = batch.rows_of(sorted({*self.draft.removed, *self.draft.pin, *self.draft.answers}))
            return np.union1d(np.setxor1d(batch.picked, self._now), named).astype(np.int64)
        return np.setdiff1d(self.proposed.state.pool.rows, self._now)

    def _describe(self, rows: np.ndarray, cut: int | None) -> list[dict[str, Any]]:
        batch, draft = self.proposed.batch, self.draft
        before, now = set(batch.picked.tolist()), set(self._now.tolist())
        dropped, pinned = set(draft.drop), set(draft.pin)
        found = []
        for row, record in zip(rows.tolist(), batch.records(rows), strict=True):
            name = record["id"]
            state = "dropped" if name in dropped else "pinned" if name in pinned else _state(row in before, row in now)
            state = "edited" if name in draft.edits else state
            state = "unlabelled" if record["outcome"] == "unlabelled" else state
            scores = {
                s: record[s] for s in batch.scores if s != "length" and record[s] is not None and np.isfinite(record[s])
            }
            found.append(
                {
                    "id": name,
                    "source": record["source"],
                    "cluster": record["cluster"],
                    "tokens": record["tokens"],
                    "scores": scores,
                    "state": state,
                    "in": row in now,
                    "why": self._why.get(row) or batch.why(record),
                    "suspicion": record["suspicion"],
                    "prompt": _cut(record["prompt"], cut),
                    "response": _cut(record["response"], cut),
                    "answer": draft.answers.get(name),
                    "edit": draft.edits.get(name),
                }
            )
        return found

    def change(self, kind: str, key: str, value: Any) -> dict[str, Any]:
        """Change the draft, save it, and return the new state.

        Raises:
            DataError: the change names something that does not exist or cannot be picked. RunStateError: already approved.
        """
        with self._lock:
            self._check_open()
            draft = parse_decision(changed(self.draft, kind, key, value), f"{kind} {key}".strip())
            self.proposed.batch.check(draft)
            if draft != self.draft:
                self._past.append(self.draft)
            return self._take(draft)

    def undo(self) -> dict[str, Any]:
        """Take back the last change made since this page was served, save the draft, and return the new state.

        Raises:
            RunStateError: there is no such change, or the review is approved.
        """
        with self._lock:
            self._check_open()
            if not self._past:
                raise RunStateError("there is no change to undo.")
            return self._take(self._past.pop())

    def _take(self, draft: Decision) -> dict[str, Any]:
        save_draft(self.folder, draft)
        self.draft = draft
        self.revision += 1
        self._apply()
        return self.state()

    def approve(self, revision: int) -> dict[str, Any]:
        """Approve the draft at `revision`.

        Raises:
            RunStateError: it was changed since, or is already approved. DataError: it cannot be met.
        """
        with self._lock:
            self._check_open()
            if revision != self.revision:
                raise RunStateError("the review was changed in another window; check it again, then approve.")
            if self._problem is not None:
                raise DataError(self._problem)
            save_draft(self.folder, self.draft)
            self.approved.set()
            return self.state()

    def _check_open(self) -> None:
        if self.approved.is_set():
            raise RunStateError("this review is approved and cannot be changed any more.")


def _state(before: bool, now: bool) -> str:
    """The draft's effect on an example that it does not name."""
    return {(True, True): "kept", (False, True): "filled", (True, False): "out", (False, False): "left"}[before, now]


def _cut(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else text[:limit] + "…"
