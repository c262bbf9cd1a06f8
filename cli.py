#!/usr/bin/env python
"""Winnow's command line: parses options, calls `al.commands`, prints. Heavy libraries load inside commands, so `--help` is fast.

Exit codes: 0 done, 1 a defect of Winnow, 2 usage or configuration, 3 data, 4 environment (no GPU, disk full, out of memory, file
not reachable), 5 state of the run (locked, another pool, damaged), 6 training diverged, 130 stopped by the user.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

try:
    import click

    import al
    from al.commands.command_line import (
        common,
        emit,
        map_option,
        of_run,
        port_option,
        round_options,
        run_argument,
        run_command_line,
    )
    from al.commands.groups.care import (
        doctor_command,
        export_run_command,
        gc_command,
        import_command,
        repair_command,
        verify_command,
    )
    from al.commands.groups.models import (
        compare_command,
        eval_command,
        export_command,
        generate_command,
        label_command,
        serve_command,
        train_command,
    )
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: {sys.executable} has no package {missing.name}. `make demo` installs everything into .venv; then use "
        ".venv/bin/python cli.py, or install Winnow into this Python with `pip install .`"
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(al.__version__, prog_name="winnow")
def cli() -> None:
    """Find the examples worth training on, train a 4-bit LoRA on them, measure again.

    Start with `round --budget 5000`. After any interruption the same command resumes the round.
    """


@cli.command("round")
@click.option("--budget", required=True, help="5000 (examples), 2Mtok (tokens) or 30min (of training).")
@click.option("--dry-run", is_flag=True, help="Print the plan and run nothing (same as `plan`).")
@click.option(
    "--review/--auto",
    "review",
    default=None,
    help="Stop after the selection and serve a local page to read, change and approve it; or train without asking.  [default: --auto]",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --review: write the selection to this .csv or .jsonl instead of serving a page, and stop.",
)
@click.option(
    "--approve",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Read the decision from this file (an edited export, or a decision as .json) and continue.",
)
@port_option
@round_options
def round_command(
    options: Any,
    budget: str,
    dry_run: bool,
    review: bool | None,
    export: Path | None,
    approve: Path | None,
    port: int,
) -> None:
    """Run the next round, or finish an interrupted one."""
    from al.commands.rounds import run_next_round
    from al.commands.summary import describe_summary
    from al.review.ask import Asking
    from al.run.progress import stop_on_signals

    if export and not review:
        raise click.UsageError("--export needs --review as well.")
    if approve and review is not None:
        raise click.UsageError("--approve reads the decision from a file: remove --review and --auto.")
    if dry_run:
        _print_plan(options, budget)
        return
    page = bool(review) and export is None
    stop_on_signals()
    asking = Asking(page=page, export=export, approve=approve, auto=review is False, port=port)
    emit(options, run_next_round(options, budget, asking), describe_summary)


@cli.command("review")
@click.option(
    "--approve",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Record the decision of this file (an edited --export, or decision.json) instead of serving the page.",
)
@port_option
@common
@run_argument
def review_command(options: Any, port: int, approve: Path | None) -> None:
    """Serve the review page of the open round's selection, or record a decision from a file. Nothing is trained: `resume` does."""
    from al.commands.review import review
    from al.commands.summary import describe_summary

    emit(options, review(options, port, approve), describe_summary)


@cli.command("run")
@click.option("--rounds", type=click.IntRange(min=1), help="Stop after this many rounds in total ...")
@click.option(
    "--until",
    metavar="TIME",
    help="... or when the next round would end after this time of work on the run, e.g. 22h; interruptions do not count.",
)
@click.option("--budget", required=True, help="Budget of each round.")
@click.option(
    "--until-no-gain/--all-rounds",
    default=True,
    help="... or earlier, if the dev gain over the previous round is not significant.",
)
@round_options
def run_command(options: Any, rounds: int | None, budget: str, until_no_gain: bool, until: str | None) -> None:
    """Run rounds until there are K, until a time is spent, or until a round brings no significant gain."""
    from al.commands.rounds import run_rounds
    from al.commands.summary import describe_summary

    summary, printed = run_rounds(options, budget, rounds, until_no_gain, until)
    if not printed:
        emit(options, summary, describe_summary)


@cli.command("resume")
@common
@run_argument
def resume_command(options: Any) -> None:
    """Finish the interrupted round with the config and budget it was started with."""
    from al.commands.rounds import resume
    from al.commands.summary import describe_summary

    emit(options, resume(options), describe_summary)


@cli.command("status")
@click.option(
    "--watch",
    is_flag=False,
    flag_value=2.0,
    type=click.FloatRange(min=0.1),
    metavar="[SECONDS]",
    default=None,
    help="Refresh every SECONDS (default 2) until the run is idle.",
)
@common
@run_argument
def status_command(options: Any, watch: float | None) -> None:
    """Show rounds, stages and current progress, also while another process works on the run."""
    from al.commands.status import describe_status
    from al.run.status import status

    if watch is not None and options.as_json:
        raise click.UsageError("--watch follows a run, --json prints one document: use only one of them.")
    if watch is not None:
        from al.commands.watch import watch as watch_run

        watch_run(options.existing_run(), watch)
        return
    emit(options, status(options.existing_run()), describe_status)


@cli.command("report")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN RUN …]")
@click.option(
    "--round", "number", type=click.IntRange(min=1), default=None, help="Which round.  [default: the last finished one]"
)
@click.option("--md", "markdown", is_flag=True, help="Print it as Markdown, for a pull request.")
@click.option("--compare", is_flag=True, help="Compare the runs given as arguments side by side.")
@click.option(
    "--figures", type=click.Path(path_type=Path, file_okay=False), help="Write the main charts here, for papers."
)
@click.option(
    "--format", "form", type=click.Choice(["svg", "png", "pdf"]), default="svg", show_default=True, help="Of --figures."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the text to this file.")
@common
def report_command(options: Any, runs: tuple[Path, ...], compare: bool, **wanted: Any) -> None:
    """Print a round's report and the path of its page; or write Markdown, figures, or a comparison of several runs."""
    from al.commands.report import Wanted, report

    if compare and not runs:
        raise click.UsageError("--compare needs two or more runs as arguments.")
    if len(runs) > 1 and not compare:
        raise click.UsageError("Several runs are compared with --compare; a report is of one run.")
    options = options if compare else of_run(options, runs[0] if runs else None)
    document, text = report(options, Wanted(compared=runs if compare else (), **wanted))
    emit(options, document, lambda document: text)


@cli.command("plan")
@click.option("--budget", required=True, help="5000 (examples), 2Mtok (tokens) or 30min (of training).")
@click.option("--until", metavar="TIME", help="Also estimate how many rounds `run --until TIME` runs.")
@click.option(
    "--gpu",
    metavar="CARD",
    help="Plan for a card that is not here, from its specification: 24GB, 'RTX 4090', A100-80GB, H200 …",
)
@click.option(
    "--search", metavar="TIME", help="Look for near-duplicates for so long, such as 2min; a few seconds if not given."
)
@round_options
def plan_command(options: Any, budget: str, until: str | None, gpu: str | None, search: str | None) -> None:
    """Say whether the next round fits the card, how long it takes and on how many tokens it trains, without running it."""
    _print_plan(options, budget, gpu, until, search)


def _print_plan(
    options: Any, budget: str, gpu: str | None = None, until: str | None = None, search: str | None = None
) -> None:
    from al.commands import plan

    emit(options, plan.plan_round(options, budget, gpu, until, search), plan.describe_plan)


@cli.group("pool")
def pool_group() -> None:
    """Import, inspect, search and export data."""


@pool_group.command("import")
@click.argument("sources", nargs=-1, required=True)
@click.option("--format", "format_name", default=None, help="Row format by name, instead of detection for each row.")
@click.option("--strict", is_flag=True, help="Stop at the first bad row instead of quarantining it.")
@common
@map_option
def pool_import(options: Any, sources: tuple[str, ...], format_name: str | None, strict: bool) -> None:
    """Add files, folders, globs, presets or hub:OWNER/NAME[config]:split to the run's pool as a new version."""
    from al.commands import pool
    from al.run.progress import stop_on_signals

    stop_on_signals()
    document = pool.import_into_pool(options, sources, format_name, strict)
    emit(options, document, pool.describe_pool)


@pool_group.command("presets")
@common
def pool_presets(options: Any) -> None:
    """List the published sets that can be loaded by name, with location, licence and authors."""
    from al.pool import presets

    emit(options, presets.list_presets(), presets.describe_presets)


@pool_group.command("inspect")
@click.argument("sources", nargs=-1)
@click.option(
    "--examples", "shown", type=click.IntRange(min=0), default=3, show_default=True, help="Examples to render."
)
@click.option("--format", "format_name", default=None, help="As for `pool import`; only with SOURCES.")
@click.option(
    "--html",
    "page",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[PAGE.html]",
    help="Also write an HTML page.  [default: RUN/pool.html, or ./pool.html with SOURCES and where RUN is read-only]",
)
@common
@map_option
def pool_inspect(
    options: Any,
    sources: tuple[str, ...],
    shown: int,
    format_name: str | None,
    page: str | None,
) -> None:
    """Show the run's newest pool version, or SOURCES without importing them: formats, languages, lengths, quarantine, examples."""
    from al.commands import inspect_pool as pool_inspection
    from al.report.text.pool import describe_inspection

    document = pool_inspection.inspect(options, sources, format_name, shown, page)
    emit(options, document, describe_inspection)


@pool_group.command("search")
@click.argument("text")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Examples to show.")
@common
def pool_search(options: Any, text: str, limit: int) -> None:
    """Find examples of the run's whole pool by a TEXT that a message contains, with what the last round made of each."""
    from al.commands import pool

    emit(options, pool.search_pool(options, text, limit), pool.describe_search)


@pool_group.command("export")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["pool", "dev", "test"]), default=None, help="Only this side of the split.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@common
def pool_export(options: Any, out: Path, split: str | None, force: bool) -> None:
    """Write the run's newest pool version to OUT (.jsonl, .jsonl.gz, .jsonl.zst or .parquet) as messages with id, source,
    other accepted answers and metadata. Importing OUT again gives the same pool."""
    from al.commands import export as exporting

    emit(options, exporting.export_pool(options, out, split, force), exporting.describe_export)


@cli.group("config")
def config_group() -> None:
    """Show the configuration."""


@config_group.command("show")
@common
def config_show(options: Any) -> None:
    """Print the resolved configuration as YAML."""
    import yaml

    values = options.load_config().model_dump(mode="json")
    emit(options, values, lambda document: yaml.safe_dump(document, sort_keys=False, allow_unicode=True).rstrip())


@config_group.command("schema")
@common
def config_schema(options: Any) -> None:
    """Print every key with its type, default, unit and trade-off."""
    from al.config import Config, schema_text

    emit(options, Config.model_json_schema(), lambda document: schema_text())


for command in (
    compare_command,
    label_command,
    train_command,
    eval_command,
    generate_command,
    export_command,
    serve_command,
    doctor_command,
    verify_command,
    gc_command,
    repair_command,
    export_run_command,
    import_command,
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A user error prints one message and exits with its code, without a traceback."""
    run_command_line(cli, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    main()
