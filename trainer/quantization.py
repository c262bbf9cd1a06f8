"""NF4 through bitsandbytes: its settings, and verification that it took effect."""

from __future__ import annotations

import logging

import bitsandbytes as bnb
import torch
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from trainer.config import ModelConfig
from trainer.errors import TrainerError

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.95
"""Share of the layers' weights that must be in 4 bits: the routers of a mixture and short convolutions stay below the rest."""


def nf4_settings(config: ModelConfig, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """The settings with which transformers loads the model in NF4."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def nf4_layers(model: torch.nn.Module) -> list[bnb.nn.Linear4bit]:
    """All 4-bit layers of a model."""
    return [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]


def settle_nf4(causal: torch.nn.Module) -> None:
    """Check that the layers are in NF4, and ensure correct gradients on every CPU.

    bitsandbytes repacks weights for CPUs with AVX512-BF16 in the first forward without gradients, and the layer then
    has no backward: later gradients are silently wrong (relative error 0.93, measured with 0.50.2). Raises
    TrainerError with the layers that are not NF4, or if less than LEAST_SHARE of the layers' weights are in 4 bits.
    """
    left = [
        name
        for name, module in causal.base_model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and not isinstance(module, bnb.nn.Linear4bit)
    ]
    layers = nf4_layers(causal)
    wrong = [
        layer.weight.quant_type
        for layer in layers
        if layer.weight.quant_type != "nf4" or layer.weight.quant_state is None
    ]
    if left or wrong or not layers:
        found = (
            f"{len(left)} unquantized ({', '.join(left[:3])})"
            if left
            else f"{len(layers)} 4-bit layers, {len(wrong)} not nf4"
        )
        raise TrainerError(
            f"model.quantization: expected nf4 in all linear layers of {type(causal).__name__}, found {found}; take the "
            "original checkpoint, or set model.quantization to none if the checkpoint is not quantized"
        )
    share, others = nf4_share(causal)
    if share < LEAST_SHARE:
        raise TrainerError(
            f"model.quantization: expected nf4 for at least {LEAST_SHARE:.0%} of the weights of the layers of {type(causal).__name__}, "
            f"found {share:.0%}: bitsandbytes quantizes linear layers only, and {', '.join(others[:2])} are none; set "
            "model.quantization to none, which takes 2 bytes per weight"
        )
    logger.info("%s: %.1f%% of the weights of its layers are in 4 bits", type(causal).__name__, 100 * share)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False


def nf4_share(causal: torch.nn.Module) -> tuple[float, list[str]]:
    """Share of the matrices' weights that is in 4 bits, without embeddings and output head, and the names of the other matrices, the
    largest first. The experts of a mixture are fused in one parameter, which is no linear layer."""
    vocabulary = {id(module.weight) for module in causal.modules() if isinstance(module, torch.nn.Embedding)}
    if (head := causal.get_output_embeddings()) is not None:
        vocabulary.add(id(head.weight))
    quantized = sum(layer.in_features * layer.out_features for layer in nf4_layers(causal))
    others = {
        name: parameter.numel()
        for name, parameter in causal.named_parameters()
        if parameter.ndim > 1 and id(parameter) not in vocabulary and not isinstance(parameter, bnb.nn.Params4bit)
    }
    names = sorted(others, key=others.__getitem__, reverse=True)
    return quantized / max(1, quantized + sum(others.values())), names
