"""`status --watch`: what a run does, until nothing works on it any more: drawn in place on a terminal, told line by line elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, TextIO

from al.commands.status import describe_progress, describe_status, describe_step
from al.run.status import status

SPARE_SECONDS = 1.0
"""How long nothing may hold the run's lock before it is taken for done: `make demo` twice, or one command after another."""


def watch(path: Path, every: float, out: TextIO | None = None) -> None:
    """Show the run at `path` every so many seconds until nothing works on it, then its status once more; Ctrl-C ends it too.

    Raises:
        RunStateError: there is no run at `path`.
    """
    out = sys.stdout if out is None else out
    document = status(path)
    try:
        if document["working"]:
            (_draw if out.isatty() else _tell)(path, every, document, out)
        print(describe_status(status(path)), file=out, flush=True)
    except KeyboardInterrupt:
        pass


def _next(path: Path, every: float) -> dict[str, Any]:
    """The status after a while; one that says it is over is looked at twice."""
    time.sleep(every)
    document = status(path)
    if not document["working"]:
        time.sleep(SPARE_SECONDS)
        document = status(path)
    return document


def _tell(path: Path, every: float, document: dict[str, Any], out: TextIO) -> None:
    """A line whenever what it would say changed, and the result of each round that ends meanwhile."""
    told, done = "", {row["round"] for row in document["rounds"] if row["state"] == "done"}
    while document["working"]:
        for row in document["rounds"]:
            if row["state"] == "done" and row["round"] not in done:
                done.add(row["round"])
                print(result_line(row), file=out, flush=True)
        line = now_line(document)
        if line != told:
            print(line, file=out, flush=True)
        told = line
        document = _next(path, every)


def _draw(path: Path, every: float, document: dict[str, Any], out: TextIO) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=out, highlight=False, markup=False, emoji=False)
    with Live(screen_of(document), console=console, refresh_per_second=4, transient=True) as live:
        while document["working"]:
            document = _next(path, every)
            live.update(screen_of(document), refresh=True)


def screen_of(document: dict[str, Any]) -> Any:
    """A status as rich draws it: rounds with their results, the stage under way with a bar, the losses so far."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    head = f"{document['run']}: {document['pool_examples']:,} examples, {document['owner'] or 'nothing works on it'}"
    parts: list[Any] = [Text(head, style="bold"), *(Text(result_line(row)) for row in document["rounds"])]
    if document["comparison"]:
        parts.append(Text("comparison: {runs_done} of {runs_asked} runs done".format(**document["comparison"])))
    parts.append(Text(now_line(document), style="yellow" if document["waiting"] else "cyan"))
    done, total = _how_far(document)
    if total:
        parts.append(ProgressBar(total=total, completed=done, width=60))
    return Group(*parts)


def now_line(document: dict[str, Any]) -> str:
    """What is going on, in one line. Of a training it is the step, which is newer than the progress file."""
    progress, stage = document["progress"], document["stage"]
    if document["waiting"]:
        return "waits for its review: the page's address is where the round was started"
    if stage and stage["step"]:
        return f"{stage['stage']}: {describe_step(stage['step'])}"
    if progress:
        return describe_progress(progress)
    return f"{stage['stage']}, since {stage['since']}" if stage else "between two stages"


def _how_far(document: dict[str, Any]) -> tuple[int, int | None]:
    """Units done and in all of the work under way; None in all: not known."""
    progress, stage = document["progress"], document["stage"]
    if stage and stage["step"]:
        return stage["step"]["step"], stage["step"]["steps"]
    return (progress["done"], progress["total"]) if progress else (0, None)


def result_line(row: dict[str, Any]) -> str:
    """A round in one line: its state, budget, and macro NLL on test by model once it is done."""
    scores = row.get("test_macro_nll") or {}
    said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    return f"round {row['round']}: {row['state']}, budget {row['budget']}" + (f", test NLL {said}" if said else "")
