"""What run.db knows of rounds and pool versions: small typed rows over `Run.db`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from al.errors import RunStateError
from al.program import PROGRAM
from al.run.artifacts import Artifact
from al.run.store import Run, now
from al.run.trash import discard

ADAPTER = "adapter"
"""The role of a round's complete adapter folder, and its name under `rounds/NNN/` and inside its artifact."""


@dataclass(frozen=True)
class Round:
    """One row of the rounds table. `state` is "open" until its report is published, then "done"."""

    number: int
    state: str
    budget: str
    config: dict[str, Any]
    started: str
    finished: str | None


def all_rounds(run: Run) -> list[Round]:
    """Every round of the run, oldest first. Raises RunStateError for a row that is damaged."""
    rows = run.db.execute(
        "SELECT round, state, budget, config, started, finished FROM rounds ORDER BY round"
    ).fetchall()
    try:
        return [
            Round(n, state, budget, json.loads(config), started, finished)
            for n, state, budget, config, started, finished in rows
        ]
    except (TypeError, ValueError) as error:
        raise RunStateError(
            f"{run.path / 'run.db'}: the config of a round is damaged ({error}). Restore run.db together with run.db-wal from a backup."
        ) from error


def last_round(run: Run) -> Round | None:
    """The newest round, or None."""
    rounds = all_rounds(run)
    return rounds[-1] if rounds else None


def unfinished_round(run: Run) -> Round | None:
    """The earliest round that is not done, or None."""
    return next((entry for entry in all_rounds(run) if entry.state == "open"), None)


def next_number(run: Run) -> int:
    """Number of the earliest unfinished round, or of the round that follows the last one."""
    unfinished, last = unfinished_round(run), last_round(run)
    return unfinished.number if unfinished else (last.number if last else 0) + 1


def open_round(run: Run, number: int, budget: str, config: dict[str, Any]) -> None:
    """Record that round `number` is under way with this budget and config; called again, it replaces both."""
    with run.change() as db:
        db.execute(
            "INSERT INTO rounds (round, state, budget, config, started) VALUES (?, 'open', ?, ?, ?) "
            "ON CONFLICT (round) DO UPDATE SET budget = excluded.budget, config = excluded.config",
            (number, budget, json.dumps(config), now()),
        )
    run.event("round.opened", round=number, budget=budget, config=config)


def finish_round(run: Run, number: int) -> None:
    """Mark the round as done: its report is published."""
    with run.change() as db:
        db.execute("UPDATE rounds SET state = 'done', finished = ? WHERE round = ?", (now(), number))
    run.event("round.done", round=number)
    run.checkpoint()


def withdraw_round(run: Run, number: int) -> None:
    """Forget round `number`, which nothing was picked for. Its artifacts stay, its folder goes to the trash."""
    directory = round_directory(run.path, number)
    if directory.is_dir():
        discard(run.path, directory)
    with run.change() as db:
        db.execute("DELETE FROM round_artifacts WHERE round = ?", (number,))
        db.execute("DELETE FROM rounds WHERE round = ?", (number,))
    run.event("round.withdrawn", round=number)


def reopen(run: Run, stage: str, fingerprint: str) -> list[int]:
    """Mark the rounds that used an artifact as not done, so that it is made again; their numbers."""
    used = "SELECT round FROM round_artifacts WHERE stage = ? AND fingerprint = ?"
    numbers = [number for (number,) in run.db.execute(used, (stage, fingerprint)).fetchall()]
    with run.change() as db:
        db.executemany(
            "UPDATE rounds SET state = 'open', finished = NULL WHERE round = ?", [(number,) for number in numbers]
        )
    for number in sorted(set(numbers)):
        run.event("round.reopened", round=number)
    return sorted(set(numbers))


def record(run: Run, number: int, role: str, artifact: Artifact) -> None:
    """Remember that `artifact` plays `role` ("selection", "adapter", "control.adapter", …) in round `number`."""
    with run.change() as db:
        db.execute(
            "INSERT OR REPLACE INTO round_artifacts VALUES (?, ?, ?, ?)",
            (number, role, artifact.stage, artifact.fingerprint),
        )
    run.event("round.role", round=number, role=role, stage=artifact.stage, fingerprint=artifact.fingerprint)


def unrecord(run: Run, number: int, role: str) -> None:
    """Forget what plays `role` in round `number`; the artifact stays."""
    with run.change() as db:
        db.execute("DELETE FROM round_artifacts WHERE round = ? AND role = ?", (number, role))
    run.event("round.role", round=number, role=role, stage=None, fingerprint=None)


def recorded(run: Run, number: int, role: str) -> Artifact | None:
    """The artifact that plays `role` in round `number`, or None."""
    row = run.db.execute(
        "SELECT stage, fingerprint FROM round_artifacts WHERE round = ? AND role = ?", (number, role)
    ).fetchone()
    return run.find(*row) if row else None


def required(run: Run, number: int, role: str) -> Artifact:
    """As `recorded`, for what must be there.

    Raises:
        RunStateError: the round has no such artifact (any more).
    """
    artifact = recorded(run, number, role)
    if artifact is None:
        raise RunStateError(
            f"{run.path}: round {number} has no `{role}` any more. `{PROGRAM} resume --run {run.path}` makes it again."
        )
    return artifact


def roles(run: Run, number: int) -> dict[str, Artifact]:
    """All artifacts of a round by role."""
    rows = run.db.execute("SELECT role, stage, fingerprint FROM round_artifacts WHERE round = ?", (number,)).fetchall()
    return {role: found for role, stage, key in rows if (found := run.find(stage, key)) is not None}


def current_pool(run: Run) -> tuple[int, Artifact] | None:
    """Number and artifact of the newest pool version, or None."""
    row = run.db.execute("SELECT version, fingerprint FROM pools ORDER BY version DESC LIMIT 1").fetchone()
    if row is None:
        return None
    artifact = run.find("pool", row[1])
    return (row[0], artifact) if artifact is not None else None


def add_pool(run: Run, artifact: Artifact) -> int:
    """Make `artifact` the newest pool version and return its number; the newest one again is not added twice."""
    present = current_pool(run)
    if present is not None and present[1].fingerprint == artifact.fingerprint:
        return present[0]
    number = 1 if present is None else present[0] + 1
    with run.change() as db:
        db.execute("INSERT INTO pools VALUES (?, ?, ?)", (number, artifact.fingerprint, now()))
    run.event("pool.version", version=number, fingerprint=artifact.fingerprint)
    return number


def pool_was_imported(run: Run) -> bool:
    """Whether the first pool version was there before the first round began, so that `pool import` made it and not a round's config."""
    (pool,), (begun,) = (
        run.db.execute(f"SELECT MIN({column}) FROM {table}").fetchone()
        for table, column in (("pools", "created"), ("rounds", "started"))
    )
    return pool is not None and (begun is None or pool < begun)


def labels(run: Run) -> dict[str, str]:
    """{path: label} of the files that were imported into the run's pool, links followed."""
    row = run.db.execute("SELECT value FROM meta WHERE key = 'labels'").fetchone()
    return json.loads(row[0]) if row is not None else {}


def record_labels(run: Run, more: Mapping[str, str]) -> None:
    """Remember what files were called on import, by path."""
    with run.change() as db:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('labels', ?)", (json.dumps({**labels(run), **more}),))
    run.event("pool.labels", labels=dict(more))


def round_directory(run: Path, number: int) -> Path:
    """`<run>/rounds/003`."""
    return run / "rounds" / f"{number:03d}"


def link(run: Path, number: int, name: str, target: Path) -> None:
    """Make `rounds/NNN/<name>` a relative link to `target`. A link of that name is replaced, anything else goes to the trash."""
    directory = round_directory(run, number)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    if path.is_symlink():
        path.unlink()
    elif path.exists():  # a copy that followed links, or somebody's own file
        discard(run, path)
    path.symlink_to(os.path.relpath(target, directory), target_is_directory=target.is_dir())


def read_summary(run: Run, number: int) -> dict[str, Any]:
    """The published summary of a round. Raises RunStateError if it is missing or changed."""
    return required(run, number, "report").json("summary.json")
