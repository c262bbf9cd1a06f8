"""LoRA adapters in PEFT's format: loading into a base model, and saving with reproducible bytes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import peft
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from trainer.config import LoraConfig, ModelConfig
from trainer.errors import CheckpointError, TrainerError
from trainer.forward import body

logger = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def attach_new(causal: torch.nn.Module, lora: LoraConfig, base: ModelConfig) -> peft.PeftModel:
    """Add a new LoRA to `causal` (in place). Weights are float32 and drawn from torch's global generator."""
    whole = float(lora.alpha).is_integer()
    settings = peft.LoraConfig(
        r=lora.r,
        lora_alpha=int(lora.alpha) if whole else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_linear_names(causal) if lora.targets == "all-linear" else list(lora.targets),
        init_lora_weights=True if lora.init == "default" else lora.init,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        bias=lora.bias,
        task_type="CAUSAL_LM",
        revision=base.revision,
    )
    try:
        model = peft.get_peft_model(causal, settings)
    except ValueError as error:
        raise TrainerError(f"lora.targets: {lora.targets} do not fit {type(causal).__name__}: {error}") from error
    _check_reloads(model)
    # PEFT copies the name from the loaded model; other machines can resolve the configured one.
    settings.base_model_name_or_path = base.name
    trainable_parameters(model)
    if lora.targets == "all-linear" and (others := _other_matrices(causal)):
        logger.warning(
            "lora.targets: all-linear adapts linear layers only; %s of %s have weights that are none and stay as they are",
            ", ".join(others),
            type(causal).__name__,
        )
    return model


def attach_saved(causal: torch.nn.Module, path: Path, trainable: bool, device: torch.device) -> peft.PeftModel:
    """Load the adapter saved at `path` into `causal` (in place), trainable or frozen.

    Raises CheckpointError if files are missing or damaged, or their tensors do not match this model.
    """
    read_config(path)
    stored = _tensor_shapes(path)
    try:
        model = peft.PeftModel.from_pretrained(causal, str(path), is_trainable=trainable, torch_device=str(device))
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: this adapter does not fit {type(causal).__name__}: {str(error).splitlines()[0]}"
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_tensors(model).items()}
    if stored != expected:
        different = sorted(set(stored.items()) ^ set(expected.items()))[0][0]
        model.base_model.unload()
        raise CheckpointError(
            f"{path}: this adapter does not fit {type(causal).__name__} (first difference: {different})"
        )
    _check_reloads(model)
    if trainable:
        trainable_parameters(model)
    return model


def _check_reloads(model: peft.PeftModel) -> None:
    """Raises TrainerError if PEFT does not find a place for every tensor of the model's own adapter.

    PEFT renames tensors by the rules with which transformers reads old checkpoints. A rule may match a name of today (Laguna's
    `shared_experts`); such a tensor is left at its start value, with a warning.
    """
    lost = peft.set_peft_model_state_dict(model, adapter_tensors(model)).unexpected_keys
    if lost:
        model.base_model.unload()
        raise TrainerError(
            f"lora.targets: expected that PEFT loads every tensor of an adapter of {type(model.get_base_model()).__name__}, found "
            f"{len(lost)} that it would lose (first: {sorted(lost)[0]}); leave these layers out of lora.targets, or choose another model"
        )


def adapter_tensors(model: peft.PeftModel) -> dict[str, torch.Tensor]:
    """LoRA tensors under the names of PEFT's file format."""
    return peft.get_peft_model_state_dict(model, save_embedding_layers=False)


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Name → trainable parameter, in the model's order.

    Raises TrainerError if there is none (a frozen adapter would silently train nothing).
    """
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise TrainerError(
            "the model has no trainable parameters: add an adapter with new_adapter or adapter(path, trainable=True)"
        )
    return found


def save_adapter(model: peft.PeftModel, path: Path) -> None:
    """Write the adapter into directory `path` in the format of PeftModel.from_pretrained.

    Equal adapters give equal bytes: no time stamps, sorted keys and lists (PEFT keeps target_modules as a set, whose
    order changes between processes).
    """
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
    save_file(tensors, path / WEIGHTS_FILE, metadata={"format": "pt"})
    settings = model.peft_config["default"].to_dict()
    settings["inference_mode"] = True
    text = json.dumps(settings, indent=2, sort_keys=True, default=_plain)
    (path / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _linear_names(causal: torch.nn.Module) -> list[str]:
    """Endings of the names of all linear layers below the output head, as other tools expect them: the last part of a name, or the last
    two for a layer in a list, whose number other modules have too."""
    names = [name.split(".") for name, module in body(causal).named_modules() if _is_linear(module)]
    return sorted({".".join(parts[-2:] if parts[-1].isdecimal() else parts[-1:]) for parts in names})


def _is_linear(module: torch.nn.Module) -> bool:
    """Whether the module is a linear layer. A subclass (Falcon has one) is one if it returns a product; Phi-3.5-MoE's router does not."""
    if type(module) in (torch.nn.Linear, Conv1D, bnb.nn.Linear4bit):
        return True
    if not isinstance(module, torch.nn.Linear):
        return False
    try:
        with torch.no_grad():
            found = module(module.weight.new_zeros(1, module.in_features))
    except RuntimeError:  # DeepSeek-V4's has groups, each of which gets a part of the input
        return False
    return isinstance(found, torch.Tensor) and found.shape == (1, module.out_features)


def _other_matrices(causal: torch.nn.Module) -> list[str]:
    """Kinds of parameters with three dimensions or more, as the fused experts of a mixture: LoRA passes them by."""
    found = (name for name, parameter in causal.named_parameters() if parameter.ndim > 2 and "lora_" not in name)
    return sorted({".".join(part for part in name.split(".")[-3:] if not part.isdecimal()) for name in found})


def _plain(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written to {CONFIG_FILE}")


def read_config(path: Path) -> dict[str, Any]:
    """The settings of the adapter in directory `path`. Raises CheckpointError if they are missing or damaged."""
    try:
        return json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_an_adapter(path, error) from error


def _tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path / WEIGHTS_FILE, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise _not_an_adapter(path, error) from error


def _not_an_adapter(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: expected an adapter ({CONFIG_FILE}, {WEIGHTS_FILE}), found {error}")
