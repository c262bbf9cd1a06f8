"""`status --watch`: shows a run until it is idle. A terminal is redrawn in place; other output gets one line per change."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, TextIO

from al.commands.status import describe_progress, describe_status, describe_step, describe_waiting
from al.excerpt import counted
from al.run.status import status
from al.terminal import displayable, show

SPARE_SECONDS = 1.0
"""Seconds without a lock holder after which the run counts as idle. It bridges two commands in sequence, such as `make demo` twice."""


def watch(path: Path, every: float, out: TextIO | None = None) -> None:
    """Show the run at `path` every `seconds` until it is idle, then its status once more. Ctrl-C ends it too.

    Raises:
        RunStateError: there is no run at `path`.
    """
    out = sys.stdout if out is None else out
    document = status(path)
    try:
        if document["working"]:
            (_draw if out.isatty() else _tell)(path, every, document, out)
        show(describe_status(status(path)), file=out)
    except KeyboardInterrupt:
        pass


def _next(path: Path, every: float) -> dict[str, Any]:
    """The status after `seconds`. An idle status is read a second time before it counts."""
    time.sleep(every)
    document = status(path)
    if not document["working"]:
        time.sleep(SPARE_SECONDS)
        document = status(path)
    return document


def _tell(path: Path, every: float, document: dict[str, Any], out: TextIO) -> None:
    """Print a line when its text changed, and the result of each round that ended since."""
    printed, done = "", {row["round"] for row in document["rounds"] if row["state"] == "done"}
    while document["working"]:
        for row in document["rounds"]:
            if row["state"] == "done" and row["round"] not in done:
                done.add(row["round"])
                show(result_line(row), file=out)
        line = now_line(document)
        if line != printed:
            show(line, file=out)
        printed = line
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
    """A status for rich to draw: rounds with their results, the current stage with a bar, the losses so far."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    document = displayable(document)
    head = f"{document['run']}: {counted(document['pool_examples'], 'example')}, {document['owner'] or 'idle'}"
    parts: list[Any] = [Text(head, style="bold"), *(Text(result_line(row)) for row in document["rounds"])]
    if document["comparison"]:
        parts.append(Text("comparison: {runs_done} of {runs_asked} runs done".format(**document["comparison"])))
    parts.append(Text(now_line(document), style="yellow" if document["waiting"] else "cyan"))
    done, total = _how_far(document)
    if total:
        parts.append(ProgressBar(total=total, completed=done, width=60))
    return Group(*parts)


def now_line(document: dict[str, Any]) -> str:
    """The current work in one line. For training it is the last step, which is newer than the progress file."""
    progress, stage = document["progress"], document["stage"]
    if document["waiting"]:
        return describe_waiting(document)
    if stage and stage["step"]:
        return f"{stage['stage']}: {describe_step(stage['step'])}"
    if progress:
        return describe_progress(progress)
    return f"{stage['stage']}, since {stage['since']}" if stage else "between stages"


def _how_far(document: dict[str, Any]) -> tuple[int, int | None]:
    """Units done and total units of the current work; a total of None is unknown."""
    progress, stage = document["progress"], document["stage"]
    if stage and stage["step"]:
        return stage["step"]["step"], stage["step"]["steps"]
    return (progress["done"], progress["total"]) if progress else (0, None)


def result_line(row: dict[str, Any]) -> str:
    """A round in one line: its state, budget, and, once it is done, macro NLL on test by model."""
    scores = row.get("test_macro_nll") or {}
    said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    return f"round {row['round']}: {row['state']}, budget {row['budget']}" + (f", test NLL {said}" if said else "")
