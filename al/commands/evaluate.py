"""`eval`: how well the models of a run answer in writing, after the fact, on its dev or test examples or on other files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from al import labels
from al.commands.options import Options
from al.config import Config, change
from al.config.pool import PoolConfig
from al.errors import ConfigError, DataError
from al.evaluation.answering import answer, answered
from al.evaluation.asked import Asked, ask_examples, ask_holdout
from al.evaluation.harness import FILE as RESULTS
from al.evaluation.harness import run_harness
from al.evaluation.judged import compare_answers
from al.excerpt import counted
from al.lineage.history import CONTROL, SELECTED, History
from al.planning.needs import require
from al.pool.store import Pool
from al.preparation.stages import Tokenized
from al.preparation.target import import_apart
from al.prompting.models import find_models, latest_models
from al.report.reading.values import write
from al.report.reading.verdict import Comparison
from al.report.text.blocks import Block, Cell, Line, Table, as_terminal, difference_cell, one_line
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.progress import stop_on_signals
from al.run.session import Session
from al.run.store import Run
from al.terminal import displayable

EVERY = "every"


@dataclass(frozen=True)
class Examined:
    """The options of `eval`. `models`: names, "" for those of the last round; `split`: "dev" or "test"; `metrics`: kinds of answers;
    `data`: files to ask instead of a split; `examples`: at most so many; `harness`: task groups for lm-evaluation-harness, "every" for all
    of them, "" to measure without it."""

    models: str = ""
    split: str = "dev"
    metrics: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    examples: int | None = None
    harness: str = ""


def measure_models(options: Options, wanted: Examined) -> dict[str, Any]:
    """Let models of a run answer, and compare them.

    Returns:
        {"run", "part", "compared", "kinds", "warnings", **what `compare_answers` returns}; with the harness {"run", "part", "warnings",
        "left_out", "tasks": {task: {"group", "examples", "models": {model: {metric: {"value", "stderr"}}}}}}.

    Raises:
        ConfigError: a name of a model that the run does not have, or one trained on another base. DataError: nothing to ask.
        RunStateError: the run has no finished round.
    """
    options = replace(options, run_path=options.existing_run())
    Run.read(options.run_path).close()  # not a run: say so before anything is made
    config = _config(options, wanted)
    stop_on_signals()
    writable = os.access(options.run_path, os.W_OK)  # elsewhere what rounds have measured can still be compared
    with Run.create_or_open(options.run_path) if writable else Run.read(options.run_path) as run:
        session = Session(run, config, quiet=options.as_json)
        names = [name.strip() for name in wanted.models.split(",") if name.strip()] or latest_models(run)
        models = find_models(run, config, names, "--models")
        require(session.config, embedder=False)
        part = "data" if wanted.data else wanted.split
        warnings = _warnings(run, wanted)
        for line in warnings:
            session.say(f"warning: {line}")
        if wanted.harness:
            asked = _asked(session, wanted, part)
            return {
                "run": str(options.run_path),
                "part": part,
                "warnings": warnings,
                **_with_harness(session, wanted, asked, models),
            }
        asked, found = _answered(session, wanted, part, models)
        compared = "selected" if "selected" in models else list(models)[-1]
        document = compare_answers(found, part, config.evaluate.bootstrap, config.seed, compared)
        seen = _trained_on(run, asked) if wanted.data else 0
        if seen:
            warnings.append(f"{seen} of the {len(asked.ids)} examples were trained on by a round of this run")
            session.say(f"warning: {warnings[-1]}")
        return {
            "run": str(options.run_path),
            "part": part,
            "compared": compared,
            "kinds": asked.kinds.get(part, {}),
            "max_new_tokens": config.generate.max_new_tokens,
            "warnings": warnings,
            **document,
        }


def _config(options: Options, wanted: Examined) -> Config:
    """The run's config with what the command line asks for; all kinds where neither names any."""
    config = options.load_config()
    kinds = list(wanted.metrics) or config.evaluate.generate or ["auto"]
    limit = wanted.examples or config.evaluate.generate_examples
    settings = [f"evaluate.generate={kinds}", f"evaluate.generate_examples={limit}"]
    return change(config.model_dump(mode="json"), settings, "--metrics")


def _warnings(run: Run, wanted: Examined) -> list[str]:
    if wanted.data or wanted.split != "test":
        return []
    return [
        "test is for the final report: choosing settings by it tunes them for it. Use --split dev while developing."
    ]


def _answered(
    session: Session, wanted: Examined, part: str, models: Mapping[str, Artifact | None]
) -> tuple[Asked, dict[str, Artifact]]:
    """What is asked, and what each model answered: by a round already, or now."""
    if not wanted.data:
        both = ask_holdout(session, _prepared(session.run))
        known = {name: answered(session, both, adapter) for name, adapter in models.items()}
        present = {name: artifact for name, artifact in known.items() if artifact is not None}
        if len(present) == len(models) and part in both.parts:
            return both, present
    asked = _asked(session, wanted, part)
    return asked, {
        name: answer(session, asked, adapter, f"answer {label_of(name)}") for name, adapter in models.items()
    }


def _asked(session: Session, wanted: Examined, part: str) -> Asked:
    """The examples of the files or of one side of the split. Raises DataError if none is of the kinds asked for."""
    if wanted.data:
        pool = Pool.open(_import(session, wanted.data).path)
        asked = ask_examples(pool, np.arange(len(pool)), [part] * len(pool), session.config.evaluate)
    else:
        asked = ask_holdout(session, _prepared(session.run), part)
    if asked.ids:
        return asked
    kinds = ", ".join(f"{count} {kind}" for kind, count in asked.kinds.get(part, {}).items()) or "no labelled examples"
    names = ", ".join(sorted(session.config.evaluate.kinds))
    raise DataError(f"eval: expected examples of the kinds {names} in {part}, found {kinds}.")


def _with_harness(
    session: Session, wanted: Examined, asked: Asked, models: Mapping[str, Artifact | None]
) -> dict[str, Any]:
    """What lm-evaluation-harness measures of each model, by task. Raises ConfigError for a group without examples."""
    names = [name.strip() for name in wanted.harness.split(",")]
    if wanted.harness != EVERY:
        known = sorted({asked.groups.get(source, "all") for source in asked.sources})
        unknown = [name for name in names if name.lower() not in {group.lower() for group in known}]
        if unknown:
            raise ConfigError(
                f"--lm-eval {unknown[0]}: expected {EVERY}, or task groups of {', '.join(known)} (evaluate.groups)."
            )
        asked = asked.of_groups(names)
    tasks: dict[str, dict[str, Any]] = {}
    for name, adapter in models.items():
        found = run_harness(session, asked, adapter, f"lm-eval {label_of(name)}").json(RESULTS)
        for task, entry in found["tasks"].items():
            values = {key: value for key, value in entry.items() if key not in ("group", "examples")}
            row = tasks.setdefault(task, {"group": entry["group"], "examples": entry["examples"], "models": {}})
            row["models"][name] = values
    return {"left_out": found["left_out"], "tasks": tasks}


def _prepared(run: Run) -> Tokenized:
    """Pool, tokens and split of the last finished round."""
    number = max(entry.number for entry in rounds.all_rounds(run) if entry.state == "done")
    version, _ = rounds.current_pool(run) or (0, None)
    return Tokenized(version, *(rounds.required(run, number, role) for role in ("pool", "tokens", "split")))


def _import(session: Session, files: Sequence[str]) -> Artifact:
    """Files as a pool of their own, read like those of `pool.files`."""
    others = session.config.pool.model_dump(exclude={"files", "hub", "format"})
    return import_apart(session, PoolConfig(files=list(files), **others), "eval_pool", "import data")


def _trained_on(run: Run, asked: Asked) -> int:
    """How many of the asked examples some round of the run picked, for the selection or the control."""
    number = rounds.next_number(run)
    picked = [History.recorded(run, lineage, number).all_picked() for lineage in (SELECTED, CONTROL)]
    return int(np.isin([int(key, 16) for key in asked.ids], np.concatenate(picked)).sum())


def label_of(model: str) -> str:
    """How a model is called: "base", "round 2", "control of round 2"."""
    kind, _, number = model.partition(":")
    return f"round {kind}" if kind.isdigit() else f"{kind} of round {number}" if number else kind


def describe_measured(document: Mapping[str, Any]) -> str:
    """The document of `measure_models` as text for the terminal."""
    document = one_line(displayable(document))
    if "tasks" in document:
        return _describe_tasks(document)
    measures, compared = list(document["measures"]), document["compared"]
    models = {name: label_of(name).capitalize() for name in document["models"]}
    kinds = ", ".join(
        f"{count:,} {kind}" for kind, count in sorted(document["kinds"].items(), key=lambda kind: -kind[1])
    )
    head: list[str | Cell] = [Cell("Model", note="means over sources")]
    head += [
        Cell(labels.MEASURES[measure], note=counted(document["measures"][measure]["examples"], "example"))
        for measure in measures
    ]
    rows: list[list[str | Cell]] = []
    for name, title in models.items():
        values, ends = document["models"][name], document["intervals"][name]
        cells = [
            Cell(
                write(values[key], "percent"),
                note="…".join(write(ends[key][end], "percent") for end in ("low", "high")),
            )
            for key in (f"macro_{measure}" for measure in measures)
        ]
        rows.append([title, *cells])
    for key, metrics in document["differences"].items():
        against = key.removeprefix(f"{compared} - ")
        found = [
            Comparison(against, metric, *(metrics[metric][end] for end in ("value", "low", "high", "p")))
            for metric in (f"macro_{measure}" for measure in measures)
        ]
        rows.append([f"{models[compared]} minus {models[against].lower()}", *map(difference_cell, found)])
    asked = f"{document['part']} example"
    said = f"{counted(document['examples'], asked)} of {counted(document['sources'], 'source')}. Labelled ones by kind: {kinds}"
    long = ", ".join(f"{models[name].lower()} {count}" for name, count in document["cut"].items())
    blocks: list[Block] = [
        Line(said, label="Asked"),
        Table(head, rows),
        Line(f"Answers cut off at {document['max_new_tokens']} tokens: {long}.", style="dim"),
        Line("95% intervals; differences in points; n.s.: no significant difference.", style="dim", joined=True),
    ]
    return as_terminal(blocks)


def _describe_tasks(document: Mapping[str, Any]) -> str:
    """What the harness measured: a row per task and metric."""
    names = list(next(iter(document["tasks"].values()), {"models": {}})["models"])
    rows: list[list[str | Cell]] = []
    for task, entry in document["tasks"].items():
        for metric in next(iter(entry["models"].values())):
            found = [entry["models"][name][metric] for name in names]
            cells = [Cell(write(one["value"], "percent"), note=f"± {write(one['stderr'], 'percent')}") for one in found]
            rows.append([task, metric, f"{entry['examples']:,}", *cells])
    head = ["Task", "Metric", "Examples", *(label_of(name).capitalize() for name in names)]
    note = f"Measured by lm-evaluation-harness, with standard errors. Prompts left out: {document['left_out']}."
    return as_terminal([Table(head, rows, left=(0, 1)), Line(note, style="dim")])
