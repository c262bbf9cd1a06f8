"""Makes a lost or damaged run.db again, from what lies next to it.

| part of run.db     | comes from                                                                                     |
|--------------------|------------------------------------------------------------------------------------------------|
| artifacts          | the manifest of every artifact, here and on the store that events.jsonl names                  |
| rounds, roles      | events.jsonl, which repeats every change of run.db; of earlier versions the links under rounds/ |
| pool versions      | events.jsonl; of earlier versions the artifacts of the stage `pool`, oldest first              |

What refers to an artifact that is no longer there is listed as lost, and its round is open, so that `resume` makes it again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from al.errors import RunStateError
from al.excerpt import counted
from al.program import PROGRAM
from al.run import database, ownership, trash
from al.run.atomic import move_into_place
from al.run.database import DATABASE, WAL
from al.run.integrity import MANIFEST, sha256_file
from al.run.object_store import uploads
from al.run.object_store.objects import ObjectStore
from al.run.ownership import EVENTS
from al.run.store import acquire_lock

NEW = "run.db.new"


@dataclass
class _Round:
    state: str
    budget: str
    config: dict[str, Any]
    started: str
    finished: str | None = None
    roles: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class _Known:
    """What is known of a run without its database."""

    run_id: str
    artifacts: dict[tuple[str, str], dict[str, Any]]
    rounds: dict[int, _Round] = field(default_factory=dict)
    pools: dict[int, tuple[str, str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def rebuild(run: Path) -> dict[str, Any]:
    """Make run.db again. The old one, if there is any, goes to the trash with its log.

    Returns:
        {"run", "artifacts", "pools": numbers, "rounds": {"done": [...], "open": [...]}, "lost": [text]}.

    Raises:
        RunStateError: run.db is whole, so there is nothing to do; there are no artifacts of a run; another process writes the run.
    """
    if not run.is_dir():
        raise RunStateError(f"{run}: there is no run here.")
    with acquire_lock(run):
        _refuse_a_whole_one(run)
        store = uploads.used_by(run)
        if store is not None:
            uploads.bring_manifests(run, store)
        known = _known(run)
        if store is not None:
            known.lost += [
                f"{folder}: no longer on the store" for folder in uploads.forget_missing(run, known.artifacts)
            ]
        new = run / NEW
        new.unlink(missing_ok=True)
        _write(new, run, known, store)
        for name in (DATABASE, WAL, "run.db-shm", "run.db-journal"):
            if (run / name).exists():
                trash.discard(run, run / name)
        move_into_place(new, run / DATABASE)
    states = {state: sorted(n for n, r in known.rounds.items() if r.state == state) for state in ("done", "open")}
    return {
        "run": str(run),
        "artifacts": len(known.artifacts),
        "pools": sorted(known.pools),
        "rounds": states,
        "lost": known.lost,
    }


def _refuse_a_whole_one(run: Path) -> None:
    if database.state(run) != "ours":
        return
    with database.connected_to_read(run) as db:
        rows = db.execute("SELECT stage, fingerprint, manifest_sha256 FROM artifacts").fetchall()
        run_id, store = database.meta(db, "run"), database.meta(db, database.STORE)
    on_the_store = uploads.newer_than_database(run, rows) if store is not None else []
    if not on_the_store and not ownership.unlisted(run, run_id, [row[:2] for row in rows]).newer:
        raise RunStateError(f"{run}: run.db is whole, so there is nothing to repair. `doctor` checks the artifacts.")


def _known(run: Path) -> _Known:
    artifacts = ownership.own_artifacts(run)
    owners = Counter(manifest["run"] for manifest in artifacts.values() if "run" in manifest)
    if not artifacts:
        raise RunStateError(f"{run}: there are no artifacts of a run here, so there is nothing to make run.db from.")
    run_id = owners.most_common(1)[0][0] if owners else "unknown"
    known = _Known(run_id, {key: m for key, m in artifacts.items() if m.get("run", run_id) == run_id})
    known.lost += [f"{stage}/{name}: an artifact of another run" for stage, name in artifacts.keys() - known.artifacts]
    _replay(run, known)
    if not known.pools:
        versions = sorted((m["created"], name) for (stage, name), m in known.artifacts.items() if stage == "pool")
        known.pools = {number: (name, created) for number, (created, name) in enumerate(versions, 1)}
    for number in _numbers(run):
        if number not in known.rounds:
            _from_links(run, number, known)
    _drop_what_is_gone(known)
    return known


def _events(run: Path) -> Iterator[dict[str, Any]]:
    path = run / EVENTS
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:  # the end of a process that was killed while it wrote
                    continue
                if isinstance(event, dict):
                    yield event


def _replay(run: Path, known: _Known) -> None:
    for event in _events(run):
        kind, number = event.get("event"), event.get("round")
        if kind == "round.opened":
            before = known.rounds.get(number)
            if before is None:
                known.rounds[number] = _Round("open", event["budget"], event["config"], event["time"])
            else:
                before.budget, before.config = event["budget"], event["config"]
        elif kind == "round.withdrawn":
            known.rounds.pop(number, None)
        elif kind == "pool.version":
            known.pools[event["version"]] = (event["fingerprint"], event["time"])
        elif kind == "pool.labels":
            known.labels |= event["labels"]
        elif number in known.rounds:
            _change(known.rounds[number], kind, event)


def _change(entry: _Round, kind: str | None, event: dict[str, Any]) -> None:
    if kind == "round.done":
        entry.state, entry.finished = "done", event["time"]
    elif kind == "round.reopened":
        entry.state, entry.finished = "open", None
    elif kind == "round.role" and event["stage"] is None:
        entry.roles.pop(event["role"], None)
    elif kind == "round.role":
        entry.roles[event["role"]] = (event["stage"], event["fingerprint"])


def _numbers(run: Path) -> list[int]:
    """Rounds that have a directory under rounds/."""
    root = run / "rounds"
    folders = root.iterdir() if root.is_dir() and not root.is_symlink() else ()
    names = [path.name for path in folders if path.is_dir() and not path.is_symlink()]
    return sorted(int(name) for name in names if re.fullmatch(r"\d{3,}", name))


def _from_links(run: Path, number: int, known: _Known) -> None:
    """A finished round of a version that wrote no events of its own."""
    folder, root = run / "rounds" / f"{number:03d}", (run / "artifacts").resolve()
    roles = {}
    for link in sorted(folder.iterdir()):
        target = link.resolve()
        if link.is_symlink() and target.is_dir() and target.is_relative_to(root):
            roles[link.name] = target.relative_to(root).parts[:2]
    manifest = known.artifacts.get(roles.get("report", ("", "")))
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if manifest is None or config is None:
        known.lost.append(f"round {number}: its budget and config; start it again with `round`")
        return
    created = manifest["created"]
    known.rounds[number] = _Round("done", manifest["params"]["budget"], config, created, created, roles)


def _drop_what_is_gone(known: _Known) -> None:
    for version, (name, _) in sorted(known.pools.items()):
        if ("pool", name) not in known.artifacts:
            known.lost.append(f"pool version {version}: its artifact pool/{name}")
            del known.pools[version]
    for number, entry in sorted(known.rounds.items()):
        for role, key in sorted(entry.roles.items()):
            if key not in known.artifacts:
                known.lost.append(f"round {number}: {role} ({'/'.join(key)})")
                del entry.roles[role]
                entry.state, entry.finished = "open", None


def _write(path: Path, run: Path, known: _Known, store: ObjectStore | None) -> None:
    db = database.connect_to_write(path.parent, path.name)
    try:
        database.bring_up_to_date(db, known.run_id)
        with database.changing(db):
            for (stage, name), manifest in sorted(known.artifacts.items(), key=lambda item: item[1]["created"]):
                sha256 = sha256_file(run / "artifacts" / stage / name / MANIFEST)
                row = (stage, name, sha256, manifest["seconds"], manifest["created"])
                db.execute("INSERT INTO artifacts VALUES (?, ?, ?, ?, ?)", row)
            for version, (name, created) in sorted(known.pools.items()):
                db.execute("INSERT INTO pools VALUES (?, ?, ?)", (version, name, created))
            for number, entry in sorted(known.rounds.items()):
                row = (number, entry.state, entry.budget, json.dumps(entry.config), entry.started, entry.finished)
                db.execute("INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?)", row)
                roles = [(number, role, *key) for role, key in sorted(entry.roles.items())]
                db.executemany("INSERT INTO round_artifacts VALUES (?, ?, ?, ?)", roles)
            if known.labels:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('labels', ?)", (json.dumps(known.labels),))
            if store is not None:
                database.keep_artifacts_at(db, store.url)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode=DELETE")
    finally:
        db.close()


def describe_rebuilt(document: dict[str, Any]) -> str:
    """The result as text for the terminal."""
    done, open_ = document["rounds"]["done"], document["rounds"]["open"]
    lines = [
        f"{document['run']}: run.db made again with {counted(document['artifacts'], 'artifact')}, "
        f"pool versions {document['pools'] or 'none'}, "
        f"finished rounds {done or 'none'}, open rounds {open_ or 'none'}. The old one is in the trash."
    ]
    lines += [f"lost: {line}" for line in document["lost"]]
    if open_:
        lines.append(f"Next: {PROGRAM} resume --run {document['run']}")
    return "\n".join(lines)
