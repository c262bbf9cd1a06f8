"""How a model is put into training and taken out again: mode, dropout, recomputation of activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from trainer.errors import TrainerError
from trainer.forward import causal_lm


@contextmanager
def training_mode(model: torch.nn.Module, recompute: bool) -> Iterator[None]:
    """Inside the block dropout acts and, with `recompute`, each decoder layer keeps only its input for the backward
    pass.

    Non-reentrant checkpointing: the reentrant kind gives no gradients when the embeddings are frozen. Afterwards the
    model is in evaluation mode and no gradient is left.
    """
    layers = _decoder_layers(model) if recompute else []
    model.train()
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.gradient_checkpointing = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False
        model.zero_grad(set_to_none=True)
        model.eval()


def _decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        name = type(causal_lm(model)).__name__
        raise TrainerError(
            f"train.gradient_checkpointing: {name} has no layers that can be recomputed; set it to false"
        )
    return layers
