"""AdamW, its learning-rate schedule, and its state as named tensors for checkpoints."""

from __future__ import annotations

import math

import torch

from trainer.config import TrainConfig

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def build_optimizer(parameters: dict[str, torch.nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW (arXiv 1711.05101) over `parameters`, in their order; its rate is set anew before each step."""
    return torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Learning rate of step `step` (0 … steps - 1).

    Rises linearly over warmup_ratio × steps to the configured peak, then stays (constant), or falls to 0 at the end
    along a line or half a cosine. The first step already moves: warm-up counts from 1.
    """
    warmup = math.ceil(config.warmup_ratio * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    factor = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.schedule]
    return config.learning_rate * factor


def training_tensors(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Parameters and optimizer state as parameter.NAME and MOMENT.NAME; before the first step there is no state."""
    tensors = {f"parameter.{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        tensors.update({f"{moment}.{name}": state[moment] for moment in MOMENTS if moment in state})
    return tensors


@torch.no_grad()
def restore_tensors(
    tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]
) -> None:
    """Put what `training_tensors` gave back, bit for bit, onto the parameters' devices."""
    for name, parameter in parameters.items():
        parameter.copy_(tensors[f"parameter.{name}"])
        optimizer.state[parameter] = {
            moment: tensors[f"{moment}.{name}"].to(parameter.device, copy=True)
            for moment in MOMENTS
            if f"{moment}.{name}" in tensors
        }
