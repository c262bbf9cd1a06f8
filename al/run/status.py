"""What a run holds and what is running on it, read without writing to it."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from al.run import rounds
from al.run.live import progress_of, stage_under_way, waits_for_review
from al.run.store import Run


def status(path: Path) -> dict[str, Any]:
    """Rounds with their state and results, the newest pool version, the stage that runs or stopped last, and its progress.

    "waiting" is "review" while a review's page is open, else None; "progress" is what the working process reports, or None.
    """
    with Run.read(path) as run:
        pool = rounds.current_pool(run)
        listed = []
        for entry in rounds.all_rounds(run):
            row = {
                "round": entry.number,
                "state": entry.state,
                "budget": entry.budget,
                "started": entry.started,
                "finished": entry.finished,
                "published": sorted(rounds.roles(run, entry.number)),
            }
            if entry.state == "done":
                row |= _results(path, entry.number, entry.finished)
            listed.append(row)
        holder, comparison = path / "run.lock.owner", path / "comparison.json"
        owner, working = holder.read_text(encoding="utf-8").strip() if holder.is_file() else None, _is_locked(path)
        return {
            "run": str(path),
            "pool_version": pool[0] if pool else None,
            "pool_examples": pool[1].json("pool.json")["examples"] if pool else 0,
            "rounds": listed,
            "comparison": _comparison(comparison) if comparison.is_file() else None,
            "stage": stage_under_way(path),
            "waiting": "review" if working and waits_for_review(path) else None,
            "progress": progress_of(path, owner) if working else None,
            "working": working,
            "owner": owner,
        }


@functools.lru_cache(maxsize=256)
def _results(path: Path, number: int, finished: str | None) -> dict[str, Any]:
    """The results of a finished round. Its summary is large and does not change until the round is `finished` again."""
    summary = rounds.read_summary(path, number)
    selected = (summary.get("training") or {}).get("selected") or {}
    best = {key: selected.get(key) for key in ("best_step", "best_dev_loss")}
    return {"test_macro_nll": {k: v["macro_nll"] for k, v in summary["evaluation"]["models"].items()}, **best}


def _comparison(path: Path) -> dict[str, Any]:
    """The progress of a comparison, and its command."""
    document = json.loads(path.read_text(encoding="utf-8"))
    strategies = [entry["name"] for entry in document["strategies"]]
    return {key: document[key] for key in ("runs_done", "runs_asked", "budget", "command")} | {"strategies": strategies}


def _is_locked(path: Path) -> bool:
    import filelock

    if not os.access(path, os.W_OK):
        return False  # a read-only copy: nothing runs on it
    lock = filelock.FileLock(path / "run.lock")
    try:
        with lock.acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
