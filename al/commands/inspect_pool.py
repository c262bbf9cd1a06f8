"""`pool inspect`: a document on the contents of a run's newest pool version, or of files that are not imported.

The document is pool.json (see `al.pool.stats`) plus the detected format of each file, languages, turns, lengths,
refusals, the most repeated duplicates, the quarantine by reason, and a few examples as the model sees them.
`al.report.text.pool` and `al.report.page.pool` print and draw it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from al.commands.options import Options
from al.config import Config
from al.errors import ConfigError, RunStateError
from al.planning.template_view import TemplateView, view_without_hub
from al.pool.formats import FORMATS
from al.pool.formats.leftovers import listed_leftovers
from al.pool.identity import sources_config
from al.pool.importer import import_pool
from al.pool.reading.stdin import with_stdin_spooled
from al.pool.repair import make_repair
from al.pool.sources import find_sources
from al.pool.store import Pool
from al.preparation import pool_facts as measures
from al.program import PROGRAM
from al.report.page.pool import render_pool
from al.run import rounds
from al.run.artifacts import Artifact
from al.run.atomic import write_whole
from al.run.progress import Progress, stop_on_signals
from al.run.store import Run
from trainer.errors import DataError, MachineError, TrainerError
from trainer.template import ChatTemplate
from trainer.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from trainer.template import ChatTemplate

SCHEMA = 1
MOST_REPEATED = 5
SAMPLES = 200
PROMPT_LIMIT, RESPONSE_LIMIT = 2_000, 2_000
HUB_SECONDS = 5.0


def inspect(
    options: Options, names: Sequence[str], format_name: str | None, shown: int, page: str | None = None
) -> dict[str, Any]:
    """The document of the sources `names`, or of the run's newest pool version if there are none; renders `shown` examples.

    With `page` the HTML page is written too ("" means the default path), and the document gives its path as `page`.

    Raises:
        ConfigError: a page whose name does not end in .html; it may be a data file that the user wants to inspect.
    """
    here = names or not os.access(options.existing_run(), os.W_OK)
    default = Path("pool.html") if here else options.existing_run() / "pool.html"
    place = None if page is None else Path(page or default)
    if place is not None and place.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(
            f"--html: expected a path that ends in .html, found {place}. To use the default, put --html last."
        )
    samples = SAMPLES if place is not None else 0
    if names:
        document = inspect_sources(options, names, format_name, shown, samples)
    else:
        document = inspect_run(options, shown, samples)
    if place is None:
        return document

    write_whole(place, render_pool(document).encode())
    return {**document, "page": str(place)}


def inspect_run(options: Options, shown: int, samples: int = 0) -> dict[str, Any]:
    """The document of a run's newest pool version. Renders `shown` examples and lists `samples` with shortened texts.

    Raises:
        RunStateError: there is no run at `path`, or it has no pool yet.
    """
    path = options.existing_run()
    with Run.read(path) as run:
        current = rounds.current_pool(run)
        if current is None:
            raise RunStateError(
                f"{path}: this run has no pool yet. Add one with `{PROGRAM} pool import FILE… --run {path}`; or inspect "
                f"files with `{PROGRAM} pool inspect FILE…`."
            )
        version, artifact = current
        near = _near_duplicates(run, artifact)
    head = {"run": str(path), "version": version, "near_duplicates": near}
    return {**head, **_inspect(artifact.path, options, options.load_config(), shown, samples)}


def inspect_sources(
    options: Options, names: Sequence[str], format_name: str | None, shown: int, samples: int = 0
) -> dict[str, Any]:
    """The document of files, folders, globs and hub names without a run. They are read into a temporary folder.

    Raises:
        ConfigError, DataError: as an import of them.
    """
    config = options.load_config()
    stop_on_signals()
    with tempfile.TemporaryDirectory(prefix="winnow-inspect-") as folder:
        given = with_stdin_spooled(names, Path(folder) / "stdin")
        warned = config.pool.model_copy(update={"leftover": "warn"})
        pool_config = sources_config(warned, given, format_name, strict=False)
        with _progress(options, "read", None, "rows") as progress:
            import_pool(
                find_sources(pool_config, trusted=set(given) - set(names)),
                Path(folder),
                progress=progress,
                repair=make_repair(config.clean),
            )
        head = {"run": None, "version": None, "near_duplicates": None}
        return {**head, **_inspect(Path(folder), options, config, shown, samples)}


def _inspect(path: Path, options: Options, config: Config, shown: int, samples: int) -> dict[str, Any]:
    pool = Pool.open(path)
    stats = pool.stats
    template, why = _template(config)
    view = view_without_hub(config.model) if template is None else TemplateView(template, template.name)
    with _progress(options, "languages", None, "examples") as step:
        languages = measures.measure_languages(pool, step)
    with _progress(options, "refusals", None, "examples") as step:
        refusals = measures.measure_refusals(pool, step)
    with _progress(options, "lengths", None, "examples") as step:
        if template is not None:
            lengths = measures.measure_tokens(pool, template, config.tokens, step)
        else:
            lengths = measures.measure_characters(pool, why, step)
    return {
        "schema": SCHEMA,
        **{"merged_after_conversion": 0, "skipped": []},  # pools of before these were counted
        **stats,
        "recognised": recognised(stats),
        "leftovers": listed_leftovers(stats),
        "languages": languages,
        "turns": measures.measure_turns(pool),
        "lengths": lengths,
        "refusals": refusals,
        "most_repeated": _most_repeated(pool),
        "quarantine": quarantine_by_reason(path),
        "template_note": view.note if shown else "",
        "shown": _rendered(pool, view, measures.spread_over_sources(pool, shown)),
        "samples": _samples(pool, measures.spread_over_sources(pool, samples)),
    }


def _progress(options: Options, title: str, total: int | None, unit: str) -> AbstractContextManager[Progress]:
    return Progress(title, total, unit, quiet=options.as_json)


def recognised(stats: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per format found in a file: file, rows, format, and the fields it was detected by.

    A pool imported before Winnow counted formats by file gives one entry per format for all files together.
    """
    found = [
        {"file": file["file"], "format": name, "rows": rows}
        for file in stats["files"]
        for name, rows in file.get("formats", {}).items()
    ] or [{"file": None, "format": name, "rows": rows} for name, rows in stats["formats"].items()]
    for entry in found:
        known = FORMATS.get(entry["format"])
        entry["fields"] = known.fields if known else None
    return sorted(found, key=lambda entry: (-entry["rows"], entry["file"] or "", entry["format"]))


def _template(config: Config) -> tuple[ChatTemplate | None, str]:
    """The config's chat template, or None and the reason. The hub gets five seconds to answer; a user who inspects
    files should not wait for the minute of retries that training allows."""
    try:
        try:
            tokenizer = load_tokenizer(config.model, only_local=True)
        except MachineError:
            if Path(config.model.name).is_dir():
                raise
            if (why := _unreachable(config)) is not None:
                return (
                    None,
                    f"model.name: {config.model.name} is not on this machine, and the hub gives no tokenizer: {why}",
                )
            tokenizer = load_tokenizer(config.model)
        return ChatTemplate.resolve(tokenizer, config.model.chat_template), ""
    except TrainerError as error:
        return None, str(error)


def _unreachable(config: Config) -> str | None:
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(config.model.name, revision=config.model.revision, timeout=HUB_SECONDS)
    except Exception as error:  # any failure (no network, unknown name, gated model) is reported, not raised
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


def _near_duplicates(run: Run, pool: Artifact) -> dict[str, Any] | None:
    """Number of near-duplicates that a round found in this pool version; None if no round has searched for them yet."""
    for groups in run.published("groups"):
        if groups.manifest["inputs"]["pool"] == pool.fingerprint:
            representative = pq.read_table(groups.path / "groups.parquet")["representative"].to_numpy()
            count = int((representative != np.arange(len(representative))).sum())
            return {"count": count, "threshold": groups.manifest["params"]["threshold"]}
    return None


def _most_repeated(pool: Pool) -> list[dict[str, Any]]:
    """The examples with the most exact duplicates: id, number of equal rows, origin of the kept row, first words."""
    ids = pq.read_table(pool.path / "duplicates.parquet", columns=["id"])["id"].value_counts().to_pylist()
    most = sorted(ids, key=lambda entry: (-entry["counts"], entry["values"]))[:MOST_REPEATED]
    rows = np.searchsorted(pool.ids, np.array([entry["values"] for entry in most], dtype=pool.ids.dtype))
    return [
        {"id": entry["values"], "rows": entry["counts"] + 1, "origin": origin, "text": text[:RESPONSE_LIMIT]}
        for entry, origin, text in zip(most, pool.origin(rows), pool.texts(rows), strict=True)
    ]


def quarantine_by_reason(path: Path) -> list[dict[str, Any]]:
    """One entry per reason, most frequent first: number of rows, and file, line, message and snippet of the first row."""
    table = pq.read_table(path / "quarantine.parquet").sort_by([("file", "ascending"), ("line", "ascending")])
    reasons: dict[str, dict[str, Any]] = {}
    for number, reason in enumerate(table["reason"].to_pylist()):
        if reason not in reasons:
            reasons[reason] = {**table.slice(number, 1).to_pylist()[0], "rows": 0}
        reasons[reason]["rows"] += 1
    return sorted(reasons.values(), key=lambda entry: (-entry["rows"], entry["reason"]))


def _rendered(pool: Pool, view: TemplateView, rows: np.ndarray) -> list[dict[str, Any]]:
    """Examples with `segments`: their text through the chat template and the target of each part (0 none, 1 response, 2 its
    end). Where the template is not known, or refuses an example (`refused` gives the reason), the list is empty."""
    examples = _described(pool, rows)
    for example in examples:
        try:
            example["segments"] = view.segments(example["messages"])
        except DataError as error:
            example["segments"], example["refused"] = [], str(error)
    return examples


def _described(pool: Pool, rows: np.ndarray) -> list[dict[str, Any]]:
    columns = zip(rows, pool.origin(rows), pool.messages(rows), strict=True)
    return [
        {"id": str(pool.ids[row]), "source": str(pool.sources[row]), "origin": origin, "messages": messages}
        for row, origin, messages in columns
    ]


def _samples(pool: Pool, rows: np.ndarray) -> list[dict[str, Any]]:
    """Examples with `prompt` and `response` as texts of at most 2,000 characters."""
    samples = []
    for example in _described(pool, rows):
        messages = example.pop("messages")
        answer = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
        prompt = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        samples.append({**example, "prompt": prompt[:PROMPT_LIMIT], "response": answer[:RESPONSE_LIMIT]})
    return samples
