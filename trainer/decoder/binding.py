"""Reads the layers of a transformers model, with or without a PEFT LoRA, as layers of our own decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch

from trainer.decoder.branch import Branch, Norm
from trainer.decoder.elementwise import Activation, Angles
from trainer.decoder.layer import Layer, no_angles
from trainer.decoder.nf4 import Nf4Weight
from trainer.decoder.projections import Joined, Linear, Lora, Scratch
from trainer.families import FAMILIES, Family

Rotary = Callable[[torch.Tensor, torch.Tensor], Angles]
"""cos and sin (1, T, R), given a tensor of the model's dtype and device and positions (1, T)."""
SHARED_ROPE, NO_ROPE = "shared", "none"
"""Names of the rotary embedding of a model that has one, and of the one that rotates by nothing."""
ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
"""By transformers' name."""


class Unsupported(Exception):
    """The model has a feature that this decoder does not support; the message names it."""


def is_family(causal: torch.nn.Module) -> bool:
    """Whether the model and its parts are of transformers' own classes of one of these architectures, and attention is causal. Code
    shipped with a checkpoint may call itself llama and compute something else."""
    kind, base = causal.config.model_type, causal.base_model
    if kind not in FAMILIES or not hasattr(base, "layers"):
        return False
    package = FAMILIES[kind].package or kind
    own = vars(import_module(f"transformers.models.{package}.modeling_{package}"))
    parts = [causal, base, base.norm, base.rotary_emb]
    for layer in base.layers:
        if not getattr(layer.self_attn, "is_causal", True):
            return False
        norms = [part for name, part in layer.self_attn.named_children() if name.endswith("_norm")]
        parts += [layer, *norms, *(part for part in layer.children() if type(part) is not torch.nn.Dropout)]
    kinds = {type(getattr(part, "original_module", part)) for part in parts}  # PEFT wraps a norm that is trained too
    return all(own.get(kind.__name__) is kind for kind in kinds)


def rotaries(base: torch.nn.Module, config: Any) -> dict[str, Rotary]:
    """The rotary embeddings of a model by the names of `Layer.rope`."""
    family, width = FAMILIES[config.model_type], base.layers[0].self_attn.head_dim
    kinds = sorted(set(config.layer_types)) if family.ropes_by_type else []
    found: dict[str, Rotary] = {kind: partial(base.rotary_emb, layer_type=kind) for kind in kinds}
    if not kinds:
        found[SHARED_ROPE] = base.rotary_emb
    for frequencies in [f"{kind}_inv_freq" for kind in kinds] or ["inv_freq"]:
        if 2 * len(getattr(base.rotary_emb, frequencies)) != width and not family.partial_rope:
            raise Unsupported("a rotary embedding of part of each head")
    if not all(getattr(layer.self_attn, "use_rope", True) for layer in base.layers):
        found[NO_ROPE] = lambda x, positions: tuple(part[None] for part in no_angles(positions.shape[1], width, x))
    return found


def read_layer(index: int, module: torch.nn.Module, config: Any, scratch: Scratch) -> Layer:
    """Layer `index`, which is `module`. Raises Unsupported with the reason if its results would differ."""
    family, attention = FAMILIES[config.model_type], module.self_attn
    activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", "silu")
    if activation not in ACTIVATIONS:
        raise Unsupported(f"the activation {activation}")
    if getattr(config, "attention_dropout", 0.0) or getattr(config, "resid_pdrop", 0.0):
        raise Unsupported("dropout of attention or of the residual stream")
    scale = getattr(module, "residual_multiplier", 1.0)
    norms = (tuple(name and read_norm(getattr(module, name), family) for name in names) for names in family.norms)
    qk = [read_norm(getattr(attention, name), family) for name in ("q_norm", "k_norm") if hasattr(attention, name)]
    if not getattr(attention, "use_rope", True):
        rope = NO_ROPE
    else:
        rope = config.layer_types[index] if family.ropes_by_type else SHARED_ROPE
    joined = (Joined([_linear(module.get_submodule(name)) for name in names], scratch) for names in family.projections)
    return Layer(
        index,
        *joined,
        branches=tuple(Branch(before, after, scale) for before, after in norms),
        qk_norms=tuple(qk) or None,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=attention.head_dim,
        scale=attention.scaling,
        window=getattr(config if family.one_window else attention, "sliding_window", None),
        rope=rope,
        softcap=getattr(attention, "attn_logit_softcapping", None) if family.softcaps else None,
        activation=ACTIVATIONS[activation],
    )


def read_norm(module: torch.nn.Module, family: Family) -> Norm:
    """A norm with the factors of its family."""
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
    if family.rounded_norms:
        return Norm(module.weight, eps)
    return Norm(module.weight.detach().float() + family.norm_offset, eps)


def _linear(module: torch.nn.Module) -> Linear:
    """A linear layer, with or without a PEFT LoRA."""
    import bitsandbytes as bnb
    from peft.tuners.lora import LoraLayer

    lora = None
    if isinstance(module, LoraLayer):
        lora, module = _lora(module), module.get_base_layer()
    if isinstance(module, bnb.nn.Linear4bit):
        weight: torch.Tensor | Nf4Weight = Nf4Weight(module.weight.data, module.weight.quant_state)
    elif type(module) is torch.nn.Linear:
        weight = module.weight
    else:
        raise Unsupported(f"a layer of type {type(module).__name__}")
    return Linear(weight, module.bias, lora)


def _lora(module: Any) -> Lora | None:
    names = [name for name in module.active_adapters if name in module.lora_A]
    if module.disable_adapters or not names:
        return None
    if len(names) > 1 or module.merged:
        raise Unsupported("more than one adapter at a time, or a merged one")
    name = names[0]
    if name in getattr(module, "lora_variant", {}) or module.lora_bias.get(name):
        raise Unsupported("a variant of LoRA (DoRA, bias)")
    down, up = module.lora_A[name], module.lora_B[name]
    return Lora(
        down.weight, up.weight, float(module.scaling[name]), float(getattr(module.lora_dropout[name], "p", 0.0))
    )
