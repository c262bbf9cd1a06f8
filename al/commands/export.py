"""`pool export`: a run's newest pool version, or one side of its split, as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from al.commands.options import Options
from al.errors import RunStateError
from al.excerpt import counted
from al.pool.export import check_destination, export_examples
from al.pool.store import Pool, locate
from al.preparation.holdout import SIDES
from al.program import PROGRAM
from al.run import rounds
from al.run.progress import Progress, stop_on_signals
from al.run.store import Run

SPLITS = ("pool", "dev", "test")


def export_pool(options: Options, out: Path, split: str | None, force: bool) -> dict[str, Any]:
    """Write the run's newest pool version to `out`; with `split` (of SPLITS) only that side of the newest round's split.

    Returns run, pool version, split, examples written, and the file.

    Raises:
        ConfigError: `out` cannot be written (suffix, folder, or it exists and `force` is False).
        RunStateError: the run has no pool, or no round of it has split the pool.
        EnvironmentProblem: the disk is full.
    """
    check_destination(out, force)
    path = options.existing_run()
    stop_on_signals()
    with Run.read(path) as run:
        current = rounds.current_pool(run)
        if current is None:
            raise RunStateError(
                f"{path}: this run has no pool yet. Add one with `{PROGRAM} pool import FILE… --run {path}`."
            )
        version, artifact = current
        chosen = _side(run, artifact.path, split) if split else None
        with Progress("export", None, "examples", quiet=options.as_json) as progress:
            written = export_examples(artifact.path, out, chosen=chosen, force=force, progress=progress)
    return {"run": str(path), "version": version, "split": split, "examples": written, "file": str(out)}


def _side(run: Run, pool: Path, split: str) -> np.ndarray:
    """(n,) bool: the pool's examples on one side of the newest split. Examples imported later are on no side."""
    splits = (rounds.recorded(run, entry.number, "split") for entry in reversed(rounds.all_rounds(run)))
    newest = next((found for found in splits if found is not None), None)
    if newest is None:
        raise RunStateError(
            f"--split {split}: no round of {run.path} has split the pool into dev, test and pool yet. Run one, or leave --split out."
        )
    keys, sides = np.load(newest.path / "keys.npy"), np.load(newest.path / "split.npy")
    at, found = locate(keys, Pool.open(pool).keys)
    return found & (sides[at] == SIDES[split])


def describe_export(document: dict[str, Any]) -> str:
    """One line on what was written, for the terminal."""
    what = f"{document['split']} side of pool" if document["split"] else "pool"
    return f"{document['file']}: {counted(document['examples'], 'example')}, the {what} version {document['version']} of {document['run']}"
