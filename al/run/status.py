"""What a run holds and what is running on it, read without writing to it."""

from __future__ import annotations

import fcntl
import functools
import json
import os
from pathlib import Path
from typing import Any

from al.run import rounds
from al.run.live import progress_of, stage_under_way, waits_for_review
from al.run.store import LOCK, Run


def status(path: Path) -> dict[str, Any]:
    """Rounds with their state and results, the newest pool version, the stage that runs or stopped last, and its progress.

    "waiting" is "review" while a review's page is open, and where a round stopped for a review that nobody decided yet, else None;
    "progress" is what the working process reports, or None.
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
                row |= _results(rounds.required(run, entry.number, "report").path)
            listed.append(row)
        holder = path / f"{LOCK}.owner"
        owner = holder.read_text(encoding="utf-8", errors="replace").strip() if holder.is_file() else None
        working = _is_locked(path)
        return {
            "run": str(path),
            "pool_version": pool[0] if pool else None,
            "pool_examples": pool[1].json("pool.json")["examples"] if pool else 0,
            "rounds": listed,
            "comparison": _comparison(path / "comparison.json"),
            "stage": stage_under_way(path),
            "waiting": "review" if (waits_for_review(path) if working else _undecided(listed)) else None,
            "progress": progress_of(path, owner) if working else None,
            "working": working,
            "owner": owner,
        }


def _undecided(listed: list[dict[str, Any]]) -> bool:
    """Whether the last round stopped for a review, for which it keeps its proposal, and has neither a decision nor a training yet."""
    published = set(listed[-1]["published"]) if listed and listed[-1]["state"] == "open" else set()
    return "proposal" in published and not published & {"decision", "train"}


@functools.lru_cache(maxsize=256)
def _results(report: Path) -> dict[str, Any]:
    """The results of a finished round. Its report is large, and an artifact does not change."""
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    selected = (summary.get("training") or {}).get("selected") or {}
    best = {key: selected.get(key) for key in ("best_step", "best_dev_loss")}
    return {"test_macro_nll": {k: v["macro_nll"] for k, v in summary["evaluation"]["models"].items()}, **best}


def _comparison(path: Path) -> dict[str, Any] | None:
    """The progress of a comparison, and its command; None if there is none, or the file is another program's."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        strategies = [entry["name"] for entry in document["strategies"]]
        return {key: document[key] for key in ("runs_done", "runs_asked", "budget", "command")} | {
            "strategies": strategies
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a run. A shared lock, given back at once, finds it out without writing: the file may be on a
    read-only disk or belong to another user, or be no lock at all."""
    try:
        handle = os.open(path / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
