"""Looking at a run without touching it: `status`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from al import rounds
from al.report.publish import read_summary
from al.store import Run


def status(path: Path) -> dict[str, Any]:
    """Rounds with their state and results, the newest pool version, and the stage that runs or broke off last."""
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
                row["test_macro_nll"] = {
                    k: v["macro_nll"] for k, v in read_summary(path, entry.number)["evaluation"]["models"].items()
                }
            listed.append(row)
        owner, comparison = path / "run.lock.owner", path / "comparison.json"
        return {
            "run": str(path),
            "pool_version": pool[0] if pool else None,
            "pool_examples": pool[1].json("pool.json")["examples"] if pool else 0,
            "rounds": listed,
            "comparison": _comparison(comparison) if comparison.is_file() else None,
            "stage": _last_stage(path),
            "working": _is_locked(path),
            "owner": owner.read_text(encoding="utf-8").strip() if owner.is_file() else None,
        }


def _comparison(path: Path) -> dict[str, Any]:
    """How far a comparison is, and its command."""
    document = json.loads(path.read_text(encoding="utf-8"))
    strategies = [entry["name"] for entry in document["strategies"]]
    return {key: document[key] for key in ("runs_done", "runs_asked", "budget", "command")} | {"strategies": strategies}


def _is_locked(path: Path) -> bool:
    import filelock

    lock = filelock.FileLock(path / "run.lock")
    try:
        with lock.acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True


def _last_stage(path: Path) -> dict[str, Any] | None:
    """The stage that was started and not published, with its last training step if it has any."""
    stage, step = None, None
    events = path / "events.jsonl"
    for line in events.read_text(encoding="utf-8").splitlines() if events.is_file() else []:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if event["event"] == "stage.started":
            stage, step = event, None
        elif event["event"] == "stage.published":
            stage = step = None
        elif event["event"] == "train.step":
            step = {key: event[key] for key in ("step", "steps", "loss", "tokens_per_s")}
    return {"stage": stage["stage"], "since": stage["time"], "step": step} if stage else None


def describe_status(document: dict[str, Any]) -> str:
    """Status for the terminal."""
    lines = [
        f"run {document['run']}: pool version {document['pool_version'] or '–'} with {document['pool_examples']:,} examples"
    ]
    for row in document["rounds"]:
        line = f"  round {row['round']}  {row['state']:<5} budget {row['budget']:<8} started {row['started']}"
        scores = row.get("test_macro_nll")
        lines.append(line + ("  test NLL " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()) if scores else ""))
    comparison, stage = document["comparison"], document["stage"]
    if comparison:
        lines.append(
            f"  comparison of {', '.join(comparison['strategies'])} at {comparison['budget']}: "
            f"{comparison['runs_done']} of {comparison['runs_asked']} runs done"
        )
    if document["working"]:
        lines.append(f"  working: {document['owner']}")
    if stage:
        step = stage["step"]
        lines.append(
            f"  {'in' if document['working'] else 'stopped in'} stage {stage['stage']} since {stage['since']}"
            + (
                f", step {step['step']}/{step['steps']}, loss {step['loss']:.3f}, {step['tokens_per_s']:,.0f} tokens/s"
                if step
                else ""
            )
        )
    if any(row["state"] == "open" for row in document["rounds"]) and not document["working"]:
        lines.append(f"  continue with: python cli.py resume --run {document['run']}")
    if comparison and comparison["runs_done"] < comparison["runs_asked"] and not document["working"]:
        lines.append(f"  continue with: {comparison['command']}")
    return "\n".join(lines)
