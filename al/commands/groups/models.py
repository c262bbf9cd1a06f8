"""Commands that make models without a round of the run, or use those of a run: `train`, `compare`, `eval`, `generate`, `label`, `export`,
`serve`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from al.commands.command_line import common, emit, map_option, pool_option, run_argument, target_option
from al.terminal import show


def eval_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `eval`. The command receives `--map` inside `Options`."""

    @click.option(
        "--models",
        default="",
        help="Separated by commas: base; previous, selected, control of the last round; N or control:N of round N.  "
        "[default: the first four]",
    )
    @click.option(
        "--split",
        type=click.Choice(["dev", "test"]),
        default="dev",
        show_default=True,
        help="Held-out examples to ask; test is for the final report.",
    )
    @click.option(
        "--data",
        multiple=True,
        metavar="SOURCE",
        help="Ask the examples of this file, folder or preset instead. Repeatable.",
    )
    @click.option(
        "--metrics",
        multiple=True,
        metavar="KIND",
        help="number, choice, yes_no, boxed, text, rouge_l, code or auto, as evaluate.generate. Repeatable.",
    )
    @click.option(
        "--examples",
        type=click.IntRange(min=1),
        default=None,
        help="Ask at most this many.  [default: evaluate.generate_examples]",
    )
    @click.option(
        "--lm-eval",
        "harness",
        is_flag=False,
        flag_value="every",
        default="",
        metavar="[GROUPS]",
        help="Measure with lm-evaluation-harness (pip install lm-eval), all task groups or those named: conversation,qa,reasoning.",
    )
    @common
    @map_option
    @run_argument
    @functools.wraps(command)
    def wrapped(options: Any, **rest: Any) -> None:
        """Call the command."""
        command(options, **rest)

    return wrapped


@click.command("eval")
@eval_options
def eval_command(options: Any, **wanted: Any) -> None:
    """Let models of a run answer dev, test or other examples in writing, and print how many are right, with intervals."""
    from al.commands import evaluate

    emit(options, evaluate.measure_models(options, evaluate.Examined(**wanted)), evaluate.describe_measured)


@click.command("generate")
@click.argument("prompts", nargs=-1, metavar="[PROMPT …]")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Prompts: one per line, or .jsonl with prompt or messages.",
)
@click.option(
    "--round", "number", type=click.IntRange(min=1), default=None, help="Its adapter.  [default: the last round]"
)
@click.option(
    "--compare",
    default=None,
    metavar="NAMES",
    help="Several models side by side, e.g. base,1,2,control: base; previous, selected, control of the last round; "
    "N and control:N of round N.",
)
@click.option("--system", default=None, help="System message of every conversation.")
@click.option("--answers", type=click.IntRange(1, 64), default=1, show_default=True, help="Answers to each prompt.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 10),
    default=0.0,
    show_default=True,
    help="0: always the most probable token; otherwise drawn.",
)
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, help="As generate.top_p."
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=None, help="[default: generate.max_new_tokens]")
@click.option("--seed", type=click.IntRange(min=0), default=None, help="Of drawn answers.  [default: seed]")
@common
def generate_command(options: Any, number: int | None, compare: str | None, **wanted: Any) -> None:
    """Let a round's adapter answer prompts; without any, chat with it in the terminal."""
    from al.commands import generate

    if number and compare:
        raise click.UsageError(f"--compare lists the models: add {number} to it and leave --round out.")
    asked = generate.Prompted(models=compare or str(number or "selected"), **wanted)
    document = generate.answer_prompts(options, asked)
    if document is not None and not document["streamed"]:
        emit(options, document, generate.describe_answers)


@click.command("export")
@click.option("--to", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to make.")
@click.option(
    "--as",
    "kind",
    type=click.Choice(["adapter", "merged", "gguf", "data"]),
    default="adapter",
    show_default=True,
    help="adapter: LoRA for PEFT and vLLM; merged: one model in bfloat16; gguf: for llama.cpp; data: the picked examples with reasons.",
)
@click.option(
    "--round", "number", type=click.IntRange(min=1), default=None, help="Which round.  [default: the last finished one]"
)
@click.option(
    "--outtype", type=click.Choice(["f16", "q8_0"]), default="f16", show_default=True, help="Matrices of a GGUF file."
)
@click.option("--force", is_flag=True, help="Replace an earlier export at DIR.")
@click.option(
    "--push",
    default=None,
    metavar="OWNER/NAME",
    help="Also upload the folder to this repository of the hub (private if new), with the token in $HF_TOKEN.",
)
@common
@run_argument
def export_command(options: Any, **wanted: Any) -> None:
    """Write a round's adapter, merged model, GGUF file or selected data to DIR, for other programs."""
    from al.exporting.describe import describe_exported
    from al.exporting.export import ExportRequest, export_round

    path = options.existing_run()
    document = export_round(
        path, replace(options, run_path=path).load_config(), ExportRequest(**wanted), options.as_json
    )
    emit(options, document, describe_exported)


@click.command("serve")
@click.option(
    "--models",
    default="selected",
    show_default=True,
    help="Separated by commas: base; previous, selected, control of the last round; N or control:N of round N. The first one answers the "
    "challenge's API.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: every network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free port.")
@click.option(
    "--token",
    envvar="WINNOW_SERVE_TOKEN",
    help="Secret that clients send.  [env: WINNOW_SERVE_TOKEN; default: a new one]",
)
@click.option(
    "--no-token", is_flag=True, help="Answer everyone who reaches the address, as the challenge's evaluator needs."
)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Most of one answer."
)
@click.option(
    "--max-prompt-tokens",
    type=click.IntRange(min=1),
    help="Most of one prompt.  [default: what the model's context holds]",
)
@click.option(
    "--max-body-bytes", type=click.IntRange(min=1), default=1 << 20, show_default=True, help="Most of one request."
)
@click.option(
    "--max-waiting", type=click.IntRange(min=1), default=64, show_default=True, help="Requests that wait; more get 429."
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=120,
    show_default=True,
    help="Time of one request; longer ones get 504.",
)
@common
@run_argument
def serve_command(
    options: Any,
    max_new_tokens: int,
    max_prompt_tokens: int | None,
    max_body_bytes: int,
    max_waiting: int,
    max_seconds: float,
    **wanted: Any,
) -> None:
    """Serve models of a run through OpenAI's API and that of the LLM Efficiency Challenge, until Ctrl-C."""
    from al.commands import serve
    from al.serving.models import Limits

    limits = Limits(max_body_bytes, max_prompt_tokens, max_new_tokens, max_seconds, max_waiting)
    asked = serve.ServeOptions(limits=limits, **wanted)
    document = serve.serve_models(options, asked, lambda found: show(serve.describe_address(found, options.as_json)))
    show(serve.describe_served(document), file=sys.stderr)


@click.command("train")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    required=True,
    help="File, folder, glob or hub name to train on. Repeatable.",
)
@common
def train_command(options: Any, datasets: tuple[str, ...]) -> None:
    """Fine-tune on a whole data set without selection, as a baseline."""
    from al.commands import train

    emit(options, train.plain_fine_tuning(options, datasets), train.describe_fine_tuning)


@click.command("compare")
@click.option(
    "--strategies",
    default="default,random",
    show_default=True,
    help="Names, separated by spaces or commas; NAME:key=value changes a config key for one of them, e.g. top:score.by=ifd.",
)
@click.option("--budget", required=True, help="Budget of all rounds together: 1000 (examples) or 200ktok (tokens).")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=4, show_default=True, help="Rounds that share the budget."
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Runs of each strategy; finished runs are kept if you raise it.",
)
@click.option("--proxy", default=None, metavar="MODEL", help="Compare on this small model instead of the config's.")
@pool_option
@target_option
@functools.partial(common, run_default="runs/compare-<config name>")
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
    """Does selection pay on your pool? Trains and evaluates each strategy, always including random, once for each seed."""
    from al.commands import compare
    from al.run.progress import stop_on_signals

    stop_on_signals()
    options = options.for_round(None, False, pool, target)
    document = compare.run_comparison(options, strategies, budget, rounds, seeds, proxy)
    emit(options, document, compare.describe_comparison)


@click.command("label")
@click.option("--budget", type=click.IntRange(min=1), required=True, help="Number of unlabelled prompts to export.")
@pool_option
@common
def label_command(options: Any, budget: int, pool: tuple[str, ...]) -> None:
    """Export the unlabelled prompts with the highest model uncertainty to a file, to answer and import."""
    from al.commands import label as labelling

    emit(options, labelling.label(replace(options, pool=pool), budget), labelling.describe_labelling)
