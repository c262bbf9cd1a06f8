"""Shared parts of the commands of `cli.py`: options, printing, exit codes of errors."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from al.commands.foreign_errors import known
from al.program import PROGRAM
from al.terminal import displayable, quiet_libraries, show, show_drawn, without_passwords


def common(command: Callable[..., None], run_default: str = "runs/<config name>") -> Callable[..., None]:
    """Add the options that every command takes. The command receives them as one `Options`. `run_default`: of --run, for its help."""

    @click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        default=None,
        help="YAML config; a bare name is searched in configs/.  [default: the run's last config, or mistral-7b]",
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
        help=f"Run directory.  [default: {run_default}]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print only one JSON document on stdout.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @click.option(
        "--trust-remote-code", is_flag=True, help="Allow Python code shipped with a model (model.trust_remote_code)."
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
        """Collect the shared options in one `Options` and call the command."""
        from al.commands.options import Options

        command(Options(config_path, overrides, run_path, as_json, debug, trust_remote_code), **rest)

    return wrapped


pool_option = click.option(
    "--pool",
    multiple=True,
    metavar="SOURCE",
    help="File, folder, glob, preset or hub:OWNER/NAME to read examples from, instead of the config's. Repeatable.",
)


def map_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--map` and `--ignore`. The command receives them inside `Options`, so it goes below `common`."""

    @click.option(
        "--map",
        "mapped",
        multiple=True,
        metavar="FIELD=YOURS",
        help="Map your fields to a format's, e.g. instruction=q,output=a, or question='{passage} {query}'. Repeatable.",
    )
    @click.option(
        "--ignore",
        "ignored",
        multiple=True,
        metavar="FIELD",
        help="A field to leave out of the conversation although it looks like content. Repeatable.",
    )
    @functools.wraps(command)
    def wrapped(options: Any, mapped: tuple[str, ...], ignored: tuple[str, ...], **rest: Any) -> None:
        """Add the fields to `Options` and call the command."""
        command(options.with_fields(mapped, ignored), **rest)

    return wrapped


def run_argument(command: Callable[..., None]) -> Callable[..., None]:
    """Add the optional argument RUN, short for `--run RUN`. It goes below `common`."""

    @click.argument("run", metavar="[RUN]", required=False, type=click.Path(path_type=Path))
    @functools.wraps(command)
    def wrapped(options: Any, run: Path | None, **rest: Any) -> None:
        """Put the run into `Options` and call the command."""
        command(of_run(options, run), **rest)

    return wrapped


def of_run(options: Any, run: Path | None) -> Any:
    """The options with the run that an argument names. Raises click.UsageError if --run names one as well."""
    if run is None:
        return options
    if options.run_path is not None:
        raise click.UsageError(f"{run} and --run {options.run_path} both name the run: give one of them.")
    return replace(options, run_path=run)


target_option = click.option(
    "--target",
    multiple=True,
    metavar="FILE",
    help="Examples of the task to be good at (a file or preset). They direct the selection and are never trained on. "
    "Repeatable.",
)

port_option = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the review page on 127.0.0.1.  [default: any free port]",
)


def round_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of commands that run rounds. The command receives them inside `Options`."""

    @pool_option
    @target_option
    @click.option("--strategy", default=None, help="Selection strategy; short for --set select.strategy=NAME.")
    @click.option("--no-control", is_flag=True, help="Do not train the random control.")
    @click.option(
        "--recluster",
        is_flag=True,
        help="Make the clusters of a pool that has grown again; without it new examples join those of the round before.",
    )
    @click.option(
        "--track",
        multiple=True,
        metavar="NAME",
        help="Also send metrics to wandb, tensorboard, trackio or mlflow; a failing tracker cannot stop a round. Repeatable.",
    )
    @common
    @map_option
    @functools.wraps(command)
    def wrapped(
        options: Any,
        pool: tuple[str, ...],
        target: tuple[str, ...],
        strategy: str | None,
        no_control: bool,
        track: tuple[str, ...],
        recluster: bool,
        **rest: Any,
    ) -> None:
        """Add the round options to `Options` and call the command."""
        command(options.for_round(strategy, no_control, pool, target, track, recluster), **rest)

    return wrapped


def emit(options: Any, document: Any, describe: Callable[[Any], str]) -> None:
    """Print `document` as JSON with --json, else the text that `describe` makes of what can be displayed of it."""
    show_drawn(json.dumps(document, indent=1, default=str) if options.as_json else describe(displayable(document)))


def run_command_line(cli: click.Command, arguments: list[str]) -> None:
    """Run the command line. A user error prints one message and exits with its code, without a traceback."""
    quiet_libraries("--debug" in arguments)
    try:
        cli.main(arguments, prog_name=PROGRAM, complete_var="_WINNOW_COMPLETE", standalone_mode=False)
    except click.exceptions.Abort:
        _fail(arguments, "interrupted. Run the same command again, or `resume`, to continue.", 130)
    except click.ClickException as error:
        error.message = without_passwords(displayable(error.message))
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _fail(arguments, "interrupted at once. Run the same command again, or `resume`, to continue.", 130)
    except Exception as error:
        found = known(error)
        if found is None or "--debug" in arguments:
            raise
        code, message = found
        way = "" if arguments[:1] == ["compare"] else ", or `resume`,"
        if code == 130:
            message = f"{message.rstrip('.')}. Run the same command again{way} to continue."
        _fail(arguments, message, code)


def _fail(arguments: list[str], message: str, code: int) -> None:
    if "--json" in arguments:
        show(json.dumps({"error": message, "exit_code": code}))
    line = " ".join(message.splitlines())
    show(f"error: {line}" if code != 130 else line, file=sys.stderr)
    sys.exit(code)
