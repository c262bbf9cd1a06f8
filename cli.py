#!/usr/bin/env python
"""Winnow's command line: parses, calls `al`, prints. Heavy libraries load inside commands, so `--help` is instant.

Exit codes: 0 done, 1 a defect of Winnow, 2 usage or configuration, 3 data, 4 environment (no GPU, disk full, out of memory, file
not reachable), 5 state of the run (locked, another pool, damaged), 6 training diverged, 130 stopped by the user.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import al

DEFAULT_CONFIG = Path("configs/mistral-7b.yaml")


def common(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every command takes; they arrive as one `Options`."""

    @click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        default=None,
        help="YAML config; a bare name is looked up in configs/.  [default: mistral-7b, or what the run used last]",
    )
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override one config key, e.g. train.learning_rate=1e-4. Repeatable.",
    )
    @click.option(
        "--run",
        "run_path",
        type=click.Path(path_type=Path),
        default=None,
        help="Run directory.  [default: runs/<config name>]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @click.option(
        "--trust-remote-code", is_flag=True, help="Allow Python code that comes with a model (model.trust_remote_code)."
    )
    @functools.wraps(command)
    def wrapped(
        config_path: Path | None,
        overrides: tuple[str, ...],
        run_path: Path | None,
        as_json: bool,
        debug: bool,
        trust_remote_code: bool,
        **rest: Any,
    ) -> None:
        from al.workflow import Options

        command(Options(config_path, overrides, run_path, as_json, debug, trust_remote_code), **rest)

    return wrapped


pool_option = click.option(
    "--pool",
    multiple=True,
    metavar="SOURCE",
    help="File, folder, glob, preset or hub:OWNER/NAME to take examples from, instead of the config's. Repeatable.",
)
map_option = click.option(
    "--map",
    "mapped",
    multiple=True,
    metavar="FIELD=YOURS",
    help="Which of your fields is which, e.g. instruction=q,output=a, or question='{passage} {query}'. Repeatable.",
)


def round_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of commands that run rounds; they arrive inside `Options`."""

    @pool_option
    @map_option
    @click.option(
        "--target",
        multiple=True,
        metavar="FILE",
        help="Examples of what the model is to be good at (a file or preset), which the selection aims at; never trained on. "
        "Repeatable.",
    )
    @click.option("--strategy", default=None, help="Selection strategy; short for --set select.strategy=NAME.")
    @click.option("--no-control", is_flag=True, help="Do not train the random control beside the run.")
    @common
    @functools.wraps(command)
    def wrapped(
        options: Any,
        pool: tuple[str, ...],
        mapped: tuple[str, ...],
        target: tuple[str, ...],
        strategy: str | None,
        no_control: bool,
        **rest: Any,
    ) -> None:
        command(options.for_round(strategy, no_control, pool, target, mapped), **rest)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(al.__version__, prog_name="winnow")
def cli() -> None:
    """Find the examples worth training on, train a 4-bit LoRA on them, look again.

    Start with `round --budget 5000`; it continues where it stopped, whatever stopped it.
    """


@cli.command("round")
@click.option("--budget", required=True, help="5000 (examples), 2Mtok (tokens) or 30min (of training).")
@click.option("--dry-run", is_flag=True, help="Print the plan and run nothing (same as `plan`).")
@round_options
def round_command(options: Any, budget: str, dry_run: bool) -> None:
    """Run the next round, or finish the one that was interrupted."""
    from al import workflow

    if dry_run:
        _print_plan(options, budget)
        return
    _emit(options, workflow.run_next_round(options, budget), workflow.describe_summary)


@cli.command("run")
@click.option("--rounds", type=click.IntRange(min=1), required=True, help="Stop after so many rounds in all ...")
@click.option("--budget", required=True, help="Budget of each round.")
@click.option(
    "--until-no-gain/--all-rounds",
    default=True,
    help="... or earlier, when the dev gain over the round before is not significant.",
)
@round_options
def run_command(options: Any, rounds: int, budget: str, until_no_gain: bool) -> None:
    """Run rounds until there are K, or until one no longer helps."""
    from al import workflow

    _emit(options, workflow.run_rounds(options, budget, rounds, until_no_gain), workflow.describe_summary)


@cli.command("compare")
@click.option(
    "--strategies",
    default="default,random",
    show_default=True,
    help="Names, separated by spaces or commas; NAME:key=value changes a config key for one of them, e.g. top:score.by=ifd.",
)
@click.option("--budget", required=True, help="Of all rounds together: 1000 (examples) or 200ktok (tokens).")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=4, show_default=True, help="Rounds that share the budget."
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each strategy.")
@click.option("--proxy", default=None, metavar="MODEL", help="A small model to ask first, instead of the config's.")
@pool_option
@click.option("--target", multiple=True, metavar="FILE", help="As for `round`. Repeatable.")
@common
def compare_command(
    options: Any,
    strategies: str,
    budget: str,
    rounds: int,
    seeds: int,
    proxy: str | None,
    pool: tuple[str, ...],
    target: tuple[str, ...],
) -> None:
    """Train and evaluate several strategies on your pool, with random beside them: does selection pay here?"""
    from al import workflow

    options = options.for_round(None, False, pool, target)
    document = workflow.run_comparison(options, strategies, budget, rounds, seeds, proxy)
    _emit(options, document, workflow.describe_comparison)


@cli.command("resume")
@common
def resume_command(options: Any) -> None:
    """Finish the interrupted round with the config and budget it was started with."""
    from al import workflow

    _emit(options, workflow.resume(options), workflow.describe_summary)


@cli.command("status")
@common
def status_command(options: Any) -> None:
    """Show rounds, stages and what is running, also while another process works."""
    from al import inspect_run

    _emit(options, inspect_run.status(options.existing_run()), inspect_run.describe_status)


@cli.command("report")
@click.option(
    "--round", "number", type=click.IntRange(min=1), default=None, help="Which round.  [default: the last finished one]"
)
@common
def report_command(options: Any, number: int | None) -> None:
    """Print a round's report again and say where its page is."""
    from al import workflow

    _emit(options, workflow.report(options, number), workflow.describe_summary)


@cli.command("plan")
@click.option("--budget", required=True, help="5000 (examples), 2Mtok (tokens) or 30min (of training).")
@round_options
def plan_command(options: Any, budget: str) -> None:
    """Estimate rows, tokens, memory, time and disk of the next round, before anything runs."""
    _print_plan(options, budget)


def _print_plan(options: Any, budget: str) -> None:
    from al import plan

    _emit(options, plan.plan_round(options, budget), plan.describe_plan)


@cli.command("label")
@click.option("--budget", type=click.IntRange(min=1), required=True, help="How many unlabelled prompts to hand out.")
@pool_option
@common
def label_command(options: Any, budget: int, pool: tuple[str, ...]) -> None:
    """Write the unlabelled prompts that the model is most unsure of to a file, to be answered and imported again."""
    from al import labelling

    _emit(options, labelling.label(replace(options, pool=pool), budget), labelling.describe_labelling)


@cli.group("pool")
def pool_group() -> None:
    """Import data and look at it."""


@pool_group.command("import")
@click.argument("sources", nargs=-1, required=True)
@click.option("--format", "format_name", default=None, help="Row format by name instead of recognising each row.")
@map_option
@click.option("--strict", is_flag=True, help="Stop at the first bad row instead of quarantining it.")
@common
def pool_import(
    options: Any, sources: tuple[str, ...], format_name: str | None, mapped: tuple[str, ...], strict: bool
) -> None:
    """Add files, folders, globs, presets or hub:OWNER/NAME[config]:split to the run's pool as a new version."""
    from al import workflow

    document = workflow.import_into_pool(options.with_map(mapped), sources, format_name, strict)
    _emit(options, document, workflow.describe_pool)


@pool_group.command("presets")
@common
def pool_presets(options: Any) -> None:
    """List the published sets that are known by name: where they are, their licence, who wrote them."""
    from al.pool import presets

    _emit(options, presets.list_presets(), presets.describe_presets)


@pool_group.command("inspect")
@click.argument("sources", nargs=-1)
@click.option(
    "--examples", "shown", type=click.IntRange(min=0), default=3, show_default=True, help="Examples to render."
)
@click.option("--format", "format_name", default=None, help="As for `pool import`, when sources are named.")
@map_option
@click.option(
    "--html",
    "page",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[PAGE.html]",
    help="Write a page as well.  [default place: RUN/pool.html, ./pool.html for sources]",
)
@common
def pool_inspect(
    options: Any,
    sources: tuple[str, ...],
    shown: int,
    format_name: str | None,
    mapped: tuple[str, ...],
    page: str | None,
) -> None:
    """Show what the run's newest pool version holds, or what SOURCES hold before they are imported anywhere: what was
    recognised, sources, languages, turns, lengths, duplicates, quarantine, and examples as the model sees them."""
    from al import pool_inspection
    from al.report.pool_text import describe_inspection

    document = pool_inspection.inspect(options.with_map(mapped), sources, format_name, shown, page)
    _emit(options, document, describe_inspection)


@pool_group.command("export")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["pool", "dev", "test"]), default=None, help="Only this side of the split.")
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
@common
def pool_export(options: Any, out: Path, split: str | None, force: bool) -> None:
    """Write the run's newest pool version to OUT (.jsonl, .jsonl.gz, .jsonl.zst or .parquet) as messages with id, source,
    other accepted answers and metadata. Importing OUT again gives the same pool."""
    from al import exporting

    _emit(options, exporting.export_pool(options, out, split, force), exporting.describe_export)


@cli.command("train")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    required=True,
    help="File, folder, glob or hub name to train on. Repeatable.",
)
@common
def train_command(options: Any, datasets: tuple[str, ...]) -> None:
    """Fine-tune on a whole data set without selection: the baseline."""
    from al import workflow

    _emit(options, workflow.plain_fine_tuning(options, datasets), workflow.describe_fine_tuning)


@cli.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command("show")
@common
def config_show(options: Any) -> None:
    """Print the resolved configuration as YAML."""
    import yaml

    values = options.load_config().model_dump(mode="json")
    _emit(options, values, lambda document: yaml.safe_dump(document, sort_keys=False, allow_unicode=True).rstrip())


@config_group.command("schema")
@common
def config_schema(options: Any) -> None:
    """Print every key with its type, default, unit and trade-off."""
    from al.config import Config, schema_text

    _emit(options, Config.model_json_schema(), lambda document: schema_text())


@cli.command("doctor")
@click.option(
    "--drop-damaged", is_flag=True, help="Forget damaged artifacts of the run so that the next round makes them again."
)
@common
def doctor_command(options: Any, drop_damaged: bool) -> None:
    """Check this machine and, with --run, every file of a run."""
    from al import doctor

    findings = doctor.examine(options, drop_damaged)
    _emit(options, findings, doctor.describe)
    if findings["problems"]:
        sys.exit(findings["exit_code"])


def _emit(options: Any, document: Any, describe: Callable[[Any], str]) -> None:
    click.echo(json.dumps(document, indent=1, default=str) if options.as_json else describe(document))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors a user can act on print one message and exit with their code, without a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _quiet_libraries("--debug" in arguments)
    try:
        cli.main(arguments, prog_name="cli.py", standalone_mode=False)
    except click.exceptions.Abort:
        _fail(arguments, "interrupted. Run the same command again, or `resume`, to continue.", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _fail(arguments, "interrupted at once. Run the same command again, or `resume`, to continue.", 130)
    except Exception as error:
        code = getattr(error, "exit_code", None) or _exit_code_of_foreign(error)
        if code is None or "--debug" in arguments:
            raise
        way = "" if arguments[:1] == ["compare"] else ", or `resume`,"
        hint = f" Run the same command again{way} to continue." if code == 130 else ""
        _fail(arguments, f"{_message(error)}{hint}", code)


def _quiet_libraries(debug: bool) -> None:
    """Leave the terminal to our own progress: the libraries' bars and deprecation notices show with --debug only."""
    if debug:
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.simplefilter("ignore", FutureWarning)


def _exit_code_of_foreign(error: Exception) -> int | None:
    """Exit code 4 for running out of memory, wherever it happens; None for what must be a defect."""
    return (
        4
        if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "AcceleratorError")
        else None
    )


def _message(error: Exception) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return (
            f"out of GPU memory: {error}. Lower train.packs_per_batch or measure.batch_tokens, or set "
            "train.activation_memory; finished stages are kept."
        )
    return str(error)


def _fail(arguments: list[str], message: str, code: int) -> None:
    if "--json" in arguments:
        click.echo(json.dumps({"error": message, "exit_code": code}))
    click.echo(f"error: {message}" if code != 130 else message, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
