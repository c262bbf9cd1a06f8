"""Checkpoints that a crash cannot damage.

    checkpoints/step-000010/
      state.safetensors   tensors
      state.json          counters and the identity of the training
      manifest.json       sha256 and size of the two

A checkpoint is written under a temporary name, synced, renamed, and verified against its manifest. Only then are
others removed: older ones, and later ones that were skipped. Loading uses the newest checkpoint whose files match its
manifest. A damaged one is skipped with a warning, because training from an earlier step gives the same result, only
later.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trainer.adapters import save_adapter, trainable_parameters
from trainer.errors import CheckpointError, MachineError
from trainer.optim import save_moments

logger = logging.getLogger(__name__)

TENSORS_FILE, STATE_FILE, MANIFEST_FILE = "state.safetensors", "state.json", "manifest.json"
ADAPTER_FOLDER, MOMENTS_FILE = "adapter", "moments.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: its path, the number of steps done, its tensors (on the CPU), its state."""

    path: Path
    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


def save_checkpoint(
    directory: Path,
    step: int,
    tensors: dict[str, torch.Tensor],
    state: dict[str, Any],
    *,
    keep: int,
    spare: int | None = None,
    failpoint: Callable[[str], None] = lambda name: None,
) -> Path:
    """Write checkpoint `step` into `directory` and return its path; the newest `keep` are kept, and that of step `spare`.

    `state` must be plain JSON. Raises MachineError if the disk is full, CheckpointError if the written files fail
    verification.
    """
    final = _path(directory, step)
    temporary = directory / f".tmp-{final.name}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write(temporary, tensors, state)
        failpoint("train.checkpoint.before_rename")
        if final.exists():  # a damaged one that loading skipped
            shutil.rmtree(final)
        os.rename(temporary, final)
        _sync(directory)
    except OSError as error:
        raise _explained(error, final) from error
    problem = _damage(final)
    if problem:
        raise CheckpointError(f"{final}: the checkpoint differs from what was written ({problem}); check the disk")
    newest = [path for path in _checkpoints(directory) if _step(path) <= step][:keep]
    for other in _checkpoints(directory):
        if other not in newest and _step(other) != spare:
            shutil.rmtree(other)
    return final


def load_newest(directory: Path, before: int | None = None) -> Checkpoint | None:
    """The newest undamaged checkpoint of `directory` (from before step `before`, if given), or None."""
    steps = [_step(path) for path in _checkpoints(directory)]
    found = (load_step(directory, step) for step in steps if before is None or step < before)
    return next((checkpoint for checkpoint in found if checkpoint is not None), None)


def load_step(directory: Path, step: int) -> Checkpoint | None:
    """The checkpoint after `step` steps, or None with a warning if it is missing or damaged."""
    if not is_sound(directory, step):
        return None
    path = _path(directory, step)
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    return Checkpoint(path, step, load_file(path / TENSORS_FILE), state)


def is_sound(directory: Path, step: int) -> bool:
    """Whether the checkpoint after `step` steps is complete; logs a warning if not."""
    path = _path(directory, step)
    problem = _damage(path)
    if problem:
        logger.warning("%s is damaged (%s): skipped", path, problem)
    return problem is None


@dataclass(frozen=True)
class Snapshots:
    """Steps of a training after which the adapter (PEFT's format) and the optimizer's moments (`trainer.optim.save_moments`) are kept,
    in `directory`/step-000010/adapter and …/moments.safetensors. Gradients are computed with them later."""

    directory: Path
    steps: tuple[int, ...] = ()

    def path(self, step: int) -> Path:
        """The folder of one step."""
        return _path(self.directory, step)

    def save(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Write the folder of `step`, or replace the one that an earlier try left. Raises MachineError if the disk is full."""
        final = self.path(step)
        temporary = self.directory / f".tmp-{final.name}"
        try:
            for left in (temporary, final):
                shutil.rmtree(left, ignore_errors=True)
            save_adapter(model, temporary / ADAPTER_FOLDER)
            save_moments(optimizer, trainable_parameters(model), temporary / MOMENTS_FILE)
            for path in (*temporary.rglob("*"), temporary):
                _sync(path)
            os.rename(temporary, final)
            _sync(self.directory)
        except OSError as error:
            raise _explained(error, final) from error

    def complete(self, step: int) -> bool:
        """Whether the folders of all steps up to `step` are present."""
        return all(self.path(kept).is_dir() for kept in self.steps if kept <= step)


def _explained(error: OSError, path: Path) -> Exception:
    """An error that names what was to be written if the disk is full; any other error as it is."""
    if error.errno != errno.ENOSPC:
        return error
    return MachineError(f"{path}: no space left for a checkpoint; free some and run again, training continues")


def _path(directory: Path, step: int) -> Path:
    return directory / f"step-{step:06d}"


def _checkpoints(directory: Path) -> list[Path]:
    """Newest first."""
    found = (
        path for path in directory.glob("step-[0-9]*") if path.name.removeprefix("step-").isdecimal() and path.is_dir()
    )
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _write(directory: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, directory / TENSORS_FILE)
    (directory / STATE_FILE).write_text(json.dumps(state, indent=1, sort_keys=True), encoding="utf-8")
    files = {name: _fingerprint(directory / name) for name in (TENSORS_FILE, STATE_FILE)}
    (directory / MANIFEST_FILE).write_text(json.dumps(files, indent=1, sort_keys=True), encoding="utf-8")
    for name in (TENSORS_FILE, STATE_FILE, MANIFEST_FILE):
        _sync(directory / name)
    _sync(directory)


def _damage(path: Path) -> str | None:
    """The damage of a checkpoint, or None."""
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        wrong = [name for name in (TENSORS_FILE, STATE_FILE) if manifest[name] != _fingerprint(path / name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(wrong)} differ from the manifest" if wrong else None


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
