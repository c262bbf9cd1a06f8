"""Puts a model into training or measuring mode and back: mode, dropout, and what is held in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import psutil
import torch
from torch.utils.checkpoint import checkpoint

from trainer.adapters import trainable_parameters
from trainer.decoder.decoder import Decoder
from trainer.decoder.retention import HOST_SHARE, RESERVE, Retention, divide, measuring_bytes
from trainer.errors import MachineError
from trainer.forward import bound_decoder
from trainer.shortage import Shortage, attempt, report

logger = logging.getLogger(__name__)

GIB = 2**30


@dataclass
class ActivationMemory:
    """How much memory activations and dequantized weights take: `budget` in GiB, or auto, the free memory.

    Our own decoder (None: transformers' forward, which recomputes every layer) divides the budget for the training of `lora` parameters.
    """

    decoder: Decoder | None
    lora: int
    budget: Literal["auto"] | float

    def divide(self, tokens: int, accumulating: bool = False) -> None:
        """Divide the budget for batches of `tokens` tokens.

        `accumulating`: a step has several batches, so gradients of earlier ones are in memory during a forward pass.
        """
        if self.decoder:
            _divide(self.decoder, self.lora, self.budget, tokens, accumulating)

    def lower(self) -> bool:
        """From the next division on use as little memory as possible; False if it already is so."""
        if self.decoder is None or self.budget == 0:
            return False
        self.budget = 0.0
        return True


@contextmanager
def training_mode(
    model: torch.nn.Module, activation_memory: Literal["auto"] | float, tokens: int, accumulating: bool = False
) -> Iterator[ActivationMemory]:
    """Inside the block dropout is on, and activations of batches of `tokens` tokens stay within a budget, the block's value.

    After the block the model is in evaluation mode and has no gradients.
    """
    decoder = bound_decoder(model)
    layers = [] if decoder else _decoder_layers(model)
    try:
        lora = sum(parameter.numel() for parameter in trainable_parameters(model).values())
        memory = ActivationMemory(decoder, lora, activation_memory)
        memory.divide(tokens, accumulating)
        model.train()
        for layer in layers:
            # Non-reentrant: the reentrant kind gives no gradients if the embeddings are frozen.
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            layer.gradient_checkpointing = True
        yield memory
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False
        if decoder:
            decoder.settle(None)
        model.zero_grad(set_to_none=True)
        model.eval()


@contextmanager
def backward_memory(model: torch.nn.Module, tokens: int) -> Iterator[ActivationMemory]:
    """Inside the block backward passes over `tokens` tokens use the free memory; their gradients are not kept."""
    decoder = bound_decoder(model)
    memory = ActivationMemory(decoder, 0, "auto")
    try:
        memory.divide(tokens)
        yield memory
    finally:
        if decoder:
            decoder.settle(None)


@contextmanager
def measuring(
    model: torch.nn.Module, weights: Literal["auto", "nf4", "dequantized", "fp8"], batch_tokens: int
) -> Iterator[str]:
    """Inside the block NF4 weights are held as set by `weights` for passes without gradients; the value is the form in use.

    nf4: dequantized layer by layer in each pass. dequantized: all of them once, the same values. fp8: as 8-bit floats, which
    changes results. auto: dequantized if a pass over `batch_tokens` tokens then still fits the free memory, else nf4. Models that
    run through transformers' forward, and weights that are not NF4, do not change (value "own"). Without memory for
    dequantized weights: nf4.

    Raises MachineError for fp8 if the GPU has no such products or memory, or the model runs through transformers' forward.
    """
    decoder = bound_decoder(model)
    if weights == "fp8":
        check_fp8(next(model.parameters()).device)
        _check_own_decoder(decoder)
    if decoder is None or (not decoder.nf4 and weights != "fp8"):
        yield "own"
        return
    matrices = decoder.matrix_bytes
    held = weights
    if weights == "auto":
        fits = matrices + measuring_bytes(decoder.widths, batch_tokens) <= _free_bytes(decoder, 0, False)
        held = "dequantized" if fits else "nf4"
    try:
        short = attempt(partial(_hold, decoder, held))
        if isinstance(short, Shortage):
            if held == "fp8":
                raise MachineError(
                    "measure.weights: fp8 does not fit the GPU next to the NF4 weights; set measure.weights to auto"
                )
            decoder.hold(False)
            report(short, "dequantizing the weights", "weights dequantized layer by layer in each pass")
            held = "nf4"
        yield held
    finally:
        decoder.measure_in_fp8(False)
        decoder.hold(False)


def _hold(decoder: Decoder, held: str) -> None:
    decoder.hold(held == "dequantized")
    decoder.measure_in_fp8(held == "fp8")


def _check_own_decoder(decoder: Decoder | None) -> None:
    if decoder is None:
        raise MachineError(
            "measure.weights: fp8 needs Winnow's own decoder, and this model runs through transformers' forward; "
            "set measure.weights to auto"
        )


def check_fp8(device: torch.device) -> None:
    """Raises MachineError if a device has no products of 8-bit floats."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if capability is None or capability < (8, 9):
        found = "no GPU" if capability is None else f"{torch.cuda.get_device_name(device)}"
        raise MachineError(
            f"measure.weights: fp8 needs a GPU with 8-bit products (RTX 40, H100 or newer), found {found}; "
            "set measure.weights to auto"
        )


def _divide(decoder: Decoder, lora: int, wanted: Literal["auto"] | float, tokens: int, accumulating: bool) -> None:
    """Divide the decoder's memory for training `lora` parameters; 0: gradients are not kept."""
    decoder.settle(None)  # what it holds from an earlier division is free memory
    on_gpu = decoder.scratch.device.type == "cuda"
    budget = _free_bytes(decoder, lora, accumulating) if wanted == "auto" else float(wanted) * GIB
    layers = len(decoder.layers)
    memory = divide(decoder.widths, layers, tokens, budget, decoder.matrix_bytes, on_gpu, gradients=4.0 * lora / layers)
    short = attempt(partial(decoder.settle, memory))
    if isinstance(short, Shortage):
        memory = replace(memory, resident=False)
        decoder.settle(memory)
        report(short, "dequantizing the weights", "weights dequantized layer by layer in each pass")
    counts = {kind.value: memory.retentions.count(kind) for kind in Retention if kind in memory.retentions}
    dequantized = "yes" if memory.resident else "no"
    logger.info("activations: %.2f GiB, layers %s, weights held dequantized: %s", budget / GIB, counts, dequantized)


def _free_bytes(decoder: Decoder, lora: int, accumulating: bool) -> float:
    """Bytes available for activations and dequantized weights, after the optimizer state of `lora` parameters and the
    scratch for one matrix."""
    device = decoder.scratch.device
    if device.type != "cuda":
        return HOST_SHARE * psutil.virtual_memory().available
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (
        free
        - RESERVE * total
        - (12.0 if accumulating else 8.0) * lora
        - max(joined.matrix_bytes for joined in decoder.layers[0].joined)
    )


def _decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Layers of a transformers model that can be recomputed; [] if there are none and everything is kept."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
