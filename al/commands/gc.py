"""`gc`: lists a run's trash and deletes it after confirmation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from al.commands.options import Options
from al.excerpt import counted
from al.program import PROGRAM
from al.run import trash
from al.run.object_store import keeping, uploads
from al.run.ownership import abandoned_scratch
from al.run.store import Run


def empty_trash(options: Options, confirm: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Pass the trash to `confirm`, and delete exactly what was listed if it returns True. Abandoned training is in the trash then.

    Returns:
        {"run", "trash": [{"name": of an entry, or URL of what is left on the store, "bytes"}], "bytes", "left_alone": entries of artifacts/
        that are not of this run, "deleted": bool}.
    """
    path = options.existing_run()
    Run.read(path).close()  # raises if there is no run
    with Run.create_or_open(path) as run:
        for folder in abandoned_scratch(path):
            trash.discard(path, folder)
        found, store = trash.contents(path), run.store
        left_over = {} if store is None else uploads.left_over(path, store, run.rows())
        listed = [asdict(entry) for entry in found]
        listed += [{"name": f"{store.url}/{folder}", "bytes": size} for folder, size in left_over.items()]
        document = {
            "run": str(path),
            "trash": listed,
            "bytes": sum(entry["bytes"] for entry in listed),
            "left_alone": [str(entry.relative_to(path)) for entry in run.foreign],
            "deleted": False,
        }
        if listed and confirm(document):
            trash.delete(path, [entry.name for entry in found])
            keeping.delete_left_over(run, left_over)
            document["deleted"] = True
        return document


def describe_trash(document: dict[str, Any]) -> str:
    """The list of the trash for the terminal."""
    lines = [f"{entry['bytes'] / 2**20:10.1f} MiB  {entry['name']}" for entry in document["trash"]]
    head = f"{document['run']}/trash: {counted(len(lines), 'entry', 'entries')}, {document['bytes'] / 2**20:.1f} MiB"
    foreign = [f"not of this run, left alone: {name}" for name in document["left_alone"]]
    return "\n".join([head, *lines, *foreign])


def describe_emptied(document: dict[str, Any]) -> str:
    """The outcome for the terminal, after the list of the trash if it was not shown before."""
    if not document["trash"]:
        return describe_trash(document)
    if document["deleted"]:
        return f"deleted {counted(len(document['trash']), 'entry', 'entries')}, {document['bytes'] / 2**20:.1f} MiB"
    return f"nothing was deleted; `{PROGRAM} gc --run {document['run']} --yes` deletes it without asking"
