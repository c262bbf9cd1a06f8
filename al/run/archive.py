"""A run as one file, to be kept or taken to another machine: a plain tar without links, in an order that depends only on the run.

| member         | holds                                                                                     |
|----------------|-------------------------------------------------------------------------------------------|
| `winnow.json`  | format, run id, size and sha256 of every other member in order, links of rounds/           |
| `run.db`       | a snapshot, so that the run may be at work meanwhile                                       |
| `artifacts/…`  | every artifact that a row of run.db vouches for                                            |
| everything else | events.jsonl, pages, comparison.json, reviews, labelling/, tracking/; no scratch, trash, locks |
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from al.errors import ConfigError, DataError, EnvironmentProblem, RunStateError
from al.excerpt import counted
from al.program import PROGRAM
from al.run import database, integrity
from al.run.artifacts import sorted_json
from al.run.atomic import fsync_path, written_whole
from al.run.database import DATABASE
from al.run.integrity import MANIFEST
from al.run.object_store import uploads
from al.run.store import Run

HEADER, FORMAT = "winnow.json", 1
FOLDERS = ("artifacts", "rounds", "labelling", "tracking")
TOP = re.compile(r"run\.db|events\.jsonl|comparison\.\w+|pool\.html")
BLOCK = 1 << 20
LARGEST_HEADER = 256 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")


def export_run(run: Path, out: Path) -> dict[str, Any]:
    """Write the run at `run` to the tar `out`, whole or not at all. Another process may work on the run meanwhile.

    Returns:
        {"run", "out", "files", "bytes"}.

    Raises:
        ConfigError: `out` exists. RunStateError: there is no run, or a file of it is damaged. EnvironmentProblem: `out` cannot be written.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already. Name another file, or remove it first.")
    with ExitStack() as stack:
        opened = stack.enter_context(Run.read(run))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with sqlite3.connect(folder / DATABASE) as copy:
            opened.db.backup(copy)
            if opened.store is not None:  # the copy has all artifacts in its folder
                copy.isolation_level = None
                with database.changing(copy):
                    database.keep_artifacts_at(copy, None)
        copy.close()
        files = {DATABASE: (folder / DATABASE, integrity.describe_file(folder / DATABASE))}
        files |= _artifacts(opened) | _others(run)
        entries = [{"name": name, "bytes": e["bytes"], "sha256": e["sha256"]} for name, (_, e) in files.items()]
        header = {
            "format": FORMAT,
            "run": database.meta(opened.db, "run"),
            "files": entries,
            "links": _links(run, files),
        }
        temporary = stack.enter_context(written_whole(out))
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
            text = sorted_json(header).encode()
            tar.addfile(_member(HEADER, len(text)), io.BytesIO(text))
            for name, (path, entry) in files.items():
                with path.open("rb") as handle:
                    checked = _Hashed(handle, entry["bytes"])
                    tar.addfile(_member(name, entry["bytes"]), checked)
                if checked.digest.hexdigest() != entry["sha256"]:
                    raise RunStateError(
                        f"{path}: content differs from the manifest (sha256), so nothing was exported. `{PROGRAM} doctor --run {run}` "
                        f"lists what is damaged and mends it."
                    )
    return {"run": str(run), "out": str(out), "files": len(entries), "bytes": sum(entry["bytes"] for entry in entries)}


class _Hashed(io.RawIOBase):
    """The first `size` bytes of a stream, with their digest: a log may grow while it is read."""

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._left, self.digest = stream, size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """As of any stream."""
        found = self._stream.read(min(self._left, size) if size >= 0 else self._left)
        self._left -= len(found)
        self.digest.update(found)
        return found


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _artifacts(run: Run) -> dict[str, tuple[Path, dict[str, Any]]]:
    """{name in the archive: (file, {"bytes", "sha256"})} of every file of every published artifact."""
    found = {}
    for stage, key in sorted(run.db.execute("SELECT stage, fingerprint FROM artifacts").fetchall()):
        artifact = run.find(stage, key)
        if artifact.stored is not None:
            artifact.path  # noqa: B018  the first use fills the cache
        folder = f"artifacts/{stage}/{key}"
        found[f"{folder}/{MANIFEST}"] = _described(artifact.directory / MANIFEST)
        for name, entry in sorted(artifact.manifest["files"].items()):
            path = artifact.directory / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise RunStateError(
                    f"{path}: missing, or of another size than its manifest says, so nothing was exported. `{PROGRAM} doctor --run "
                    f"{run.path}` lists what is damaged and mends it."
                )
            found[f"{folder}/{name}"] = (path, dict(entry))
    return found


def _others(run: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    paths = [path for path in run.iterdir() if TOP.fullmatch(path.name) and path.name != DATABASE]
    paths += [path for folder in FOLDERS[1:] for path in (run / folder).rglob("*")]
    files = sorted(path for path in paths if path.is_file() and not path.is_symlink() and not _through_link(path, run))
    return {path.relative_to(run).as_posix(): _described(path) for path in files}


def _through_link(path: Path, run: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(run) and parent != run)


def _described(path: Path) -> tuple[Path, dict[str, Any]]:
    return path, integrity.describe_file(path)


def _links(run: Path, files: dict[str, Any]) -> dict[str, str]:
    """{link: what it points to, both relative to the run} of the links of rounds/ that point at something in the archive."""
    found = {}
    for link in sorted(path for path in run.glob("rounds/*/*") if path.is_symlink()):
        target = Path(os.path.normpath(link.parent / os.readlink(link)))
        name = target.relative_to(run).as_posix() if target.is_relative_to(run) else ""
        if name in files or any(file.startswith(f"{name}/") for file in files if name):
            found[link.relative_to(run).as_posix()] = name
    return found


def import_run(archive: Path, run: Path) -> dict[str, Any]:
    """Make the run of an archive at `run`, which must not exist yet; whole or not at all.

    Returns:
        {"run", "archive", "files", "bytes"}.

    Raises:
        RunStateError: something is at `run`. DataError: `archive` is not readable, not an archive of a run, or differs from what its
            header, its manifests or its run.db say; EnvironmentProblem: too little disk.
    """
    if run.exists() or run.is_symlink():
        raise RunStateError(f"{run}: expected a path where nothing is yet. Give another --run.")
    if not archive.is_file():
        raise DataError(f"{archive}: expected a file that `export-run` wrote, found none.")
    run.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{run.name}.", dir=run.absolute().parent))
    try:
        with archive.open("rb") as raw:
            header = _unpack(raw, temporary)
        _check(temporary, header)
        uploads.leave(temporary)
        for link, target in header["links"].items():
            path = temporary / link
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(
                os.path.relpath(temporary / target, path.parent), target_is_directory=(temporary / target).is_dir()
            )
        for folder in (path for path in temporary.rglob("*") if path.is_dir() and not path.is_symlink()):
            fsync_path(folder)
        temporary.chmod(0o755)
        temporary.rename(run)
        fsync_path(run.absolute().parent)
    except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise _refusal(archive, str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {
        "run": str(run),
        "archive": str(archive),
        "files": len(header["files"]),
        "bytes": sum(entry["bytes"] for entry in header["files"]),
    }


def _refusal(archive: Path, why: str) -> DataError:
    return DataError(
        f"{archive}: not imported, {why}. Nothing was left. Copy the archive again, or export the run again."
    )


class _Bounded:
    """A file of which no single read may ask for more than `LARGEST_HEADER`: extended headers are read whole by `tarfile`."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """As of any stream."""
        if not 0 <= size <= LARGEST_HEADER:
            raise ValueError(f"a header of {counted(size, 'byte')}")
        return self._stream.read(size)


def _unpack(raw: BinaryIO, into: Path) -> dict[str, Any]:
    """Write the members of an archive, each checked against the header, which is returned."""
    with tarfile.open(fileobj=_Bounded(raw), mode="r:") as tar:
        members = iter(tar)
        first = next(members, None)
        if first is None or first.name != HEADER or not first.isreg() or first.size > LARGEST_HEADER:
            raise ValueError(f"its first member is not {HEADER}")
        header = json.loads(tar.extractfile(first).read())
        _check_header(header)
        needed, free = sum(entry["bytes"] for entry in header["files"]), shutil.disk_usage(into).free
        if needed > free:
            raise EnvironmentProblem(
                f"{into.parent}: the run needs {needed / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free. Free some space, or give a "
                f"--run on another disk."
            )
        for entry in header["files"]:
            member = next(members, None)
            if member is None or member.name != entry["name"] or not member.isreg() or member.size != entry["bytes"]:
                found = "nothing" if member is None else f"{member.name!r}"
                raise ValueError(f"expected the file {entry['name']!r} of {entry['bytes']} bytes, found {found}")
            _write(tar.extractfile(member), into / entry["name"], entry)
        if (extra := next(members, None)) is not None:
            raise ValueError(f"{extra.name!r} is not in its header")
    return header


def _check_header(header: Any) -> None:
    if header["format"] != FORMAT:
        raise ValueError(f"it has format {header['format']!r}, this Winnow reads {FORMAT}")
    names = [entry["name"] for entry in header["files"]]
    if len(set(names)) != len(names) or DATABASE not in names:
        raise ValueError(f"a name is in it twice, or {DATABASE} is missing")
    for entry in header["files"]:
        if not _safe(entry["name"]) or not SHA256.fullmatch(entry["sha256"]) or not 0 <= int(entry["bytes"]):
            raise ValueError(f"{entry['name']!r} is no file of a run")
    for link, target in header["links"].items():
        inside = any(name == target or name.startswith(f"{target}/") for name in names)
        if not (
            _safe(link) and _safe(target) and link.startswith("rounds/") and target.startswith("artifacts/") and inside
        ):
            raise ValueError(f"{link!r} is no link of a run")


def _safe(name: str) -> bool:
    """Whether a name is relative, has no `..` and lies where files of a run lie."""
    path = PurePosixPath(name)
    plain = (
        str(path) == name
        and name.isprintable()
        and "\\" not in name
        and not path.is_absolute()
        and ".." not in path.parts
    )
    return plain and (bool(TOP.fullmatch(name)) or (len(path.parts) > 1 and path.parts[0] in FOLDERS))


def _write(stream: Any, path: Path, entry: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as handle:
        while block := stream.read(BLOCK):
            digest.update(block)
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
    if digest.hexdigest() != entry["sha256"]:
        raise ValueError(f"the content of {entry['name']!r} differs from its sha256")


def _check(run: Path, header: dict[str, Any]) -> None:
    """That what was unpacked is a run, that its rows, manifests and files agree, and that there is no artifact without a row."""
    try:
        with Run.read(run) as opened:
            damaged = opened.verify()
            names = set(_artifacts(opened)) if not damaged else set()
            other = database.meta(opened.db, "run") != header["run"]
    except RunStateError as error:
        raise ValueError(str(error).replace(str(run), "the run")) from error
    if damaged or other:
        raise ValueError(f"damaged: {sorted(damaged)[:3]}" if damaged else "its run.db is that of another run")
    more = sorted({e["name"] for e in header["files"] if e["name"].startswith("artifacts/")} - names)
    if more:
        raise ValueError(f"{more[0]!r} is in no manifest")
    for name in (f"{DATABASE}-wal", f"{DATABASE}-shm"):
        (run / name).unlink(missing_ok=True)


def describe_archived(document: dict[str, Any]) -> str:
    """What was exported or imported, for the terminal."""
    size = f"{counted(document['files'], 'file')}, {document['bytes'] / 2**20:.1f} MiB, every sha256 checked"
    if "out" in document:
        return f"{document['run']} exported to {document['out']}: {size}. Next: {PROGRAM} import-run {document['out']} --run DIR"
    return (
        f"{document['archive']} imported into {document['run']}: {size}. Next: {PROGRAM} status --run {document['run']}"
    )
