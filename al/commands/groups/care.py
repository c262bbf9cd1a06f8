"""Commands that look after a machine and a run: `doctor`, `verify`, `repair`, `gc`, `export-run`, `import-run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from al.commands.command_line import common, emit, run_argument
from al.terminal import show


@click.command("doctor")
@click.option(
    "--drop-damaged", is_flag=True, help="Remove damaged artifacts of the run, so that the next round makes them again."
)
@common
@run_argument
def doctor_command(options: Any, drop_damaged: bool) -> None:
    """Check whether `round` can start here with this config; with --run, check every file of a run."""
    from al.commands import doctor

    findings = doctor.examine(options, drop_damaged)
    emit(options, findings, doctor.describe_findings)
    if findings["problems"]:
        sys.exit(findings["exit_code"])


@click.command("verify")
@click.option("--all", "every", is_flag=True, help="Every run under runs/.")
@common
@run_argument
def verify_command(options: Any, every: bool) -> None:
    """Read every file of a run and compare it with the sha256 it was published with; exit code 5 if one differs."""
    from al.commands import doctor

    document = doctor.verify(options, every)
    emit(options, document, doctor.describe_verified)
    sys.exit(document["exit_code"])


@click.command("repair")
@common
@run_argument
def repair_command(options: Any) -> None:
    """Make a lost or damaged run.db again from manifests, events.jsonl and rounds/, and list what cannot be made."""
    from al.run.rebuild import describe_rebuilt, rebuild

    emit(options, rebuild(options.run_directory()), describe_rebuilt)


@click.command("gc")
@click.option(
    "--yes", is_flag=True, help="Delete without asking. Without --yes and without a terminal, nothing is deleted."
)
@common
@run_argument
def gc_command(options: Any, yes: bool) -> None:
    """List the run's trash (leftovers of killed processes, damaged artifacts, abandoned training) and delete it after confirmation."""
    from al.commands import gc

    def confirm(document: dict[str, Any]) -> bool:
        """Print the trash and ask whether to delete it; False without a terminal unless --yes."""
        if not options.as_json:
            show(gc.describe_trash(document))
        return yes or (not options.as_json and sys.stdin.isatty() and click.confirm("Delete all of it permanently?"))

    emit(options, gc.empty_trash(options, confirm), gc.describe_emptied)


@click.command("export-run")
@click.argument("out", metavar="FILE", type=click.Path(path_type=Path))
@common
def export_run_command(options: Any, out: Path) -> None:
    """Write the run to FILE, a tar: artifacts, rounds and history, every sha256 checked; without scratch and trash."""
    from al.run.archive import describe_archived, export_run

    emit(options, export_run(options.existing_run(), out), describe_archived)


@click.command("import-run")
@click.argument("archive", metavar="FILE", type=click.Path(path_type=Path))
@common
def import_command(options: Any, archive: Path) -> None:
    """Make the run of FILE, which export-run wrote, at --run; every sha256 is checked, and its rounds go on there."""
    from al.run.archive import describe_archived, import_run

    if options.run_path is None:
        raise click.UsageError("import-run needs --run, the directory to make.")
    emit(options, import_run(archive, options.run_path), describe_archived)
