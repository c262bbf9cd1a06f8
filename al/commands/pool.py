"""`pool import`: add sources to the pool of a run."""

from __future__ import annotations

from typing import Any

from al.commands.options import Options
from al.labels import adjusted
from al.pool.formats.leftovers import describe_leftover, listed_leftovers
from al.pool.identity import sources_config
from al.pool.reading.stdin import with_stdin_spooled
from al.pool.sources import find_sources
from al.preparation.stages import import_sources
from al.run import rounds
from al.run.session import Session
from al.run.store import Run

LEFTOVERS_SHOWN = 12


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
        return {"version": version, "run": str(run.path), "added": added, **artifact.json("pool.json")}


def describe_pool(document: dict[str, Any]) -> str:
    """The counts of a pool version as text for the terminal."""
    bad, answered = document["quarantined"], document.get("answered", 0)
    lines = (
        [] if document["added"] else ["nothing to add: these rows are in the pool already, and it has no new version"]
    )
    lines += [
        f"pool version {document['version']} of {document['run']}: {document['examples']:,} examples "
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
    return "\n".join(lines)
