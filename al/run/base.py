"""Whether an adapter and a base belong together: an adapter changes weights that it was trained on, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from al.errors import RunStateError
from al.run.artifacts import Artifact
from al.run.file_hashes import remembered_sha256
from trainer.config import ModelConfig

WEIGHTS = (".safetensors", ".gguf")
SHA256_DIGITS, SHOWN_DIGITS = 64, 12


MODEL_FILES = (".json", ".safetensors", ".gguf", ".model")


def local_identity(name: str) -> dict[str, Any]:
    """Names and sha256 of the files of a local model directory; {} for a hub name, which its revision identifies."""
    directory = Path(name)
    if not directory.is_dir():
        return {}
    files = sorted(
        p for p in directory.iterdir() if p.suffix in MODEL_FILES and p.is_file() and not p.name.startswith(".")
    )
    return {path.name: remembered_sha256(path) for path in files}


def other_base(adapter: Artifact, model: ModelConfig) -> str | None:
    """How the base that `model` names differs from the one that `adapter`, a train artifact, was trained on; None if it does not.

    Local models are compared by the content of their weights, hub models by name and pinned revision. A local copy and a hub name,
    and weights of which an earlier version recorded no content, cannot be compared.
    """
    trained = adapter.manifest["params"]["model"]
    before, now = _weights(trained.get("files", {})), _weights(local_identity(model.name))
    if before and now:
        same = set(before.values()) == set(now.values())
        return None if same else f"{trained['name']} with {_shown(before)}, now {model.name} with {_shown(now)}"
    if before or now or trained.get("files"):
        return None
    revisions = {trained["revision"], model.revision} - {None}
    if trained["name"] == model.name and len(revisions) < 2:
        return None
    return f"{trained['name']} (revision {trained['revision']}), now {model.name} (revision {model.revision})"


def refuse_other_base(adapter: Artifact, model: ModelConfig) -> None:
    """Raise RunStateError if `adapter` was trained on another base than `model` names; the message has both and the ways out."""
    difference = other_base(adapter, model)
    if difference is not None:
        raise RunStateError(
            f"{adapter.directory}: expected the base that this adapter was trained on, found another one: {difference}. Nothing was "
            f"changed. Put the base's files back; or start a new run with another --run; or go on with --set train.mode=retrain, which "
            f"trains a new adapter on all examples picked so far."
        )


def _weights(files: Mapping[str, Any]) -> dict[str, str]:
    """{name: sha256} of files with weights."""
    found = {name: str(sha256) for name, sha256 in files.items() if name.endswith(WEIGHTS)}
    return found if all(len(sha256) == SHA256_DIGITS for sha256 in found.values()) else {}


def _shown(weights: Mapping[str, str]) -> str:
    return ", ".join(f"{name} sha256 {sha256[:SHOWN_DIGITS]}" for name, sha256 in sorted(weights.items())[:2])
