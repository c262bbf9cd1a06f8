"""AdamW in 32 or 8 bits, its learning-rate schedule, and its state as named tensors for checkpoints."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainer.config import TrainConfig

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants."""


def build_optimizer(parameters: dict[str, torch.nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101) over `parameters`, chosen by `config.optimizer`: torch's fused one, or bitsandbytes' with
    state in 8 bits (arXiv 2110.02861; tensors under 4,096 weights keep 32).

    `set_learning_rate` sets the rates before each step: a group's `lr_scale` is config.lora_plus_ratio for
    LoRA's B matrices (LoRA+, arXiv 2402.12354) and 1 for the others. Never paged: a paged optimizer's state is not
    restored correctly (axolotl #864), and LoRA's is small.
    """
    scaled = defaultdict(list)
    for name, parameter in parameters.items():
        scaled[config.lora_plus_ratio if ".lora_B." in name else 1.0].append(parameter)
    groups = [{"params": members, "lr_scale": scale} for scale, members in scaled.items()]
    settings = {
        "lr": config.learning_rate,
        "weight_decay": config.weight_decay,
        "betas": (BETA_1, BETA_2),
        "eps": EPSILON,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **settings, fused=True)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, **settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each group to `rate` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def step_unless(optimizer: torch.optim.Optimizer, bad: torch.Tensor) -> None:
    """Update the parameters, or leave them and the state unchanged if `bad` (a 0-dim bool on their device) is True.

    torch's fused AdamW decides on the device, so the host does not wait.
    """
    if isinstance(optimizer, torch.optim.AdamW):
        optimizer.found_inf = bad.float()
        optimizer.step()
    elif not bad.item():
        optimizer.step()


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Learning rate of step `step` (0 … steps - 1).

    Increases linearly over warmup_ratio × steps to the configured peak. Then it stays (constant), decreases to 0 at the end
    (linear or half a cosine), or stays and decreases linearly over the last decay_ratio × steps (wsd). Warm-up counts from
    1, so the first step has a rate above 0.
    """
    warmup = math.ceil(config.warmup_ratio * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    factor = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        "wsd": min(1.0, (steps - step) / math.ceil(config.decay_ratio * steps)),
    }[config.schedule]
    return config.learning_rate * factor


def training_tensors(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Parameters and the complete optimizer state as parameter.NAME and ENTRY.NAME; there is no state before the first
    step."""
    tensors = {f"parameter.{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for entry, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{entry}.{name}"] = _own_tensor(value)
    return tensors


@torch.no_grad()
def restore_tensors(
    tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]
) -> None:
    """Restore the tensors of `training_tensors`, bit for bit, on the parameters' devices."""
    for parameter in parameters.values():
        optimizer.state[parameter] = {}
    for key, tensor in tensors.items():
        entry, name = key.split(".", 1)
        if entry == "parameter":
            parameters[name].copy_(tensor)
        else:
            optimizer.state[parameters[name]][entry] = _own_value(tensor, parameters[name].device)


def _own_tensor(value: torch.Tensor | int) -> torch.Tensor:
    """A state entry as a separate tensor: bitsandbytes counts steps in a Python number and shares two maps of 256
    values among all parameters, which safetensors refuses to write."""
    if isinstance(value, int):
        return torch.tensor(value, dtype=torch.int64)
    return value.clone() if value.numel() <= 256 else value


def _own_value(tensor: torch.Tensor, device: torch.device) -> torch.Tensor | int:
    return int(tensor) if tensor.dtype == torch.int64 else tensor.to(device, copy=True)


def save_moments(optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], path: Path) -> None:
    """Write Adam's averages of each gradient and of its square as float32, mean.NAME and square.NAME, to one safetensors
    file, whose metadata has the optimizer's `steps` and `lora_plus_ratio` as JSON under one key (safetensors writes several keys in
    random order, and equal moments are equal bytes here); `trainer.gradients.Moments` reads it. Parameters without a step have zeros."""
    tensors = {}
    steps = max((int(optimizer.state[p]["step"]) for p in parameters.values() if p in optimizer.state), default=0)
    ratio = max(group["lr_scale"] for group in optimizer.param_groups)
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        for kind, entries in (("mean", ("exp_avg", "state1")), ("square", ("exp_avg_sq", "state2"))):
            tensors[f"{kind}.{name}"] = _moment(state, *entries, parameter).cpu().contiguous()
    save_file(tensors, path, {"optimizer": json.dumps({"lora_plus_ratio": ratio, "steps": steps})})


def _moment(state: dict[str, Any], entry: str, entry_8bit: str, parameter: torch.nn.Parameter) -> torch.Tensor:
    """One average in float32, from either optimizer."""
    if entry in state:
        return state[entry].float()
    if entry_8bit not in state:
        return torch.zeros_like(parameter, dtype=torch.float32)
    value, number = state[entry_8bit], entry_8bit[-1]
    if value.dtype != torch.uint8:
        return value.float()
    from bitsandbytes.functional import dequantize_blockwise

    scales, code = state[f"absmax{number}"], state[f"qmap{number}"]
    return dequantize_blockwise(value, absmax=scales, code=code, blocksize=256).view_as(parameter)
