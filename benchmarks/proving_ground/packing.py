"""A study in parts of limited size, for a GPU machine that reaches nothing.

What travels is what was prepared: token tables, splits, plans and picks, so that players start at once; and the pools' text, for what is
made next to them. On the ten pools that is 5.0 MB of text and 6.1 MB for each tokenizer (118 MB of arrays), where tokenizing again
takes minutes. Models and packages follow as they are, because they do not compress. The parts are one tar archive cut to pieces.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from benchmarks.proving_ground.work import Work

ROOT = Path(__file__).resolve().parents[2]
CODE = ("al", "benchmarks", "configs", "selection", "trainer")
SCRIPTS = Path(__file__).with_name("machine")
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**27}]
"""A dictionary of 128 MiB: models with different tokenizers do not share tokens, but their splits, targets and offsets repeat."""
NAMES = ("inputs", "kinds", "plans", "pools")


class Parts:
    """A file object that writes DIR/part-000, part-001, ... of at most `size` bytes, and sums.txt for `sha256sum -c`."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.size, self.names = folder, size, []
        self.file: BinaryIO | None = None
        self.room = 0

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        view = memoryview(data)
        while view:
            if not self.room:
                self._next()
            count = min(self.room, len(view))
            self.file.write(view[:count])  # type: ignore[union-attr]
            view, self.room = view[count:], self.room - count
        return len(data)

    def _next(self) -> None:
        if self.file is not None:
            self.file.close()
        self.names.append(f"part-{len(self.names):03}")
        self.file, self.room = (self.folder / self.names[-1]).open("wb"), self.size

    def close(self) -> None:
        """Finish the last part and write the sums."""
        if self.file is not None:
            self.file.close()
        lines = []
        for name in self.names:
            with (self.folder / name).open("rb") as part:
                lines.append(f"{hashlib.file_digest(part, 'sha256').hexdigest()}  {name}\n")
        (self.folder / "sums.txt").write_text("".join(lines))


def pack(
    work: Work, out: Path, size: int, models: Iterable[str], site: Path | None, also: Iterable[Path],
    log: Callable[[str], None] = print,
) -> list[Path]:  # fmt: skip
    """Write the parts, their sums and the scripts to an empty folder.

    Args:
        size: bytes of a part. models: names of models whose directories travel. site: Python packages that the machine lacks.
        also: further files and directories, unpacked next to the work folder (a model in a smaller form, and what restores it).

    Raises:
        SystemExit: `out` is not empty, or nothing is planned.
    """
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out}: expected an empty or new folder")
    if not work.picks_files():
        raise SystemExit(f"{work.root}: no picks; run `plan` first")
    out.mkdir(parents=True, exist_ok=True)
    parts = Parts(out, size)
    with tempfile.TemporaryDirectory(dir=out) as folder, tarfile.open(fileobj=parts, mode="w|") as archive:  # type: ignore[call-overload]
        inner = Path(folder) / "work.tar.xz"
        _compress(work, inner)
        log(f"prepared files: {inner.stat().st_size / 1e6:.1f} MB")
        archive.add(inner, "work.tar.xz")
        for name in models:
            archive.add(work.models[name].resolve(), f"models/{name}")
        if work.to_embed:
            archive.add(work.about["embedder"], "embedder")
        for path, name in [(site, "site"), *((path, f"also/{path.name}") for path in also)]:
            if path is not None:
                archive.add(path.resolve(), name)
    parts.close()
    for script in SCRIPTS.iterdir():
        shutil.copy(script, out)
    log(f"{out}: {len(parts.names)} parts, {sum((out / name).stat().st_size for name in parts.names) / 1e6:.1f} MB")
    return [out / name for name in parts.names]


def _compress(work: Work, file: Path) -> None:
    """The code, and of the work folder what players read. Models are named as they will lie there."""
    with ExitStack() as stack:
        packed = stack.enter_context(lzma.open(file, "wb", filters=FILTERS))
        archive = stack.enter_context(tarfile.open(fileobj=packed, mode="w|"))
        for name in _tracked():
            archive.add(ROOT / name, f"code/{name}")
        for path in [*(work / name for name in NAMES), *work.picks_files()]:
            if path.exists():
                archive.add(path, f"work/{path.name}")
        with tempfile.TemporaryDirectory() as folder:
            about = work.about | {"models": {name: f"../models/{name}" for name in work.models}}
            about["embedder"] = "../embedder" if work.to_embed else None
            there = Path(folder) / "about.json"
            there.write_text(json.dumps(about))
            archive.add(there, "work/about.json")


def _tracked() -> list[str]:
    """The files of the code, as git lists them, tests and records left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *CODE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    return [name for name in listed if name and not name.startswith("benchmarks/results/")]
