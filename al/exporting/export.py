"""Writes one export: an adapter, a merged model, a GGUF file or the selected data, each as a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from al.config import Config
from al.errors import ConfigError, EnvironmentProblem, RunStateError
from al.exporting.card import data_card, gguf_card, merged_card
from al.exporting.data import write_data
from al.exporting.destination import MARK, check_folder
from al.exporting.hub import HubRepository
from al.exporting.vllm import vllm_support
from al.program import PROGRAM
from al.prompting.models import find_models
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.atomic import folder_written_whole
from al.run.integrity import sha256_file
from al.run.progress import Progress, stop_on_signals
from al.run.store import Run
from selection.holdout import DEV, TEST
from trainer.tokenizer import load_config, load_tokenizer
from trainer.tokens import TokenTable

KINDS = ("adapter", "merged", "gguf", "data")
COMPARED, COMPARED_TOKENS = 8, 64
"""Documents, and tokens of each, on which a merged model's logits are compared."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export: `kind` of KINDS, of round `number` (None: the last finished one), into the folder `to`; `outtype` of a GGUF file,
    `push`: a repository of the hub to upload it to."""

    kind: str
    to: Path
    number: int | None = None
    outtype: str = "f16"
    force: bool = False
    push: str | None = None


@dataclass(frozen=True)
class _Source:
    """What an export is made from: the run, its config, the round and the artifact with the round's adapter folder."""

    run: Run
    config: Config
    number: int
    folder: Artifact
    quiet: bool

    @property
    def adapter(self) -> Path:
        """The round's complete adapter folder."""
        return self.folder.path / rounds.ADAPTER

    @property
    def origin(self) -> dict[str, Any]:
        """Where the adapter comes from: its winnow.json."""
        return self.folder.json(f"{rounds.ADAPTER}/{MARK}")

    def trained(self) -> Path:
        """The trained adapter. Raises as `find_models`: the config names another base than it was trained on."""
        train = find_models(self.run, self.config, [str(self.number)], "--round")[str(self.number)]
        return train.path / "adapter"


def export_round(path: Path, config: Config, wanted: ExportRequest, quiet: bool = False) -> dict[str, Any]:
    """Export a round of the run at `path`, and push it if asked. The folder is made whole or not at all.

    Returns:
        {"run", "round", "kind", "folder", "files", "bytes", "pushed": address or None} and what the kind adds: "vllm" (adapter),
        "difference" (merged), "context" (gguf), "examples" (data).

    Raises:
        ConfigError: the folder is there already, or the run has no such round. RunStateError: no round is finished, or a file of the
            run is damaged. TrainerError: the model cannot be written as GGUF. EnvironmentProblem: the disk is full; the hub refuses.
    """
    check_folder(wanted.to, wanted.force)
    stop_on_signals()
    with Run.read(path) as run:
        source = _source(run, config, wanted, quiet)
        hub = HubRepository(wanted.push, wanted.kind) if wanted.push else None
        with folder_written_whole(wanted.to) as out:
            found = _WRITERS[wanted.kind](source, out, wanted)
            check_folder(wanted.to, wanted.force)  # another export may have ended there meanwhile
            files = sorted(file for file in out.rglob("*") if file.is_file())
            size = sum(file.stat().st_size for file in files)
    document = {
        "run": str(path),
        "round": source.number,
        "kind": wanted.kind,
        "folder": str(wanted.to),
        "files": len(files),
    }
    document |= {"bytes": size, "pushed": None, **found}
    if wanted.kind == "adapter":
        base = source.origin["base"]
        document["vllm"] = vllm_support(wanted.to, "BASE_FOLDER" if base["local"] else base["name"])
    if hub is not None:
        document["pushed"] = _push(hub, source, wanted)
    return document


def _source(run: Run, config: Config, wanted: ExportRequest, quiet: bool) -> _Source:
    done = [entry.number for entry in rounds.all_rounds(run) if entry.state == "done"]
    if not done:
        raise RunStateError(
            f"{run.path}: no round is finished, so there is nothing to export. Run `{PROGRAM} round --budget N --run {run.path}`."
        )
    number = wanted.number or done[-1]
    if number not in done:
        raise ConfigError(f"--round {number}: the run has finished the rounds {', '.join(map(str, done))}.")
    return _Source(run, config, number, rounds.required(run, number, rounds.ADAPTER), quiet)


def _push(hub: HubRepository, source: _Source, wanted: ExportRequest) -> str:
    try:
        return hub.upload(wanted.to, f"{source.run.path.name}, round {source.number}: {wanted.kind}")
    except EnvironmentProblem as error:
        raise EnvironmentProblem(
            f"{error} {wanted.to} is complete: `hf upload {hub.name} {wanted.to}` uploads it."
        ) from None


def _write_adapter(source: _Source, out: Path, wanted: ExportRequest) -> dict[str, Any]:
    prefix = f"{rounds.ADAPTER}/"
    for name, entry in source.folder.manifest["files"].items():
        if name.startswith(prefix):
            copy = out / name.removeprefix(prefix)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.folder.path / name, copy)
            if sha256_file(copy) != entry["sha256"]:
                raise RunStateError(
                    f"{source.folder.path / name}: content differs from the manifest (sha256), so nothing was exported. `{PROGRAM} "
                    f"doctor --run {source.run.path} --drop-damaged` and `resume` make it again."
                )
    return {}


def _write_merged(source: _Source, out: Path, wanted: ExportRequest) -> dict[str, Any]:
    from trainer.published import merged

    documents = _documents(source)
    with merged.adapted_base(source.config.model, source.trained()) as (base, model):
        before = merged.unmerged_logits(model, documents)
        weights = merged.merged_weights(model)
        with _progress(source, "write merged weights", len(weights)) as progress:
            merged.write_merged(out, weights, load_config(source.config.model), progress)
        dtype, device = base.compute_dtype, base.device
    merged.copy_tokenizer(source.adapter, out)
    difference = asdict(merged.measure_difference(out, dtype, device, documents, before))
    document = {**source.origin, "kind": "merged", "dtype": "bfloat16", "difference": difference}
    _describe(out, document, merged_card(document))
    return {"difference": difference}


def _write_gguf(source: _Source, out: Path, wanted: ExportRequest) -> dict[str, Any]:
    from trainer.published import gguf_file, merged

    config = load_config(source.config.model)
    tokenizer = load_tokenizer(
        source.config.model.model_copy(update={"name": str(source.adapter), "revision": None}), only_local=True
    )
    written = gguf_file.check_writable(config, source.adapter, tokenizer)
    origin = source.origin
    name = f"{origin['base']['name'].rpartition('/')[2]} {origin['run']} round {source.number}"
    file = f"{origin['run']}-{source.number:03d}-{wanted.outtype}.gguf"
    with merged.adapted_base(source.config.model, source.trained()) as (_, model):
        weights = merged.merged_weights(model)
        with _progress(source, "write GGUF", len(weights)) as progress:
            gguf_file.write_gguf(
                out / file,
                weights,
                config,
                written,
                tokenizer,
                origin["chat_template"]["end_ids"],
                name=name,
                outtype=wanted.outtype,
                progress=progress,
            )
    context = gguf_file.context_length(config)
    document = {**origin, "kind": "gguf", "file": file, "outtype": wanted.outtype, "context": context}
    _describe(out, document, gguf_card(document))
    return {"file": file, "context": context, "context_of_the_base": config.max_position_embeddings}


def _write_data(source: _Source, out: Path, wanted: ExportRequest) -> dict[str, Any]:
    examples = write_data(source.run, source.number, out)
    document = {**source.origin, "kind": "data", "examples": examples}
    _describe(out, document, data_card(document))
    return {"examples": examples}


_WRITERS: dict[str, Callable[[_Source, Path, ExportRequest], dict[str, Any]]] = {
    "adapter": _write_adapter,
    "merged": _write_merged,
    "gguf": _write_gguf,
    "data": _write_data,
}


def _describe(out: Path, document: dict[str, Any], card: str) -> None:
    write_json(out / MARK, document)
    (out / "README.md").write_text(card, encoding="utf-8")


def _documents(source: _Source) -> list[np.ndarray]:
    """The beginnings of a few held-out conversations of the round, as (T,) token ids; of any others where nothing is held out."""
    roles = rounds.roles(source.run, source.number)
    if "tokens" not in roles or "split" not in roles:
        raise ConfigError(
            f"round {source.number}: its tokens are no longer in the run. `{PROGRAM} resume` makes them again."
        )
    tokens = TokenTable.open(roles["tokens"].path)
    split = np.load(roles["split"].path / "split.npy")
    held = np.flatnonzero((split == DEV) | (split == TEST))
    rows = held if len(held) else np.arange(len(split))
    rows = [row for row in rows if tokens.lengths[row] > 0][:COMPARED]
    return [np.asarray(tokens.ids(int(row)))[:COMPARED_TOKENS] for row in rows]


def _progress(source: _Source, title: str, total: int) -> Progress:
    return Progress(title, total, "weights", quiet=source.quiet)
