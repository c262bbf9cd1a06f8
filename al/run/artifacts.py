"""Artifacts: immutable directories named by a fingerprint, published so that a kill at any instant leaves all or nothing.

write into artifacts/.tmp-<stage>-<fingerprint>/   → fsync every file
write manifest.json (size and sha256 per file)     → fsync file and directory
upload both, if the run has an object store        → al.run.object_store; what is renamed below is then a cache of it
rename to artifacts/<stage>/<fingerprint>/         → fsync the parent
commit the row in run.db                           → from here on, and only from here on, readers trust it
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from al import __version__
from al.errors import EnvironmentProblem, RunStateError
from al.program import PROGRAM
from al.run import integrity
from al.run.atomic import fsync_path, make_folder
from al.run.failpoints import failpoint
from al.run.integrity import MANIFEST, sha256_file
from al.run.object_store.objects import ObjectStore, StoredArtifact

RESULTS_DEPEND_ON = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "sentence-transformers",
    "faiss-cpu",
    "scikit-learn",
    "numpy",
)
"""Packages whose versions are kept with every artifact."""


@dataclass(frozen=True)
class Artifact:
    """One published directory: what made it (`stage`, `fingerprint`), where it is (`directory`) and its manifest. With `stored`, the
    directory is a cache of what is on an object store."""

    stage: str
    fingerprint: str
    directory: Path
    manifest: Mapping[str, Any]
    stored: StoredArtifact | None = None

    @property
    def path(self) -> Path:
        """The directory, to read files from. The first use in a process checks them, and fetches what a cache lacks; see
        `al.run.integrity` and `StoredArtifact.fill`.

        Raises:
            RunStateError: a file changed since it was published. EnvironmentProblem: a file cannot be fetched.
        """
        if self.stored is None:
            integrity.check_on_first_use(self.directory, self.manifest["files"])
        else:
            self.stored.fill(self.directory, self.manifest["files"])
        return self.directory

    def has(self, name: str) -> bool:
        """Whether it was published with a file `name`."""
        return name in self.manifest["files"]

    def json(self, name: str) -> Any:
        """The JSON document `name` of this artifact."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))


def sorted_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def fingerprint(stage: str, version: int, inputs: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """20 hex digits (80 bits of sha256) that name the result of a stage: its code version, inputs and parameters."""
    document = {"stage": stage, "version": version, "inputs": dict(inputs), "params": dict(params)}
    return hashlib.sha256(sorted_json(document).encode()).hexdigest()[:20]


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused because other readers of JSON would refuse it."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def seal(directory: Path, header: Mapping[str, Any]) -> str:
    """Flush every file of `directory`, write its manifest, and return the manifest's sha256. Hidden files are no stage's: file systems
    and file managers make them (.nfs…, .DS_Store)."""
    files, readable = {}, directory.stat().st_mode & 0o666  # safetensors writes files that nobody else may read
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and not p.name.startswith(".")):
        path.chmod(readable)
        fsync_path(path)
        if path.suffix == ".npy":
            _check_whole(path)
        files[path.relative_to(directory).as_posix()] = integrity.describe_file(path)
    manifest = directory / MANIFEST
    write_json(manifest, {**header, "files": files})
    for folder in sorted({p.parent for p in directory.rglob("*")} | {directory}):
        fsync_path(folder)
    fsync_path(manifest)
    return sha256_file(manifest)


def _check_whole(path: Path) -> None:
    """Raise OSError if an array's file has not as many bytes as its header says: `numpy.save` does not notice that the disk was full
    when its last 4 KiB were written."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            size = file.tell() + dtype.itemsize * math.prod(shape)
    except ValueError:  # not even the header is whole
        size = -1
    if path.stat().st_size != size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def publish(temporary: Path, final: Path, stage: str) -> None:
    """Rename a sealed directory into place.

    Raises:
        RunStateError: something is there that no row vouches for and that is not of this run.
    """
    make_folder(final.parent)
    if final.exists() or final.is_symlink():
        raise RunStateError(
            f"{final}: this is where stage `{stage}` publishes its result, and something is there that is not of this run. Move it "
            f"away and run the same command again."
        )
    temporary.rename(final)
    failpoint(f"{stage}.renamed")
    fsync_path(final.parent)


def read_manifest(directory: Path, expected_sha256: str, stored: StoredArtifact | None = None) -> dict[str, Any]:
    """The manifest of a published artifact, checked against the row that vouches for it; fetched, where the directory is a cache.

    Raises:
        RunStateError: the directory or its manifest is missing or was changed after it was published.
    """
    path = directory / MANIFEST
    if stored is not None:
        stored.fetch_manifest(directory)
    if not path.is_file() or sha256_file(path) != expected_sha256:
        raise RunStateError(
            f"{directory}: this artifact was published, but its manifest is missing or changed. Restore the directory from a "
            f"backup, or run `{PROGRAM} doctor --run DIR --drop-damaged` to forget it, then `resume` to make it again."
        )
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Checked:
    """One published artifact after a check of all its files: how many its manifest lists, their bytes, and what is wrong, a line each.
    `files` and `bytes` are 0 where the manifest itself is damaged."""

    stage: str
    fingerprint: str
    files: int
    bytes: int
    problems: list[str]


def check_all(run: Path, rows: Iterable[tuple[str, str, str]], store: ObjectStore | None = None) -> Iterator[Checked]:
    """Check every file of the artifacts of `rows` (stage, fingerprint, sha256 of the manifest) by its whole content: those on the store, if
    the run has one, and not those of the cache. Raises EnvironmentProblem: the store cannot be read, which is no damage."""
    for stage, key, sha256 in rows:
        path = run / "artifacts" / stage / key
        stored = None if store is None else StoredArtifact(store, stage, key, sha256)
        try:
            files = (json.loads(stored.manifest(path)) if stored else read_manifest(path, sha256))["files"]
        except RunStateError as error:
            yield Checked(stage, key, 0, 0, [str(error)])
            continue
        problems = stored.damage(files) if stored else integrity.damage(path, files)
        yield Checked(stage, key, len(files), sum(f["bytes"] for f in files.values()), problems)


def explain_os_error(error: OSError, where: Path) -> Exception:
    """Turn "no space left" and "quota exceeded" into an error a user can act on; other errors pass through."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        there = next(folder for folder in (where, *where.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free / 2**30
        return EnvironmentProblem(
            f"the disk that holds {where} is full ({free:.2f} GiB free). Nothing published was lost: free some space (`{PROGRAM} gc` "
            f"empties the trash of a run) and run the same command again; it continues after the last finished stage."
        )
    return error


def versions() -> dict[str, str]:
    """Versions of what a result depends on, as installed."""
    return {"winnow": __version__} | {name: _installed(name) for name in RESULTS_DEPEND_ON}


@cache
def _installed(name: str) -> str:
    """A package's version; read once in a process, because each reading parses the package's whole description."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
