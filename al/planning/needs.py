"""What a config needs of this machine and of the hub, checked without loading weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from al.config import Config
from al.engine.engine import Engine
from al.errors import UserError
from selection.errors import SelectionError
from trainer.errors import DataError, TrainerError
from trainer.gate import limits
from trainer.template import ChatTemplate
from trainer.tokenizer import load_config, load_tokenizer

WEIGHTS = ("*.safetensors", "*.gguf")


def unmet_needs(config: Config) -> list[str]:
    """What a round with `config` would lack here, one line each: workers, device, model (folder or access to it, tokenizer, chat template,
    weights, context length), embedder. Takes a second or two; asks the hub for files of a few kilobytes."""
    problems: list[str] = []
    for check in (_engine, _device, _tokenizer, _model, _embedder):
        try:
            problems += check(config)
        except (UserError, TrainerError, SelectionError) as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def _engine(config: Config) -> Iterator[str]:
    if config.engine.kind != "ray":
        Engine().size(config)
    elif find_spec("ray") is None:
        yield "engine.kind: ray needs the package ray: pip install 'winnow-al[ray]'"


def _device(config: Config) -> Iterator[str]:
    from trainer.model import resolve_device

    if config.engine.kind == "ray":  # the workers' devices count, which only the cluster knows
        return
    device = resolve_device(config.model)
    if config.measure.weights == "fp8":
        from trainer.activation import check_fp8

        check_fp8(device)
    yield from ()


def _tokenizer(config: Config) -> Iterator[str]:
    ChatTemplate.resolve(load_tokenizer(config.model), config.model.chat_template)
    yield from ()


def _model(config: Config) -> Iterator[str]:
    folder = Path(config.model.name)
    try:
        limits.check(load_config(config.model), config.tokens.max_length, "tokens.max_length")
    except DataError as error:
        yield str(error)
    if folder.is_dir():
        yield from _missing_weights(folder, "model.name")


def _missing_weights(folder: Path, key: str) -> Iterator[str]:
    names = {path.name for pattern in WEIGHTS for path in folder.rglob(pattern)}
    if not names:
        yield f"{key}: {folder} holds no weights ({', '.join(WEIGHTS)}); download the whole model"
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if missing := sorted(shards - names):
            yield f"{key}: {folder} lacks {missing[0]} and {len(missing) - 1} more of its {len(shards)} files of weights"


def _embedder(config: Config) -> Iterator[str]:
    folder = Path(config.embed.model)
    if folder.is_dir():
        yield from _missing_weights(folder, "embed.model")
        return
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(config.embed.model, "config.json", revision=config.embed.revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        yield (
            f"embed.model: expected a model directory or a reachable repository, found {config.embed.model!r} ({reason}); check the path, "
            f"the network and your access rights"
        )
