"""The summary of a finished round, as commands return and print it: numbers, verdict, page paths."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from al.commands.options import Options
from al.errors import RunStateError
from al.report.text.round import render_terminal
from al.run import rounds
from al.run.rounds import read_summary, round_directory
from al.run.store import Run


def finished_summary(options: Options, number: int | None) -> dict[str, Any]:
    """The summary of a finished round, with the paths of its pages."""
    path = options.existing_run()
    with Run.read(path) as run:
        finished = [r.number for r in rounds.all_rounds(run) if r.state == "done"]
    if not finished or (number is not None and number not in finished):
        raise RunStateError(f"{path}: round {number or 1} has no report yet; finished rounds: {finished or 'none'}.")
    return with_paths(path, read_summary(path, number or finished[-1]))


def with_paths(run: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with `report_path`, relative to the directory the command ran in."""
    return {**summary, "report_path": str(round_directory(run, summary["round"]) / "report.html")}


def describe_summary(summary: dict[str, Any]) -> str:
    """The text of a summary for the terminal, or of a round that stopped for a review."""
    if "next" in summary:
        said = f"review: {summary['review']}\n" if summary["review"] else ""
        return f"{said}round {summary['round']} is waiting before training. Continue with: {summary['next']}"
    return render_terminal(
        summary, width=min(shutil.get_terminal_size((100, 24)).columns, 120), color=sys.stdout.isatty()
    )
