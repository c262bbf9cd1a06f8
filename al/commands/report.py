"""`report`: prints a round's report, as text or Markdown, writes figures, or compares rounds of several runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al.commands.compare import describe_comparison
from al.commands.summary import describe_summary, finished_summary
from al.comparison.runs import compare_runs
from al.comparison.text import comparison_as_markdown, comparison_as_text
from al.errors import ConfigError, EnvironmentProblem, RunStateError
from al.report.page.figures import write_figures
from al.report.text.round import render_markdown
from al.run import rounds
from al.run.store import Run
from al.terminal import displayable

if TYPE_CHECKING:
    from al.commands.options import Options


@dataclass(frozen=True)
class Wanted:
    """The options of `report`. `form`: file format of the figures; `out`: file to write the text to instead of the terminal."""

    number: int | None = None
    compared: tuple[Path, ...] = ()
    markdown: bool = False
    figures: Path | None = None
    form: str = "svg"
    out: Path | None = None


def report(options: Options, wanted: Wanted) -> tuple[Any, str]:
    """The document that `--json` prints, and the text that is printed without it.

    Raises:
        ConfigError, RunStateError: options that do not fit together, or no such round. EnvironmentProblem: `out` cannot be written.
    """
    document, text = _compared(wanted) if wanted.compared else _one(options, wanted)
    if wanted.out is None:
        return document, text
    try:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(f"--out {wanted.out}: cannot be written: {error.strerror or error}") from error
    return document, displayable(f"written to {wanted.out}")


def _one(options: Options, wanted: Wanted) -> tuple[Any, str]:
    if (comparison := _comparison(options, wanted)) is not None:
        return comparison
    summary = finished_summary(options, wanted.number)
    if wanted.figures is None:
        return summary, render_markdown(summary) if wanted.markdown else describe_summary(summary)
    if wanted.markdown:
        raise ConfigError("report: --figures writes files and --md prints text; use two commands.")

    written = write_figures(summary, wanted.figures, wanted.form)
    missing = [f"no data for the charts: {', '.join(written['left_out'])}"] if written["left_out"] else []
    return written, displayable("\n".join([*written["files"], *missing]))


def _comparison(options: Options, wanted: Wanted) -> tuple[Any, str] | None:
    """The document and text of a run that `compare` made, which has no rounds; None for a run of rounds."""
    path = options.existing_run()
    file = path / "comparison.json"
    with Run.read(path) as run:
        if rounds.last_round(run) is not None or not file.is_file():
            return None
    if wanted.figures is not None or wanted.number is not None:
        raise ConfigError(
            f"report: {path} is a comparison, which has no rounds and no figures; remove --round and --figures."
        )
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunStateError(
            f"{file}: is not whole ({error}); the `compare` command that made it writes it again from the finished runs."
        ) from error
    document["page"] = str(path / "comparison.html")
    return document, comparison_as_markdown(document) if wanted.markdown else describe_comparison(document)


def _compared(wanted: Wanted) -> tuple[Any, str]:
    if wanted.figures is not None:
        raise ConfigError("report: --figures needs a single run; remove --compare.")
    document = compare_runs(wanted.compared, wanted.number)
    width = min(shutil.get_terminal_size((100, 24)).columns, 140)
    return document, comparison_as_markdown(document) if wanted.markdown else comparison_as_text(document, width)
