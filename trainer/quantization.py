"""NF4 through bitsandbytes: its settings, the proof that it happened, and the optional cache of dequantized weights."""

from __future__ import annotations

import bitsandbytes as bnb
import psutil
import torch
from bitsandbytes.functional import dequantize_4bit
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from trainer.config import ModelConfig
from trainer.errors import TrainerError

CACHE_SHARE = 0.25  # of the free memory that the automatic cache may take


class CachedLinear4bit(bnb.nn.Linear4bit):
    """An NF4 layer that keeps its dequantized weight (out, in) beside the 4-bit one.

    Forward and backward use exactly the values that bitsandbytes would dequantize each time, so results are the same
    bit for bit. The cached weight is no part of the state dict.
    """

    dequantized: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out) in the dtype of x."""
        bias = None if self.bias is None else self.bias.to(self.dequantized.dtype)
        return torch.nn.functional.linear(x.to(self.dequantized.dtype), self.dequantized, bias).to(x.dtype)


def nf4_settings(config: ModelConfig, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """How transformers is to load the model in NF4."""
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
    """Check that every linear layer below the output head is really NF4, and make its gradients right on every CPU.

    bitsandbytes repacks weights for CPUs with AVX512-BF16 in the first forward without gradients, and the layer then
    has no backward: later gradients are silently wrong (relative error 0.93 measured with 0.50.2). Raises
    TrainerError naming layers that are not NF4.
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


def cache_dequantized(causal: torch.nn.Module, wanted: bool | str, dtype: torch.dtype) -> bool:
    """Turn the NF4 layers into CachedLinear4bit when `wanted`; "auto" means on a CPU, within a quarter of the free
    memory.

    Measured on two CPU cores, see docs/performance.md. Returns whether the layers are cached.
    """
    layers = nf4_layers(causal)
    needed = sum(layer.in_features * layer.out_features for layer in layers) * dtype.itemsize
    if wanted == "auto":
        on_cpu = all(layer.weight.device.type == "cpu" for layer in layers)
        wanted = on_cpu and needed <= CACHE_SHARE * psutil.virtual_memory().available
    if not wanted:
        return False
    for layer in layers:
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        layer.__class__ = CachedLinear4bit
        layer.register_buffer(
            "dequantized", weight.to(dtype).reshape(layer.out_features, layer.in_features), persistent=False
        )
    return True
