"""What lies on an object store: a folder of objects for each publication, never overwritten.

    <url>/<run id>/run.json                                which run this is; written first
    <url>/<run id>/<stage>/<fingerprint>-<digits>/…        files of an artifact; the digits begin the sha256 of its manifest
                                         …/manifest.json   written last: a folder that has one is whole

A manifest has the run's id and the time in it, so no two publications share a folder. There is nothing to lock and nothing to write under
a condition, which not every store offers. The row of run.db has the sha256 of the manifest, and so names the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from al.errors import EnvironmentProblem, RunStateError
from al.run import integrity
from al.run.atomic import fsync_path, make_folder, replaced
from al.run.failpoints import failpoint
from al.run.integrity import MANIFEST
from al.run.object_store.access import attempt, file_system, is_local

RUN = "run.json"
DIGITS = 16
FOLDER = re.compile(rf"\w+/[0-9a-f]{{20}}-[0-9a-f]{{{DIGITS}}}")
BLOCK = 16 << 20


def folder_name(stage: str, fingerprint: str, manifest_sha256: str) -> str:
    """`<stage>/<fingerprint>-<digits>`: the folder of a publication."""
    return f"{stage}/{fingerprint}-{manifest_sha256[:DIGITS]}"


@dataclass(frozen=True)
class ObjectStore:
    """The part of a store that is one run's: `url` is `<the config's artifacts>/<run id>`. Every method raises EnvironmentProblem where the
    store does not do what is asked."""

    url: str

    def begin(self) -> None:
        """Write the file that says which run this is."""
        files, root = file_system(self.url)
        base, _, run = self.url.rpartition("/")
        if is_local(files) and not Path(root).parent.is_dir():
            raise EnvironmentProblem(
                f"artifacts: {base}: expected a folder, found none. Make it, or mount the file system that it is on."
            )
        text = json.dumps({"run": run}).encode()
        attempt("write", f"{self.url}/{RUN}", lambda: files.pipe_file(f"{root}/{RUN}", text))

    def require(self) -> None:
        """Raise EnvironmentProblem unless the store answers and has this run. Only then does a missing object mean damage."""
        try:
            self.read(RUN)
        except FileNotFoundError:
            raise EnvironmentProblem(
                f"{self.url}: expected the artifacts of this run, found no {RUN}. Nothing was changed. Check that the bucket exists or the "
                f"file system is mounted, and whose credentials are used; then run the same command again."
            ) from None

    def read(self, name: str) -> bytes:
        """The content of a small object. Raises FileNotFoundError."""
        files, root = file_system(self.url)
        return attempt("read", f"{self.url}/{name}", lambda: files.cat_file(f"{root}/{name}"))

    def upload(self, folder: str, directory: Path) -> None:
        """Copy the files of a sealed directory into a folder, then its manifest. Each must have its size there. The failpoint
        `<stage>.uploaded` lies between files and manifest."""
        for name in json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]:
            self._put(directory / name, f"{folder}/{name}")
        failpoint(f"{folder.partition('/')[0]}.uploaded")
        self._put(directory / MANIFEST, f"{folder}/{MANIFEST}")

    def _put(self, source: Path, name: str) -> None:
        files, root = file_system(self.url)
        path, size = f"{root}/{name}", source.stat().st_size

        def put() -> None:
            """Copy it and look at what has arrived."""
            if is_local(files):
                make_folder(Path(path).parent)
            files.put_file(str(source), path)
            try:
                found = files.size(path)
            except FileNotFoundError:
                found = 0
            if found != size:
                raise OSError(f"{size} bytes were written, {found} have arrived")
            if is_local(files):
                fsync_path(Path(path))
                fsync_path(Path(path).parent)

        attempt("write", f"{self.url}/{name}", put)

    def whole_folders(self) -> list[str]:
        """Every folder of a publication that has a manifest."""
        files, root = file_system(self.url)
        found = attempt("list", self.url, lambda: files.glob(f"{root}/*/*/{MANIFEST}"))
        folders = ("/".join(str(path).split("/")[-3:-1]) for path in found)
        return sorted(folder for folder in folders if FOLDER.fullmatch(folder))

    def size(self, folder: str) -> int | None:
        """Bytes of all objects of a folder; None if it has none."""
        files, root = file_system(self.url)
        found = attempt("list", f"{self.url}/{folder}", lambda: files.find(f"{root}/{folder}", detail=True))
        return sum(entry["size"] for entry in found.values()) if found else None

    def delete(self, folder: str = "") -> None:
        """Delete the objects of a folder, the manifest first; without a folder all of this run's."""
        files, root = file_system(self.url)
        path = f"{root}/{folder}".rstrip("/")

        def delete() -> None:
            """Delete what there is, first what says that it is whole."""
            for name in (MANIFEST, RUN):
                if files.exists(f"{path}/{name}"):
                    files.rm_file(f"{path}/{name}")
            if files.exists(path):
                files.rm(path, recursive=True)

        attempt("delete", f"{self.url}/{folder}", delete)


@dataclass(frozen=True)
class StoredArtifact:
    """A publication that a row of run.db vouches for. It is made of plain values, so it travels to workers."""

    store: ObjectStore
    stage: str
    fingerprint: str
    manifest_sha256: str

    @property
    def folder(self) -> str:
        """Its folder on the store."""
        return folder_name(self.stage, self.fingerprint, self.manifest_sha256)

    @property
    def url(self) -> str:
        """Where its files are."""
        return f"{self.store.url}/{self.folder}"

    def manifest(self, cache: Path) -> bytes:
        """The manifest.

        Raises:
            RunStateError: it is missing or changed; the message names the way back of the run of `cache`.
        """
        try:
            content = self.store.read(f"{self.folder}/{MANIFEST}")
        except FileNotFoundError:
            self.store.require()
            content = b""
        if hashlib.sha256(content).hexdigest() != self.manifest_sha256:
            raise RunStateError(f"{self.url}: its manifest is missing or changed. {integrity.way_back(cache)}")
        return content

    def fetch_manifest(self, cache: Path) -> None:
        """Make sure that the directory `cache` has the manifest. Raises RunStateError as `manifest`."""
        path = cache / MANIFEST
        if not path.is_file() or integrity.sha256_file(path) != self.manifest_sha256:
            content = self.manifest(cache)
            with _copied(path) as temporary:
                temporary.write_bytes(content)

    def fill(self, cache: Path, listed: Mapping[str, Mapping[str, Any]]) -> None:
        """Make the directory `cache` whole, once in a process: files that are missing there or differ are fetched and checked.

        Args:
            listed: files as the manifest has them.

        Raises:
            RunStateError: a file is missing on the store too, or differs. EnvironmentProblem: it cannot be written here.
        """
        if integrity.is_trusted(cache):
            return
        self.fetch_manifest(cache)
        for name, entry in listed.items():
            if not (cache / name).resolve().is_relative_to(cache.resolve()):  # a manifest that somebody else wrote
                raise RunStateError(
                    f"{self.url}: its manifest lists {name!r}, which is outside of it. {integrity.way_back(cache)}"
                )
            if integrity.problem(cache / name, entry, whole=False) is not None:
                self._fetch(cache, name, entry)
        integrity.trust(cache)

    def _fetch(self, cache: Path, name: str, entry: Mapping[str, Any]) -> None:
        files, root = file_system(self.url)
        with _copied(cache / name) as temporary:
            try:
                attempt("read", f"{self.url}/{name}", lambda: files.get_file(f"{root}/{name}", str(temporary)))
            except FileNotFoundError:
                self.store.require()
                raise RunStateError(f"{self.url}/{name}: missing. {integrity.way_back(cache)}") from None
            if temporary.stat().st_size != entry["bytes"] or integrity.sha256_file(temporary) != entry["sha256"]:
                raise RunStateError(
                    f"{self.url}/{name}: content differs from the manifest (size or sha256). {integrity.way_back(cache)}"
                )
            if "mtime_ns" in entry:  # a large file: the next process need not read all of it
                os.utime(temporary, ns=(entry["mtime_ns"], entry["mtime_ns"]))

    def damage(self, listed: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What differs between the objects and the files of the manifest, one line each; reads every byte."""
        files, root = file_system(self.url)
        problems = []
        for name, entry in listed.items():
            where, path = f"{self.url}/{name}", f"{root}/{name}"
            try:
                size, sha256 = attempt("read", where, lambda path=path: _measured(files, path))
            except FileNotFoundError:
                self.store.require()
                problems.append(f"{where}: missing")
                continue
            if size != entry["bytes"]:
                problems.append(f"{where}: {size} bytes, the manifest says {entry['bytes']}")
            elif sha256 != entry["sha256"]:
                problems.append(f"{where}: content differs from the manifest (sha256)")
        return problems


def _measured(files: Any, path: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with files.open(path, "rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


@contextmanager
def _copied(path: Path) -> Iterator[Path]:
    """`replaced` for a file of the cache. Raises EnvironmentProblem: it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path, durable=False) as temporary:
            temporary.touch()
            yield temporary
    except OSError as error:
        raise EnvironmentProblem(
            f"{path}: a copy of what is on the store cannot be written here ({error.strerror or error}). Free some space; or copy the run, "
            f"its folder artifacts/ may be left out, to a disk that can be written, and give that one as --run."
        ) from error
