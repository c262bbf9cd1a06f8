"""The model with an adapter merged into it: the weights one by one, and a folder that any program loads.

Training and Winnow's own answers use the base's weights as they are after quantization. So the update is added to the dequantized
weights, in float32: w = dequantize(quantize(w₀)) + (alpha / r) · B A, or DoRA's form of it. The result is not quantized again, because
NF4 would round most of the update away.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from trainer.adapters import CONFIG_FILE, WEIGHTS_FILE
from trainer.config import ModelConfig
from trainer.forward import causal_lm
from trainer.gate.weights import check_complete
from trainer.model import Base, plain_attention

ADAPTER = "default"
"""PEFT's name of the adapter that trainer.adapters loads."""
SHARD_BYTES = 2 * 2**30
"""Largest file of weights, and with one matrix in float32 the memory that writing takes on top of the loaded model."""
OF_THE_ADAPTER = {WEIGHTS_FILE, CONFIG_FILE, "README.md", "winnow.json", "winnow.yaml"}
"""Files of an adapter's folder that say nothing about the merged model."""


@dataclass(frozen=True)
class Weight:
    """One weight of the merged model: transformers' name, shape, and `load`, which computes it: on the CPU, floating-point values in
    float32."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Difference:
    """Logits of the merged model minus those of base and adapter on `positions` tokens of `documents` texts.

    `largest` and `mean` of the absolute difference over the vocabulary; `divergence`: mean KL divergence in nats per position from the
    unmerged model's distribution; `same_top`: share of positions with the same most probable token.
    """

    documents: int
    positions: int
    largest: float
    mean: float
    divergence: float
    same_top: float


def merged_weights(model: torch.nn.Module) -> list[Weight]:
    """The weights of a PeftModel with its adapter merged, in the model's order; weights that are tied appear once. The model stays as
    it is. Computing one holds only that weight in memory."""
    causal = causal_lm(model)
    adapted = {name: module for name, module in causal.named_modules() if isinstance(module, LoraLayer)}
    found = []
    for name, parameter in causal.named_parameters():
        owner, inside, leaf = name.rpartition(".base_layer.")
        if any(name.startswith(f"{prefix}.") for prefix in adapted) and not inside:
            continue  # the adapter's own
        if inside and leaf == "weight":
            layer = adapted[owner]
            found.append(Weight(f"{owner}.weight", _shape(parameter), lambda layer=layer: _merged(layer)))
        else:
            plain = f"{owner}.{leaf}" if inside else name
            found.append(Weight(plain, _shape(parameter), lambda held=parameter: _plain(held)))
    return found + [Weight(name, tuple(held.shape), lambda held=held: _plain(held)) for name, held in _buffers(causal)]


def write_merged(
    out: Path,
    weights: Sequence[Weight],
    config: Any,
    progress: Callable[[int], None] = lambda n: None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `weights` in bfloat16 into directory `out` as safetensors files of at most `shard_bytes` bytes (a larger weight has its
    own), with the model's `config` of transformers.

    Args:
        progress: called with 1 after each weight.
    """
    shards = _divided(weights, shard_bytes)
    names = {}
    for number, shard in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for weight in shard:
            tensors[weight.name] = _in_bfloat16(weight.load())
            names[weight.name] = file
            progress(1)
        save_file(tensors, out / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(map(_bytes, weights))}, "weight_map": names}
        _write_json(out / "model.safetensors.index.json", index)
    _write_json(out / "config.json", _plain_config(config))


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy tokenizer, chat template and generation settings from an adapter's folder."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in OF_THE_ADAPTER:
            shutil.copyfile(path, out / path.name)


@contextmanager
def adapted_base(config: ModelConfig, adapter: Path) -> Iterator[tuple[Base, torch.nn.Module]]:
    """The base with the adapter of a directory loaded, for the length of the block; then its memory is free."""
    base = Base.load(config)
    with base.adapter(adapter) as model:
        yield base, model
    del base, model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@torch.no_grad()
def logits_of(model: torch.nn.Module, documents: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """(T, vocabulary) float32 logits on the CPU of each document (T,), through transformers' own forward. The model has plain
    attention; see `plain_attention`."""
    device = causal_lm(model).get_input_embeddings().weight.device
    ids = [torch.from_numpy(np.asarray(document, dtype=np.int64))[None].to(device) for document in documents]
    return [model(input_ids=row, use_cache=False).logits[0].float().cpu() for row in ids]


def unmerged_logits(model: torch.nn.Module, documents: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """`logits_of` base and adapter."""
    with plain_attention(model):
        return logits_of(model, documents)


def measure_difference(
    folder: Path, dtype: torch.dtype, device: torch.device, documents: Sequence[np.ndarray], before: list[torch.Tensor]
) -> Difference:
    """Load the merged model of `folder` as transformers does, and compare its logits with `before`, those of the unmerged one.

    Args:
        dtype: what the unmerged model computed in; the merged weights, in bfloat16 on disk, compute in it too.

    Raises:
        TrainerError: the folder lacks weights of the model.
    """
    from transformers import AutoModelForCausalLM

    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if device.type == "cuda" and size > torch.cuda.mem_get_info()[0]:
        device = torch.device("cpu")
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device},
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    check_complete(str(folder), info)
    return _difference(before, logits_of(model.eval(), documents))


def _difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> Difference:
    largest = total = divergence = 0.0
    same = positions = values = 0
    for old, new in zip(before, after, strict=True):
        apart = (new - old).abs()
        largest = max(largest, float(apart.max()))
        total += float(apart.double().sum())
        values += apart.numel()
        p, q = old.log_softmax(-1), new.log_softmax(-1)
        divergence += float((p.exp() * (p - q)).sum().clamp_min(0))
        same += int((old.argmax(-1) == new.argmax(-1)).sum())
        positions += len(old)
    return Difference(len(before), positions, largest, total / values, divergence / positions, same / positions)


def _merged(layer: LoraLayer) -> torch.Tensor:
    weight = _plain(layer.get_base_layer().weight)
    update = layer.get_delta_weight(ADAPTER).detach().float().cpu()
    if ADAPTER not in layer.lora_variant:
        return weight + update
    norm = torch.linalg.vector_norm(weight + update, dim=1)  # DoRA, arXiv 2402.09353, equation 5
    magnitude = layer.lora_magnitude_vector[ADAPTER].weight.detach().float().cpu()
    return (magnitude / norm)[:, None] * (weight + update)


def _plain(held: torch.Tensor) -> torch.Tensor:
    if isinstance(held, Params4bit):
        held = dequantize_4bit(held.data, held.quant_state)
    found = held.detach().cpu()
    return found.float() if found.is_floating_point() else found


def _shape(parameter: torch.Tensor) -> tuple[int, ...]:
    return tuple(parameter.quant_state.shape if isinstance(parameter, Params4bit) else parameter.shape)


def _buffers(causal: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that belong to a checkpoint."""
    for prefix, module in causal.named_modules():
        for name, held in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}".lstrip("."), held


def _divided(weights: Sequence[Weight], most: int) -> list[list[Weight]]:
    shards: list[list[Weight]] = [[]]
    size = 0
    for weight in weights:
        if shards[-1] and size + _bytes(weight) > most:
            shards.append([])
            size = 0
        shards[-1].append(weight)
        size += _bytes(weight)
    return shards


def _bytes(weight: Weight) -> int:
    return 2 * int(np.prod(weight.shape))


def _in_bfloat16(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor).contiguous()


def _plain_config(config: Any) -> dict[str, Any]:
    """The config of an unquantized model in bfloat16, without the path it was loaded from."""
    values = config.to_diff_dict()
    dropped = ("quantization_config", "_name_or_path", "torch_dtype")
    return {key: value for key, value in values.items() if key not in dropped} | {"dtype": "bfloat16"}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
