"""One decoder layer of the Llama family, forward and backward.

    x ──norm──qkv──rotary──attention──o──(+)──norm──gate, up──silu·──down──(+)
    └────────────────────────────────────┘└────────────────────────────────┘

The next layer's norm does the last addition, because it reads the sum anyway: a layer takes (x, delta) and returns
(x2, delta).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch

from trainer.attention import PackLayout, attend, attend_backward, attend_into
from trainer.decoder import elementwise
from trainer.decoder.inference import Plain, Projection
from trainer.decoder.projections import Joined
from trainer.decoder.retention import Retention


@dataclass(frozen=True)
class Norm:
    """RMSNorm: weight (width,), eps."""

    weight: torch.Tensor
    eps: float


Sink = Callable[[Joined, torch.Tensor, torch.Tensor], None]
"""A function of a joined projection, its complete gradient buffer (T, rows) and its complete input (T, width); see projections.py."""


@dataclass(frozen=True)
class Pass:
    """Shared state of all layers in one pass over a pack: its number, borders, rotary angles (T, D), the seed of LoRA's
    dropout, and the sink that receives the factors of LoRA's gradients instead of summing them over the pack."""

    number: int
    pack: PackLayout | None
    cos_TD: torch.Tensor
    sin_TD: torch.Tensor
    dropout_seed: int | None
    sink: Sink | None = None

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.cos_TD)


class Attention(Protocol):
    """Attention of a pass without gradients."""

    def __call__(self, layer: Layer, run: Pass, qkv: torch.Tensor, out: torch.Tensor) -> None:
        """Rotate q and k of `qkv` (T, H·D + 2·K·D), which may change in place, and write what they attend to into `out` (T, H·D),
        rows of a wider buffer."""


@dataclass(frozen=True)
class WithinDocuments:
    """Attention inside each document of a pack. `first_T` (T,) int32 by window: the first token that each token sees."""

    first_T: dict[int | None, torch.Tensor]

    @classmethod
    def of(cls, layers: Sequence[Layer], position_ids_T: torch.Tensor) -> WithinDocuments:
        """For documents whose places are `position_ids_T` (T,)."""
        places = torch.arange(len(position_ids_T), device=position_ids_T.device)
        starts = places - position_ids_T
        windows = {layer.window for layer in layers}
        return cls({w: (starts if w is None else torch.maximum(starts, places - (w - 1))).int() for w in windows})

    def __call__(self, layer: Layer, run: Pass, qkv: torch.Tensor, out: torch.Tensor) -> None:
        """See Attention."""
        keys = qkv[:, layer.q_width : layer.q_width + layer.kv_width]
        elementwise.rotate(keys, keys, run.cos_TD, run.sin_TD)
        heads = (layer.heads, layer.kv_heads, layer.head_width)
        first_T = self.first_T[layer.window]
        attend_into(out, qkv, heads, run.pack, first_T, run.cos_TD, run.sin_TD, layer.scale, layer.window)


@dataclass
class Kept:
    """Tensors of a forward pass that its backward pass needs; those that are None are recomputed.

    x, x2 (T, d) residual stream before attention and before the MLP; X_qkv, X_o, X_mlp, X_down inputs of the
    projections with their LoRA columns; qkv (T, H·D + 2·K·D) with q and k rotated; raw (T, (H+K)·D) q and k before
    their norms (Qwen3); log_sums of attention; gate_up (T, rows) outputs of gate and up in a gradient buffer.
    """

    x: torch.Tensor | None = None
    X_qkv: torch.Tensor | None = None
    raw: torch.Tensor | None = None
    qkv: torch.Tensor | None = None
    X_o: torch.Tensor | None = None
    log_sums: torch.Tensor | None = None
    x2: torch.Tensor | None = None
    X_mlp: torch.Tensor | None = None
    gate_up: torch.Tensor | None = None
    X_down: torch.Tensor | None = None

    def reduced(self, retention: Retention) -> Kept:
        """The tensors kept under `retention` (for offload the caller removes x)."""
        if retention is Retention.KEEP:
            return self
        if retention is Retention.PRODUCTS:
            return Kept(
                x=self.x, raw=self.raw, qkv=self.qkv, X_o=self.X_o, log_sums=self.log_sums, x2=self.x2,
                gate_up=self.gate_up,
            )  # fmt: skip
        return Kept(x=self.x)

    def update(self, other: Kept) -> None:
        """Fill missing tensors from `other`."""
        for field in fields(self):
            if getattr(self, field.name) is None:
                setattr(self, field.name, getattr(other, field.name))


class Layer:
    """Weights of one layer, and the two passes. `heads` H, `kv_heads` K, `head_width` D; window in tokens or None."""

    def __init__(
        self,
        index: int,
        qkv: Joined,
        o: Joined,
        mlp: Joined,
        down: Joined,
        norms: tuple[Norm, Norm],
        qk_norms: tuple[Norm, Norm] | None,
        heads: int,
        kv_heads: int,
        head_width: int,
        scale: float,
        window: int | None,
    ):
        self.index, self.qkv, self.o, self.mlp, self.down = index, qkv, o, mlp, down
        self.norms, self.qk_norms = norms, qk_norms
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        self.scale, self.window = scale, window
        self.q_width, self.kv_width = heads * head_width, kv_heads * head_width
        self.measuring: list[Projection] = [Plain(joined) for joined in self.joined]

    @property
    def joined(self) -> tuple[Joined, Joined, Joined, Joined]:
        """The four matrices."""
        return self.qkv, self.o, self.mlp, self.down

    # Forward, for measuring

    def measure(
        self, x: torch.Tensor, run: Pass, attention: Attention, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The residual stream `x` (T, d) after the layer, changed in place. With `rows` (P,) a new one (P, d) of only these
        tokens; the others stop after attention has read them."""
        qkv, o, mlp, down = self.measuring
        inputs = qkv.normed(x, self.norms[0].weight, self.norms[0].eps)
        made = x.new_empty(run.tokens, self.qkv.out)
        qkv.product(inputs, made)
        del inputs
        if self.qk_norms is not None:
            for norm, columns in self._heads_of():
                self._norm_heads(made[:, columns], made[:, columns], norm)
        held, attended = o.blank(run.tokens)
        attention(self, run, made, attended)
        del made, attended
        if rows is not None:
            held, x = held[rows], x[rows]
        o.add_to(o.filled(held), x)
        del held
        gate_up = x.new_empty(len(x), self.mlp.out)
        mlp.product(mlp.normed(x, self.norms[1].weight, self.norms[1].eps), gate_up)
        inputs = down.gated(gate_up)
        del gate_up
        down.add_to(inputs, x)
        return x

    # Forward, for training

    def forward(
        self, x: torch.Tensor, delta: torch.Tensor | None, run: Pass, retention: Retention
    ) -> tuple[torch.Tensor, torch.Tensor, Kept]:
        """(x2, delta of the MLP, kept tensors)."""
        kept = Kept()
        self._attention_half(x, delta, run, kept)
        self._mlp_half(run, kept)
        self._gate(run, kept)
        delta = torch.empty_like(kept.x2)
        self.down.forward(kept.X_down, delta)
        return kept.x2, delta, kept.reduced(retention)

    def _attention_half(self, x: torch.Tensor, delta: torch.Tensor | None, run: Pass, kept: Kept) -> None:
        kept.X_qkv = self.qkv.new_input(run.tokens)
        kept.x = elementwise.add_rms_norm(x, delta, self.norms[0].weight, self.norms[0].eps, kept.X_qkv[:, self.qkv.x])
        self.qkv.project_down(kept.X_qkv, self._mask(self.qkv, 0, run))
        kept.qkv = torch.empty(run.tokens, self.qkv.out, dtype=x.dtype, device=x.device)
        self.qkv.forward(kept.X_qkv, kept.qkv)
        self._position(run, kept)
        attended, kept.log_sums = attend(*self._split(kept.qkv), run.pack, self.scale, self.window)
        kept.X_o = self.o.new_input(run.tokens)
        elementwise.move(attended.flatten(1), kept.X_o[:, self.o.x])
        self.o.project_down(kept.X_o, self._mask(self.o, 1, run))
        delta = torch.empty_like(kept.x)
        self.o.forward(kept.X_o, delta)
        kept.X_mlp = self.mlp.new_input(run.tokens)
        kept.x2 = elementwise.add_rms_norm(
            kept.x, delta, self.norms[1].weight, self.norms[1].eps, kept.X_mlp[:, self.mlp.x]
        )

    def _mlp_half(self, run: Pass, kept: Kept) -> None:
        self.mlp.project_down(kept.X_mlp, self._mask(self.mlp, 2, run))
        kept.gate_up = self.mlp.new_gradient(run.tokens)
        self.mlp.forward(kept.X_mlp, kept.gate_up)

    def _gate(self, run: Pass, kept: Kept) -> None:
        kept.X_down = self.down.new_input(run.tokens)
        elementwise.silu_mul(kept.gate_up[:, : self.mlp.out], kept.X_down[:, self.down.x])
        self.down.project_down(kept.X_down, self._mask(self.down, 3, run))

    def _position(self, run: Pass, kept: Kept) -> None:
        """Norms of q and k, if the model has them, then the rotary embedding, in place."""
        rotated = kept.qkv[:, : self.q_width + self.kv_width]
        if self.qk_norms is not None:
            kept.raw = rotated.clone()
            for norm, columns in self._heads_of():
                self._norm_heads(kept.raw[:, columns], rotated[:, columns], norm)
        elementwise.rotate(rotated, rotated, run.cos_TD, run.sin_TD)

    def _norm_heads(self, source: torch.Tensor, target: torch.Tensor, norm: Norm) -> None:
        heads = source.reshape(-1, self.head_width)
        normed = torch.empty_like(heads)
        elementwise.add_rms_norm(heads, None, norm.weight, norm.eps, normed)
        target.copy_(normed.view(target.shape))

    def _heads_of(self) -> list[tuple[Norm, slice]]:
        both = self.q_width + self.kv_width
        return list(zip(self.qk_norms, (slice(0, self.q_width), slice(self.q_width, both)), strict=True))

    def _split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q (T, H, D), k and v (T, K, D) as views."""
        parts = qkv.split([self.q_width, self.kv_width, self.kv_width], dim=1)
        return tuple(part.unflatten(1, (-1, self.head_width)) for part in parts)

    def _mask(self, joined: Joined, site: int, run: Pass) -> torch.Tensor | None:
        """LoRA's dropout at one of the four inputs, (T, in) of 0 or 1 / (1 - p); the same in the backward pass.

        PEFT draws one mask per layer; here the layers of one input share a mask.
        """
        if run.dropout_seed is None or not joined.dropout or not joined.rank:
            return None
        device, keep = run.cos_TD.device, 1.0 - joined.dropout
        generator = torch.Generator(device=device).manual_seed((run.dropout_seed + 4 * self.index + site) % 2**63)
        mask = torch.empty(run.tokens, joined.inputs, dtype=run.cos_TD.dtype, device=device)
        return mask.bernoulli_(keep, generator=generator).div_(keep)

    # Backward

    def backward(
        self, G: torch.Tensor, kept: Kept, run: Pass, above: Joined | None, input_gradient: bool
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """(gradient of x in the buffer of the layer below, in the columns before its LoRA; gradients of A and B in
        the order of `parameters`).

        `G` (T, rows of down) holds the gradient of x2 + delta. `above` is the joined layer whose gradient buffer receives
        the result (None: a plain tensor); without `input_gradient` there is none.
        """
        self._make_again(kept, run)
        d = kept.x2.shape[1]
        mlp, G_mlp = self._mlp_backward(G, kept, run)
        G_o = self.o.new_gradient(run.tokens)
        elementwise.rms_norm_backward(G_mlp, kept.x2, self.norms[1].weight, self.norms[1].eps, G[:, :d], G_o[:, :d])
        del G, G_mlp
        kept.x2 = None
        attention, g = self._attention_backward(G_o, kept, run, input_gradient)
        if not input_gradient:
            return None, attention + mlp
        below = torch.empty(run.tokens, above.rows if above else d, dtype=g.dtype, device=g.device)
        elementwise.rms_norm_backward(g, kept.x, self.norms[0].weight, self.norms[0].eps, G_o[:, :d], below[:, :d])
        return below, attention + mlp

    def parameters(self) -> list[torch.nn.Parameter]:
        """All A and B, in the order of the gradients."""
        return [parameter for joined in self.joined for parameter in joined.parameters()]

    def _make_again(self, kept: Kept, run: Pass) -> None:
        """The tensors that were not kept, except the gate's product, which the backward pass computes itself."""
        if kept.qkv is None:
            again = Kept()
            self._attention_half(kept.x, None, run, again)
            self._mlp_half(run, again)
            kept.update(again)
        elif kept.X_qkv is None:
            for joined, x, norm, name, site in (
                (self.qkv, kept.x, self.norms[0], "X_qkv", 0),
                (self.mlp, kept.x2, self.norms[1], "X_mlp", 2),
            ):
                X = joined.new_input(run.tokens)
                elementwise.add_rms_norm(x, None, norm.weight, norm.eps, X[:, joined.x])
                joined.project_down(X, self._mask(joined, site, run))
                setattr(kept, name, X)

    def _mlp_backward(self, G: torch.Tensor, kept: Kept, run: Pass) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Gradients of the MLP's LoRA, and of its normed input (T, d). Overwrites gate_up."""
        mask = self._mask(self.down, 3, run)
        made = kept.X_down is None
        X_down = self.down.new_input(run.tokens) if made else kept.X_down
        product = X_down[:, self.down.x] if made else G.new_empty(run.tokens, self.down.inputs)
        self.down.backward_input(G, mask, out=product)
        elementwise.silu_mul_backward_(kept.gate_up[:, : self.mlp.out], product, recompute=made)
        if made:
            self.down.project_down(X_down, mask)
        del product
        down = self._lora_gradients(self.down, G, X_down, mask, run)
        kept.X_down = None
        del X_down, mask
        mask, G_mlp = self._mask(self.mlp, 2, run), kept.gate_up
        g = self.mlp.backward_input(G_mlp, mask)
        gate_up = self._lora_gradients(self.mlp, G_mlp, kept.X_mlp, mask, run)
        kept.gate_up = kept.X_mlp = None
        return gate_up + down, g

    def _lora_gradients(
        self, joined: Joined, G: torch.Tensor, X: torch.Tensor, mask: torch.Tensor | None, run: Pass
    ) -> list[torch.Tensor]:
        if run.sink is None:
            return joined.backward_lora(G, X, mask)
        if joined.rank:
            run.sink(joined, G, X)
        return []

    def _attention_backward(
        self, G_o: torch.Tensor, kept: Kept, run: Pass, input_gradient: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Gradients of attention's LoRA, and of its normed input (T, d)."""
        mask = self._mask(self.o, 1, run)
        upstream = self.o.backward_input(G_o, mask).unflatten(1, (-1, self.head_width))
        o = self._lora_gradients(self.o, G_o, kept.X_o, mask, run)
        out = kept.X_o[:, self.o.x].unflatten(1, (-1, self.head_width))
        dq, dk, dv = attend_backward(
            upstream, *self._split(kept.qkv), out, kept.log_sums, run.pack, self.scale, self.window
        )
        kept.qkv = kept.X_o = kept.log_sums = None
        G = self.qkv.new_gradient(run.tokens)
        both = self.q_width + self.kv_width
        for gradient, columns in ((dq, slice(0, self.q_width)), (dk, slice(self.q_width, both))):
            elementwise.rotate(gradient.flatten(1), G[:, columns], run.cos_TD, run.sin_TD, inverse=True)
        elementwise.move(dv.flatten(1), G[:, both : self.qkv.out])
        if self.qk_norms is not None:
            for norm, columns in self._heads_of():
                heads = G[:, columns].reshape(-1, self.head_width)
                raw = kept.raw[:, columns].reshape(-1, self.head_width)
                elementwise.rms_norm_backward(heads, raw, norm.weight, norm.eps, None, heads)
                G[:, columns] = heads.view(run.tokens, -1)
        mask = self._mask(self.qkv, 0, run)
        if input_gradient:
            g = self.qkv.backward_input(G, mask)
        else:
            g = None
            self.qkv.complete(G)
        return self._lora_gradients(self.qkv, G, kept.X_qkv, mask, run) + o, g
