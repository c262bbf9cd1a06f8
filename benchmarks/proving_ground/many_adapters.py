"""Many LoRA adapters on one frozen base, trained side by side: one product with each base matrix serves all of them.

A small model leaves a large GPU idle, and twenty processes pay for twenty bases. Here the tokens of K runs lie in one tensor
(K, T, d): the base's products see K · T rows, and each adapter's A and B act on its own T rows by a batched product. What a run
computes is what `trainer` computes for it alone (tests/unit/test_many_adapters.py compares them): NF4 base weights, LoRA on every
linear layer in float32 used in bfloat16, isolated documents, loss per response token.

Shapes: K runs, T tokens of a run (padded), d width, r rank, N = K · T, P target positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from trainer.attention import PackLayout, attend, attend_backward

JOINED = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Linear layers that read the same input are multiplied together."""


@dataclass(frozen=True)
class Linear:
    """Frozen weights (out, in) of linear layers that share an input, one below the other; `outs`: rows of each."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    outs: tuple[int, ...]


@dataclass(frozen=True)
class FrozenLayer:
    """One decoder layer's weights."""

    linears: dict[str, Linear]
    norm_in: torch.Tensor
    norm_mid: torch.Tensor


@dataclass(frozen=True)
class FrozenBase:
    """A Llama-family base model's weights as NF4 leaves them, dequantized, with what else the forward pass needs."""

    layers: list[FrozenLayer]
    embeddings: torch.Tensor
    head: torch.Tensor
    norm: torch.Tensor
    rotary: torch.nn.Module
    eps: float
    heads: tuple[int, int, int]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embeddings.device


def freeze(causal: torch.nn.Module) -> FrozenBase:
    """The weights of a transformers model of the Llama family whose linear layers may be bitsandbytes' NF4 ones."""
    config, base = causal.config, causal.base_model
    layers = []
    for module in base.layers:
        found = {}
        for name, parts in JOINED.items():
            owner = module.self_attn if name in ("qkv", "o") else module.mlp
            members = [getattr(owner, part) for part in parts]
            weights = [_dense(member).to(base.embed_tokens.weight.dtype) for member in members]
            biases = [member.bias for member in members]
            bias = None if biases[0] is None else torch.cat(biases).to(weights[0].dtype)
            found[name] = Linear(torch.cat(weights), bias, tuple(len(w) for w in weights))
        layers.append(FrozenLayer(found, module.input_layernorm.weight, module.post_attention_layernorm.weight))
    width = module.self_attn.head_dim
    heads = (config.num_attention_heads, config.num_key_value_heads, width)
    head = causal.get_output_embeddings().weight
    return FrozenBase(
        layers, base.embed_tokens.weight, head, base.norm.weight, base.rotary_emb, config.rms_norm_eps, heads
    )


def _dense(linear: torch.nn.Module) -> torch.Tensor:
    state = getattr(linear.weight, "quant_state", None)
    if state is None:
        return linear.weight.data
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(linear.weight.data, state)


@dataclass(frozen=True)
class Adapters:
    """LoRA of K runs: per layer and joined linear, `a` (K, in, parts · r) and one `b` (K, r, out) a part; float32."""

    parameters: dict[tuple[int, str], tuple[torch.nn.Parameter, list[torch.nn.Parameter]]]
    scale: float
    rank: int

    def all(self) -> list[torch.nn.Parameter]:
        """Every A and B."""
        return [p for a, bs in self.parameters.values() for p in (a, *bs)]


def new_adapters(base: FrozenBase, seeds: list[int], rank: int = 32, alpha: float = 64.0) -> Adapters:
    """One new adapter for each seed: A uniform as PEFT draws it (Kaiming with a = √5: ± 1 / √in), B zero. The same seed gives the
    same adapter wherever it stands."""
    parameters = {}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for index, layer in enumerate(base.layers):
        for name, linear in layer.linears.items():
            width = linear.weight.shape[1]
            shape = (width, rank * len(linear.outs))
            drawn = [torch.empty(shape).uniform_(-1, 1, generator=g) / math.sqrt(width) for g in generators]
            a = torch.nn.Parameter(torch.stack(drawn).to(base.device))
            bs = [torch.nn.Parameter(torch.zeros(len(seeds), rank, out, device=base.device)) for out in linear.outs]
            parameters[index, name] = (a, bs)
    return Adapters(parameters, alpha / rank, rank)


class _Attention(torch.autograd.Function):
    """Causal attention inside each document by the trainer's own kernels; grouped heads are not repeated."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pack: PackLayout, scale: float
    ) -> torch.Tensor:
        """Attention of all documents of the pack."""
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        log_sums = attend(q, k, v, out, pack, scale, None)
        ctx.save_for_backward(q, k, v, out, log_sums)
        ctx.pack, ctx.scale = pack, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        """Gradients of queries, keys and values."""
        q, k, v, out, log_sums = ctx.saved_tensors
        into = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        gradients = attend_backward(gradient.contiguous(), q, k, v, out, log_sums, into, ctx.pack, ctx.scale, None)
        return *gradients, None, None


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    value = x.float()
    value = value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + eps)
    return value.to(x.dtype) * weight


def _gate(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """(N, heads, width) with rotary embedding; cos, sin (N, 1, width)."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos + turned * sin


COMPILED = {"norm": _rms_norm, "gate": _gate, "rotate": _rotate}
"""Elementwise parts; `compile_elementwise` puts fused ones here."""


def compile_elementwise() -> None:
    """Fuse norms, gates and rotary embeddings by torch.compile; worth it on a GPU only."""
    for name, function in (("norm", _rms_norm), ("gate", _gate), ("rotate", _rotate)):
        COMPILED[name] = torch.compile(function, dynamic=True)


def hidden_states(
    base: FrozenBase, adapters: Adapters, embedded: torch.Tensor, positions: torch.Tensor, pack: PackLayout
) -> torch.Tensor:
    """Final hidden states (K, T, d) after the last norm.

    Args:
        embedded: (K, T, d) embeddings. positions: (N,) places inside each document. pack: borders of the documents along N.
    """
    x = embedded
    queries, keys, width = base.heads
    cos, sin = base.rotary(embedded.reshape(1, -1, embedded.shape[-1]), positions[None])
    cos, sin = cos[0][:, None], sin[0][:, None]
    for index, layer in enumerate(base.layers):
        qkv = _linear(layer.linears["qkv"], adapters, (index, "qkv"), COMPILED["norm"](x, layer.norm_in, base.eps))
        q, k, v = (
            part.reshape(-1, part.shape[-1] // width, width)
            for part in qkv.split([queries * width, keys * width, keys * width], -1)
        )
        q, k = COMPILED["rotate"](q, cos, sin), COMPILED["rotate"](k, cos, sin)
        attended = _Attention.apply(q, k, v.contiguous(), pack, width**-0.5)
        x = x + _linear(layer.linears["o"], adapters, (index, "o"), attended.reshape(*x.shape[:2], -1))
        gate_up = _linear(
            layer.linears["gate_up"], adapters, (index, "gate_up"), COMPILED["norm"](x, layer.norm_mid, base.eps)
        )
        x = x + _linear(layer.linears["down"], adapters, (index, "down"), COMPILED["gate"](gate_up))
    return COMPILED["norm"](x, base.norm, base.eps)


def _linear(linear: Linear, adapters: Adapters, place: tuple[int, str], x: torch.Tensor) -> torch.Tensor:
    """(K, T, out): the frozen product and each run's own low-rank one."""
    a, bs = adapters.parameters[place]
    low = torch.bmm(x, a.to(x.dtype)) * adapters.scale
    parts = [torch.bmm(part, b.to(x.dtype)) for part, b in zip(low.split(adapters.rank, -1), bs, strict=True)]
    return F.linear(x, linear.weight, linear.bias) + (parts[0] if len(parts) == 1 else torch.cat(parts, -1))
