"""`pool import`: add sources to the pool of a run. `pool search`: find a text in all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al.commands.options import Options
from al.errors import ConfigError, RunStateError
from al.excerpt import counted
from al.labels import adjusted, outcome
from al.pool.formats.leftovers import describe_leftover, listed_leftovers
from al.pool.identity import sources_config
from al.pool.reading.stdin import with_stdin_spooled
from al.pool.sources import find_sources
from al.pool.store import Pool
from al.preparation.asked import check_asked
from al.preparation.stages import import_sources
from al.program import PROGRAM
from al.report.summary.examples import reason_of
from al.report.summary.searchable import parts_of
from al.run import rounds
from al.run.session import Session
from al.run.store import Run

LEFTOVERS_SHOWN = 12
SHOWN_TEXT = 160
"""Characters of a turn that `pool search` prints."""


def import_into_pool(options: Options, names: tuple[str, ...], format_name: str | None, strict: bool) -> dict[str, Any]:
    """Add sources to the run's pool as a new version; returns the pool's counts, and as `added` whether there is a new version: sources
    that add nothing make none."""
    config = options.load_config()
    with Run.create_or_open(options.run_directory()) as run:
        given = with_stdin_spooled(names, run.path / "stdin")
        config = config.model_copy(update={"pool": sources_config(config.pool, given, format_name, strict)})
        present = rounds.current_pool(run)
        session = Session(run, config, quiet=options.as_json)
        sources = find_sources(config.pool, trusted=set(given) - set(names))
        artifact = import_sources(session, sources, previous=present[1] if present else None)
        version = rounds.add_pool(run, artifact)
        added = present is None or version != present[0]
        warning = check_asked(Pool.open(artifact.path))
        head = {"version": version, "run": str(run.path), "added": added, "warnings": [warning] if warning else []}
        return {**head, **artifact.json("pool.json")}


def describe_pool(document: dict[str, Any]) -> str:
    """The counts of a pool version as text for the terminal."""
    bad, answered = document["quarantined"], document.get("answered", 0)
    lines = (
        [] if document["added"] else ["nothing to add: these rows are in the pool already, and it has no new version"]
    )
    lines += [
        f"pool version {document['version']} of {document['run']}: {counted(document['examples'], 'example')} "
        f"({document['labelled']:,} labelled, {document['unlabelled']:,} unlabelled"
        + (f", {answered:,} without a response but answered by another example)" if answered else ")"),
        f"  exact duplicates merged: {document['duplicates']:,}",
        f"  merged after conversion: {document['merged_after_conversion']:,} (the same conversation, other fields differ)",
        f"  quarantined rows: {sum(bad.values()):,}"
        + (f" ({', '.join(f'{k} {v}' for k, v in bad.items())})" if bad else ""),
    ]
    changed = [f"{adjusted(code)} {count:,}" for code, count in document["adjusted"].items()]
    lines += [f"  changed on import: {', '.join(changed)}"] if changed else []
    left = listed_leftovers(document)
    lines += ["  left out of the conversation, kept as metadata:"] if left else []
    lines += [f"    {describe_leftover(entry)}" for entry in left[:LEFTOVERS_SHOWN]]
    if len(left) > LEFTOVERS_SHOWN:
        lines.append(f"    … and {len(left) - LEFTOVERS_SHOWN} more; `pool inspect --run {document['run']}` lists them")
    lines += [f"  skipped: {file['file']}: {file['reason']}" for file in document.get("skipped", ())]
    sources = sorted(document["sources"].items(), key=lambda item: -item[1])
    lines += [f"  {count:>9,}  {name}" for name, count in sources[:12]]
    lines += [f"  … and {len(sources) - 12} more sources"] if len(sources) > 12 else []
    return "\n".join([*lines, *(f"  warning: {text}" for text in document.get("warnings", ()))])


def search_pool(options: Options, text: str, limit: int) -> dict[str, Any]:
    """Examples of the run's newest pool version that have the id `text`, or else of which some message contains it, ignoring case, or else
    whose source has that name.

    Returns:
        {"run", "version", "round", "text", "total": matches, "examples": the first `limit` in the order of ids, each {"id", "source",
        "outcome", "why": of the last round that selected (None before one), "asked": the last user turn, "response", "before"}}.

    Raises:
        ConfigError: an empty text. RunStateError: there is no run, or it has no pool yet.
    """
    if not text.strip():
        raise ConfigError("pool search: expected a text to search for, found an empty one.")
    path = options.existing_run()
    with Run.read(path) as run:
        current = rounds.current_pool(run)
        if current is None:
            raise RunStateError(
                f"{path}: this run has no pool yet. Add one with `{PROGRAM} pool import FILE… --run {path}`."
            )
        selected = [(r.number, rounds.recorded(run, r.number, "selection")) for r in rounds.all_rounds(run)]
    version, artifact = current
    pool = Pool.open(artifact.path)
    wanted = text.strip()
    ways = (
        lambda: np.flatnonzero(pool.ids == wanted),
        lambda: pool.search(wanted),
        lambda: np.flatnonzero([wanted.casefold() == str(source).casefold() for source in pool.sources]),
    )
    found = next((rows for way in ways if len(rows := way())), np.empty(0, dtype=np.int64))
    rows = found[:limit]
    ids = pool.ids[rows].tolist()
    number, selection = next(((n, a) for n, a in reversed(selected) if a is not None), (None, None))
    became = {} if selection is None else _outcomes(selection.path / "selection.parquet", ids)
    examples = []
    for name, source, messages in zip(ids, pool.sources[rows].tolist(), pool.messages(rows), strict=True):
        asked, response, before = parts_of(messages)
        said = {"asked": asked, "response": response, "before": before}
        examples.append({"id": name, "source": source, **became.get(name, {"outcome": None, "why": None}), **said})
    head = {"run": str(path), "version": version, "round": number, "text": text.strip(), "total": len(found)}
    return {**head, "examples": examples}


def _outcomes(table: Path, ids: list[str]) -> dict[str, dict[str, str]]:
    """{id: {"outcome", "why"}} of those of `ids` that a round's selection.parquet has."""
    read = pq.read_table(table, filters=pc.field("id").isin(pa.array(ids, type=pa.string())))
    return {record["id"]: {"outcome": record["outcome"], "why": reason_of(record)} for record in read.to_pylist()}


def describe_search(document: dict[str, Any]) -> str:
    """The matches of `pool search` as text for the terminal: each with its turns where they match."""
    shown, total, text = document["examples"], document["total"], document["text"]
    where = "" if total else ": neither in a message nor as an id or a source"
    cut = f"; the first {len(shown):,} are shown, --limit shows more" if len(shown) < total else ""
    lines = [
        f"{counted(total, 'example')} of pool version {document['version']} of {document['run']} with {text!r}{where}{cut}"
    ]
    for example in shown:
        label = f"{outcome('selected')}: " if example["outcome"] == "selected" else ""  # other reasons name the outcome
        why = f"; round {document['round']}: {label}{example['why']}" if example["outcome"] else ""
        lines.append(f"\n{example['id']}  {example['source']}{why}")
        turns = [(name, example[name]) for name in ("asked", "response", "before")]
        lines += [
            f"  {name}: {_around(said, text)}"
            for name, said in turns
            if name != "before" or text.lower() in said.lower()
        ]
    return "\n".join(lines)


def _around(said: str, text: str) -> str:
    """The part of a turn that shows where it matches, or its beginning."""
    at = said.lower().find(text.lower())
    start = max(0, at - SHOWN_TEXT // 3) if at + len(text) > SHOWN_TEXT else 0
    part = said[start : start + SHOWN_TEXT]
    return ("…" if start else "") + part + ("…" if start + SHOWN_TEXT < len(said) else "")
