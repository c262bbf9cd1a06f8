"""NF4 through bitsandbytes: its settings, and verification that it took effect."""

from __future__ import annotations

import bitsandbytes as bnb
import torch
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from trainer.config import ModelConfig
from trainer.errors import TrainerError


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
    """Check that every linear layer below the output head is NF4, and ensure correct gradients on every CPU.

    bitsandbytes repacks weights for CPUs with AVX512-BF16 in the first forward without gradients, and the layer then
    has no backward: later gradients are silently wrong (relative error 0.93, measured with 0.50.2). Raises
    TrainerError with the layers that are not NF4.
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
            f"model.quantization: expected nf4 in all linear layers of {type(causal).__name__}, found {found}; use none"
        )
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
