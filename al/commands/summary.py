"""The summary of a finished round, as commands return and print it: numbers, verdict, page paths."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from al.commands.options import Options
from al.errors import RunStateError
from al.program import PROGRAM
from al.report.text.round import render_terminal
from al.run import rounds
from al.run.rounds import ADAPTER, read_summary, round_directory
from al.run.store import Run


def finished_summary(options: Options, number: int | None) -> dict[str, Any]:
    """The summary of a finished round, with the paths of its pages. Of a run on an object store, the page and the adapter are fetched."""
    path = options.existing_run()
    with Run.read(path) as run:
        finished = [r.number for r in rounds.all_rounds(run) if r.state == "done"]
        if not finished or (number is not None and number not in finished):
            raise RunStateError(
                f"{path}: round {number or 1} has no report yet; finished rounds: {finished or 'none'}."
            )
        number = number or finished[-1]
        adapter = rounds.recorded(run, number, ADAPTER)
        if adapter is not None and adapter.stored is not None:
            adapter.path  # noqa: B018  the first use fills the cache, to which rounds/NNN links
        summary, page = with_paths(path, read_summary(run, number)), rounds.required(run, number, "report")
    if not Path(summary["report_path"]).is_file():  # rounds/ is lost; the artifact is not
        summary["report_path"] = str(page.directory / "report.html")
    return summary


def with_paths(run: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with paths relative to the directory the command ran in: `report_path`, and if the round has an adapter's folder
    `adapter_path` and `generate_command`, which prompts it."""
    directory, number = round_directory(run, summary["round"]), summary["round"]
    paths = {"report_path": str(directory / "report.html")}
    if (directory / ADAPTER).is_dir():
        command = shlex.join([*PROGRAM.split(), "generate", "--run", str(run), "--round", str(number)])
        paths |= {"adapter_path": str(directory / ADAPTER), "generate_command": f'{command} "..."'}
    return {**summary, **paths}


def describe_summary(summary: dict[str, Any]) -> str:
    """The text of a summary for the terminal, or of a round that stopped for a review."""
    if "next" in summary:
        said = f"review: {summary['review']}\n" if summary["review"] else ""
        edit = (
            f"Set keep to no in {summary['exported']} where an example should go, then"
            if summary["exported"]
            else "Continue with"
        )
        return f"{said}round {summary['round']} is waiting before training. {edit}: {summary['next']}"
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    text = render_terminal(summary, width=width, color=sys.stdout.isatty())
    if "adapter_path" in summary:
        text += f"Adapter: {summary['adapter_path']} (its README.md says how to load it)\nTry it: {summary['generate_command']}\n"
    return text
