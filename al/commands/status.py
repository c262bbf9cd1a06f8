"""The text of `status` for the terminal."""

from __future__ import annotations

from typing import Any

from al.excerpt import counted
from al.program import PROGRAM
from al.run.progress import duration


def describe_status(document: dict[str, Any]) -> str:
    """The status document as text: rounds, the current stage with progress, and the command to continue."""
    lines = [
        f"run {document['run']}: pool version {document['pool_version'] or '–'} with {counted(document['pool_examples'], 'example')}"
    ]
    for row in document["rounds"]:
        line = f"  round {row['round']}  {row['state']:<5} budget {row['budget']:<8} started {row['started']}"
        scores = row.get("test_macro_nll")
        line += "  test NLL " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()) if scores else ""
        lines.append(line + _best(row))
    comparison, stage = document["comparison"], document["stage"]
    if comparison:
        lines.append(
            f"  comparison of {', '.join(comparison['strategies'])} at {comparison['budget']}: "
            f"{comparison['runs_done']} of {comparison['runs_asked']} runs done"
        )
    if document["working"]:
        lines.append(f"  working: {document['owner']}")
    if document["waiting"]:
        lines.append(f"  {describe_waiting(document)}")
    if document["progress"] and not (stage and stage["step"]):
        lines.append(f"  {describe_progress(document['progress'])}")
    if stage:
        lines.append(
            f"  {'in' if document['working'] else 'stopped in'} stage {stage['stage']} since {stage['since']}"
            + (f", {describe_step(stage['step'])}" if stage["step"] else "")
        )
    is_open = any(row["state"] == "open" for row in document["rounds"])
    if is_open and not document["working"] and not document["waiting"]:
        lines.append(f"  continue with: {PROGRAM} resume --run {document['run']}")
    if comparison and comparison["runs_done"] < comparison["runs_asked"] and not document["working"]:
        lines.append(f"  continue with: {comparison['command']}")
    return "\n".join(lines)


def describe_waiting(document: dict[str, Any]) -> str:
    """What a round that waits for its review waits for: its open page, or the command that shows it again."""
    if document["working"]:
        return "waiting for its review: the page's address is in the terminal that started the round"
    run, round_ = document["run"], document["rounds"][-1]
    return (
        f"round {round_['round']} is waiting for its review: {PROGRAM} review --run {run} shows its page, and {PROGRAM} round --budget "
        f"{round_['budget']} --run {run} --approve FILE reads an edited export. {PROGRAM} resume --run {run} trains without a review"
    )


def describe_progress(progress: dict[str, Any]) -> str:
    """`train: 12 of 60 steps, 0.52/s, 92 s left`."""
    of = "" if progress["total"] is None else f" of {progress['total']:,}"
    rate = f", {progress['rate']:,.{0 if progress['rate'] >= 10 else 2}f}/s" if progress["done"] else ""
    left = "" if progress["seconds_left"] is None else f", {duration(progress['seconds_left'])} left"
    return f"{progress['title']}: {progress['done']:,}{of} {progress['unit']}{rate}{left}"


def describe_step(step: dict[str, Any]) -> str:
    """`step 12/60, loss 1.234, dev loss 1.300, 300 tokens/s, 6.1 GiB, best dev loss 1.290 at step 8, 12 min left`."""
    dev = f", dev loss {step['dev_loss']:.3f}" if step.get("dev_loss") is not None else ""
    memory = f", {step['memory_gib']:.1f} GiB" if step.get("memory_gib") is not None else ""
    left = f", {duration(step['seconds_left'])} left" if step.get("seconds_left") is not None else ""
    return (
        f"step {step['step']}/{step['steps']}, loss {step['loss']:.3f}{dev}, "
        f"{step['tokens_per_s']:,.0f} tokens/s{memory}{_best(step)}{left}"
    )


def _best(found: dict[str, Any]) -> str:
    """The lowest dev loss, if dev was evaluated."""
    if found.get("best_dev_loss") is None:
        return ""
    return f", best dev loss {found['best_dev_loss']:.3f} at step {found['best_step']}"
