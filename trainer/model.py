"""Base model and adapters: loads the base once, loads and removes adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from trainer import adapters, quantization
from trainer.adapters import save_adapter
from trainer.config import LoraConfig, ModelConfig
from trainer.decoder.decoder import Decoder
from trainer.errors import MachineError, TrainerError
from trainer.forward import bind_decoder, bound_decoder, causal_lm
from trainer.gate.architecture import prepare_attention
from trainer.gate.weights import check_complete
from trainer.randomness import ADAPTER, derive_seed, forked_rng
from trainer.shortage import shortage
from trainer.tokenizer import load_config, unavailable

__all__ = ["Base", "plain_attention", "resolve_device", "resolve_dtype", "save_adapter"]


def resolve_device(config: ModelConfig) -> torch.device:
    """The device of `config.device`. Raises MachineError for a missing GPU."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise MachineError(
            "model.device: expected a CUDA GPU, found none that torch can use; check nvidia-smi and that torch is a CUDA build, or set "
            "model.device to cpu"
        )
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def resolve_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The dtype of `config.compute_dtype`; auto is bfloat16 if the device multiplies in it."""
    if config.compute_dtype != "auto":
        return getattr(torch, config.compute_dtype)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


@dataclass(frozen=True)
class Base:
    """A frozen base model in evaluation mode. `attention` is the name of the attention that isolates packs. Use `adapter` and
    `new_adapter`; the model itself never changes."""

    model: torch.nn.Module
    config: ModelConfig
    device: torch.device
    compute_dtype: torch.dtype
    attention: str

    @classmethod
    def load(cls, config: ModelConfig) -> Base:
        """Load the base model as configured.

        Raises MachineError for missing files, GPU or memory, and TrainerError if the checkpoint lacks weights, or the model cannot be
        held in NF4, needs remote code without permission, or is not computed exactly.
        """
        device = resolve_device(config)
        dtype = resolve_dtype(config, device)
        causal = _load_causal(config, device, dtype)
        causal.requires_grad_(False)
        causal.eval()
        if config.quantization == "nf4":
            quantization.settle_nf4(causal)
        attention = prepare_attention(causal)
        bind_decoder(causal)
        return cls(causal, config, device, dtype, attention)

    @property
    def decoder(self) -> Decoder | None:
        """Our own decoder over this model's weights, or None if transformers' forward runs."""
        return bound_decoder(self.model)

    @contextmanager
    def new_adapter(self, lora: LoraConfig, seed: int) -> Iterator[torch.nn.Module]:
        """The model with a new trainable LoRA, drawn from `seed`; it is removed after the block."""
        with forked_rng(derive_seed(seed, ADAPTER), self.device):
            model = adapters.attach_new(self.model, lora, self.config)
        with self._worn(model):
            yield model

    @contextmanager
    def adapter(self, path: Path | None, trainable: bool = False) -> Iterator[torch.nn.Module]:
        """The model with the adapter saved at `path` (None: the base alone); it is removed after the block.

        Raises CheckpointError if the files are missing, damaged or of another model.
        """
        if path is None:
            if trainable:
                raise TrainerError("the base model alone has no trainable weights: use new_adapter")
            yield self.model
            return
        model = adapters.attach_saved(self.model, Path(path), trainable, self.device)
        with self._worn(model):
            yield model

    @contextmanager
    def _worn(self, model: torch.nn.Module) -> Iterator[None]:
        model.eval()
        try:
            yield
        finally:
            model.base_model.unload().eval()


@contextmanager
def plain_attention(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Inside the block the model accepts padded batches and generates like any transformers model; packs only outside."""
    causal = causal_lm(model)
    packed = causal.config._attn_implementation
    causal.set_attn_implementation("sdpa" if causal._supports_sdpa else "eager")
    try:
        yield model
    finally:
        causal.set_attn_implementation(packed)


def _load_causal(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        _refuse_other_quantization(load_config(config), config)
        settings = (
            {"quantization_config": quantization.nf4_settings(config, dtype)} if config.quantization == "nf4" else {}
        )
        causal, info = AutoModelForCausalLM.from_pretrained(
            config.name,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are an error below, with their names
            output_loading_info=True,
            **settings,
            **source,
        )
        check_complete(config.name, info)
        return causal
    except TrainerError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise unavailable(config, error) from error
    except (RuntimeError, MemoryError) as error:
        short = shortage(error)
        if short is None:
            raise
        raise MachineError(
            f"model.name: {config.name} does not fit the {short.memory}; use quantization nf4 or a smaller model"
        ) from error


def _refuse_other_quantization(found: object, config: ModelConfig) -> None:
    stored = getattr(found, "quantization_config", None)
    if stored is None:
        return
    method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
    if str(method) != "bitsandbytes" or config.quantization != "nf4":
        raise TrainerError(
            f"model.name: expected an unquantized checkpoint (or bitsandbytes, with model.quantization nf4), "
            f"found {method} in {config.name}; take the original checkpoint"
        )
