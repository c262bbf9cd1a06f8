"""`doctor` checks that the machine can run a round with a config; it and `verify`, that the files of a run are as they were published."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from al.cache import cache_dir
from al.commands.options import Options
from al.errors import ConfigError, RunStateError, UserError
from al.excerpt import counted
from al.planning.needs import unmet
from al.pool.sources import find_sources
from al.program import PROGRAM
from al.run import rounds
from al.run.artifacts import versions
from al.run.disk import nearest_folder, probe_disk
from al.run.object_store.access import contact
from al.run.ownership import is_run, strangers
from al.run.progress import Progress, stop_on_signals
from al.run.store import Run
from al.run.trash import contents
from al.tracking.services import check_installed
from trainer.config import ModelConfig

SHOWN = 20
"""Entries that are not of the run."""


def examine(options: Options, drop_damaged: bool) -> dict[str, Any]:
    """Facts about the machine and the disk of the run, what the config that `round` would use lacks here, and with --run the run's damage.
    Of a run with a pool, the config is checked only if --config or --set is given: an archived run needs no model.

    Returns:
        {"facts": {...}, "problems": [text], "exit_code": 0, 4 or 5, "dropped": [stage/fingerprint], "reopened": [round]}.
    """
    facts, disk = probe_disk(nearest_folder(options.run_directory()))
    facts = {**_machine(), **facts}
    read_only = options.run_path is not None and options.run_path.exists() and facts["fsync ms"] is None
    problems = [] if read_only else disk  # a copy to look at
    problems += [
        f"{name} is not installed; run `make test` or pip install --require-hashes -r requirements.lock"
        for name, v in facts["versions"].items()
        if v == "absent"
    ]
    only_the_run = options.config_path is None and not options.overrides and _has_pool(options.run_path)
    if not only_the_run and not read_only:
        problems += _lacking(options)
    code, dropped, reopened = (4 if problems else 0), [], []
    if options.run_path is not None:
        with Run.create_or_open(options.run_path) if drop_damaged else Run.read(options.run_path) as run:
            damaged, dropped, reopened = _examine_run(run, drop_damaged)
            place = {} if run.store is None else {"artifacts": run.store.url}
            facts |= {"run": str(options.run_path), **place, **_strangers_and_trash(run)}
        problems += [] if drop_damaged else damaged
        code = 5 if damaged and not drop_damaged else code
    return {"facts": facts, "problems": problems, "exit_code": code, "dropped": dropped, "reopened": reopened}


def _lacking(options: Options) -> list[str]:
    """What the config needs and is not here: model, embedder, device, disk, packages of trackers, object store, files of the pool."""
    config, directory = options.load_config(), options.run_directory()
    problems = [str(problem) for problem in unmet(config, directory)]
    checks = [lambda: check_installed(config.track)]
    if config.artifacts is not None:
        checks.append(lambda: contact(config.artifacts))
    if options.pool or not _has_pool(directory):
        checks.append(lambda: find_sources(config.pool))
    for check in checks:
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    return problems


def _has_pool(directory: Path | None) -> bool:
    if directory is None or not is_run(directory):
        return False
    with Run.read(directory) as run:
        return rounds.current_pool(run) is not None


def _machine() -> dict[str, Any]:
    import psutil
    import torch

    from trainer.model import resolve_device, resolve_dtype

    device = resolve_device(ModelConfig())
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "compute dtype": str(resolve_dtype(ModelConfig(), device)),
        "cache": str(cache_dir()),
        "demo assets": (cache_dir() / "demo-pool").is_dir(),
        "versions": versions(),
    }
    if device.type == "cuda":
        facts["GPU memory GiB"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return facts


def _strangers_and_trash(run: Run) -> dict[str, Any]:
    """Entries of the run directory that are not part of the run: trash and foreign files."""
    roles: dict[int, set[str]] = {entry.number: set() for entry in rounds.all_rounds(run)}
    for number, role in run.db.execute("SELECT round, role FROM round_artifacts").fetchall():
        roles.setdefault(number, set()).add(role)
    found = (*run.unlisted().foreign, *strangers(run.path, roles))
    foreign = [str(entry.relative_to(run.path)) for entry in found]
    trash = contents(run.path)
    size = sum(entry.bytes for entry in trash) / 2**20
    return {
        "trash": f"{counted(len(trash), 'entry', 'entries')}, {size:.1f} MiB"
        + (" (`gc` deletes them)" if trash else ""),
        "not of this run": foreign,
    }


def _examine_run(run: Run, drop: bool) -> tuple[list[str], list[str], list[int]]:
    """Damaged artifacts, those that were dropped, and the rounds that must make them again."""
    reopened: set[int] = set()
    damaged = run.verify()
    if drop:
        for stage, key in damaged:
            reopened |= set(rounds.reopen(run, stage, key))
            run.forget(stage, key)
    return _lines(damaged), [f"{stage}/{key}" for stage, key in damaged] if drop else [], sorted(reopened)


def _lines(damaged: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    return [f"{stage}/{key}: {problem}" for (stage, key), problems in damaged.items() for problem in problems]


def verify(options: Options, every: bool) -> dict[str, Any]:
    """Read every file of every artifact of the run, or with `every` of all runs under runs/, and compare it with its manifest.

    Returns:
        {"runs": [{"run": path, "artifacts": int, "files": int, "bytes": int, "problems": [text]}], "exit_code": 0 or 5}.

    Raises:
        RunStateError: there is no run, or its run.db is lost or damaged; with `every` that is a problem of that run.
    """
    if every and options.run_path is not None:
        raise ConfigError("verify: --all checks every run under runs/, and --run one of them. Give one of the two.")
    stop_on_signals()
    folders = [path.parent for path in sorted(Path("runs").glob("*/run.db"))] if every else [options.existing_run()]
    if not folders:
        raise RunStateError("runs/: there is no run here. Name one with --run.")
    checked = []
    for folder in folders:
        try:
            checked.append(_verify_run(folder, options.as_json))
        except RunStateError as error:
            if not every:
                raise
            checked.append({"run": str(folder), "artifacts": 0, "files": 0, "bytes": 0, "problems": [str(error)]})
    return {"runs": checked, "exit_code": 5 if any(found["problems"] for found in checked) else 0}


def _verify_run(path: Path, quiet: bool) -> dict[str, Any]:
    with Run.read(path) as run:
        (count,) = run.db.execute("SELECT COUNT(*) FROM artifacts").fetchone()
        checked = []
        with Progress(f"verify {path}", count, "artifacts", quiet=quiet) as progress:
            for one in run.check_files():
                checked.append(one)
                progress(1)
    return {
        "run": str(path),
        "artifacts": len(checked),
        "files": sum(one.files for one in checked),
        "bytes": sum(one.bytes for one in checked),
        "problems": _lines({(one.stage, one.fingerprint): one.problems for one in checked}),
    }


def describe_verified(document: dict[str, Any]) -> str:
    """What was read and what is damaged, with the way back, for the terminal."""
    lines = []
    for found in document["runs"]:
        read = f"{counted(found['artifacts'], 'artifact')}, {counted(found['files'], 'file')}, {found['bytes'] / 2**20:,.1f} MiB read"
        lines.append(f"{found['run']}: {read}; {len(found['problems']) or 'no'} damaged")
        lines += [f"  problem: {problem}" for problem in found["problems"]]
        if found["problems"] and found["artifacts"]:
            lines.append(
                f"  way back: restore them from a backup, or `{PROGRAM} doctor --run {found['run']} --drop-damaged` forgets the "
                f"artifacts and `{PROGRAM} resume --run {found['run']}` makes them again"
            )
    return "\n".join(lines)


def _more(count: int) -> str:
    return f" and {count} more (--json lists them); Winnow leaves them alone" if count > 0 else ""


def describe_findings(document: dict[str, Any]) -> str:
    """The text of the findings for the terminal."""
    facts = dict(document["facts"])
    foreign = facts.pop("not of this run", None)
    lines = [f"{name:<16} {value}" for name, value in facts.items() if name != "versions"]
    if foreign is not None:
        lines.append(f"{'not of this run':<16} {', '.join(foreign[:SHOWN]) or 'nothing'}" + _more(len(foreign) - SHOWN))
    lines += [f"{name:<22} {value}" for name, value in document["facts"]["versions"].items()]
    lines += [f"dropped {name}" for name in document["dropped"]]
    lines += [f"round {number} is open again: `resume` makes the missing artifacts" for number in document["reopened"]]
    lines += [f"problem: {problem}" for problem in document["problems"]] or ["no problem found"]
    return "\n".join(lines)
