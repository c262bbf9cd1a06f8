"""One decoder layer of the Llama family, forward and backward.

    x ──norm──qkv──rotary──attention──o──(+)──norm──gate, up──silu·──down──(+)
    └────────────────────────────────────┘└────────────────────────────────┘

branch.py says where else norms stand, and which families have them there. The next layer's norm does the last addition, because it reads
the sum anyway: a layer takes (x, delta) and returns (x2, delta).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trainer.attention import PackLayout, attend, attend_backward, attend_into, gradients_go_into
from trainer.decoder import elementwise
from trainer.decoder.branch import Branch, Norm
from trainer.decoder.dropout import Dropout, Keys
from trainer.decoder.elementwise import Activation, Angles
from trainer.decoder.inference import Plain, Projection
from trainer.decoder.kept import Kept
from trainer.decoder.projections import Joined
from trainer.decoder.retention import Retention

Sink = Callable[[Joined, torch.Tensor, torch.Tensor], None]
"""A function of a joined projection, its complete gradient buffer (T, rows) and its complete input (T, width); see projections.py."""


@dataclass(frozen=True)
class Pass:
    """Shared state of all layers in one pass over a pack: its number, borders, angles of each rotary embedding, the keys of LoRA's
    dropout (None: off), and the sink that receives the factors of LoRA's gradients instead of summing them over the pack."""

    number: int
    pack: PackLayout | None
    angles: Mapping[str, Angles]
    dropout_keys: Keys | None
    sink: Sink | None = None

    @property
    def tokens(self) -> int:
        """T."""
        return len(next(iter(self.angles.values()))[0])


def no_angles(tokens: int, head_width: int, like: torch.Tensor) -> Angles:
    """cos and sin (T, D) that rotate by nothing."""
    return like.new_ones(tokens, head_width), like.new_zeros(tokens, head_width)


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
        angles = run.angles[layer.rope]
        elementwise.rotate(keys, keys, *angles, head_width=layer.head_width)
        heads = (layer.heads, layer.kv_heads, layer.head_width)
        first_T = self.first_T[layer.window]
        attend_into(out, qkv, heads, run.pack, first_T, angles, layer.scale, layer.window, layer.softcap)


class Layer:
    """Weights of one layer, and the two passes.

    `branches` around attention and the MLP. `qk_norms`: of q and k, each over as many columns as its weight has: a head (Qwen3) or all
    (OLMo 2). `heads` H, `kv_heads` K, `head_width` D; `rope` names the rotary embedding in `Pass.angles`; window in tokens or None;
    `softcap` of attention scores or None.
    """

    def __init__(
        self,
        index: int,
        qkv: Joined,
        o: Joined,
        mlp: Joined,
        down: Joined,
        branches: tuple[Branch, Branch],
        qk_norms: tuple[Norm, Norm] | None,
        heads: int,
        kv_heads: int,
        head_width: int,
        scale: float,
        window: int | None,
        rope: str,
        softcap: float | None,
        activation: Activation,
    ):
        self.index, self.qkv, self.o, self.mlp, self.down = index, qkv, o, mlp, down
        (self.around_attention, self.around_mlp), self.qk_norms = branches, qk_norms
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        self.scale, self.window, self.softcap = scale, window, softcap
        self.rope, self.activation = rope, activation
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
        inputs = qkv.entered(x, self.around_attention)
        made = x.new_empty(run.tokens, self.qkv.out)
        qkv.product(inputs, made)
        del inputs
        if self.qk_norms is not None:
            for norm, columns in self._heads_of():
                elementwise.norm_heads(made[:, columns], norm.weight, norm.eps, self.head_width)
        held, attended = o.blank(run.tokens)
        attention(self, run, made, attended)
        del made, attended
        if rows is not None:
            held, x = held[rows], x[rows]
        _add(o, o.filled(held), x, self.around_attention)
        del held
        gate_up = x.new_empty(len(x), self.mlp.out)
        mlp.product(mlp.entered(x, self.around_mlp), gate_up)
        inputs = down.gated(gate_up, self.activation)
        del gate_up
        _add(down, inputs, x, self.around_mlp)
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
        made = torch.empty_like(kept.x2)
        self.down.forward(kept.X_down, made)
        if self.around_mlp.after is not None:
            kept.made = made
        return kept.x2, self.around_mlp.leave(made), kept.reduced(retention)

    def _attention_half(self, x: torch.Tensor, delta: torch.Tensor | None, run: Pass, kept: Kept) -> None:
        kept.X_qkv = self.qkv.new_input(run.tokens)
        kept.x = self.around_attention.enter(x, delta, kept.X_qkv[:, self.qkv.x])
        self.qkv.project_down(kept.X_qkv, self._dropout(self.qkv, 0, run))
        kept.qkv = torch.empty(run.tokens, self.qkv.out, dtype=x.dtype, device=x.device)
        self.qkv.forward(kept.X_qkv, kept.qkv)
        self._position(run, kept)
        kept.X_o = self.o.new_input(run.tokens)
        attended = kept.X_o[:, self.o.x].unflatten(1, (-1, self.head_width))
        kept.log_sums = attend(*self._split(kept.qkv), attended, run.pack, self.scale, self.window, self.softcap)
        self.o.project_down(kept.X_o, self._dropout(self.o, 1, run))
        made = torch.empty_like(kept.x)
        self.o.forward(kept.X_o, made)
        if self.around_attention.after is not None:
            kept.attended = made
        kept.X_mlp = self.mlp.new_input(run.tokens)
        kept.x2 = self.around_mlp.enter(kept.x, self.around_attention.leave(made), kept.X_mlp[:, self.mlp.x])

    def _mlp_half(self, run: Pass, kept: Kept) -> None:
        self.mlp.project_down(kept.X_mlp, self._dropout(self.mlp, 2, run))
        kept.gate_up = self.mlp.new_gradient(run.tokens)
        self.mlp.forward(kept.X_mlp, kept.gate_up)

    def _gate(self, run: Pass, kept: Kept) -> None:
        kept.X_down = self.down.new_input(run.tokens)
        elementwise.gated_product(kept.gate_up[:, : self.mlp.out], kept.X_down[:, self.down.x], self.activation)
        self.down.project_down(kept.X_down, self._dropout(self.down, 3, run))

    def _position(self, run: Pass, kept: Kept) -> None:
        """Norms of q and k, if the model has them, then the rotary embedding, in place."""
        heads, angles, width = kept.qkv[:, : self.q_width + self.kv_width], run.angles[self.rope], self.head_width
        if self.qk_norms is None:
            elementwise.rotate(heads, heads, *angles, head_width=width)
            return
        kept.raw = torch.empty_like(heads, memory_format=torch.contiguous_format)
        for norm, columns in self._heads_of():
            elementwise.norm_heads(heads[:, columns], norm.weight, norm.eps, width, kept.raw[:, columns], angles)

    def _heads_of(self) -> list[tuple[Norm, slice]]:
        both = self.q_width + self.kv_width
        return list(zip(self.qk_norms, (slice(0, self.q_width), slice(self.q_width, both)), strict=True))

    def _split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q (T, H, D), k and v (T, K, D) as views."""
        parts = qkv.split([self.q_width, self.kv_width, self.kv_width], dim=1)
        return tuple(part.unflatten(1, (-1, self.head_width)) for part in parts)

    def _dropout(self, joined: Joined, place: int, run: Pass) -> Dropout | None:
        """LoRA's dropout at one of the four inputs, the same in the backward pass.

        PEFT draws one mask per layer; here the layers of one input share a mask.
        """
        if run.dropout_keys is None or not joined.dropout or not joined.rank:
            return None
        return Dropout(run.dropout_keys, len(self.joined) * self.index + place, joined.dropout)

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
        residual = self.around_mlp.leave_backward(G[:, :d], kept.made)
        kept.made = None
        mlp, G_mlp = self._mlp_backward(G, kept, run)
        G_o = self.o.new_gradient(run.tokens)
        self.around_mlp.enter_backward(G_mlp, kept.x2, residual, G_o[:, :d])
        del G, G_mlp
        kept.x2 = None
        residual = self.around_attention.leave_backward(G_o[:, :d], kept.attended)
        kept.attended = None
        attention, g = self._attention_backward(G_o, kept, run, input_gradient)
        if not input_gradient:
            return None, attention + mlp
        below = torch.empty(run.tokens, above.rows if above else d, dtype=g.dtype, device=g.device)
        self.around_attention.enter_backward(g, kept.x, residual, below[:, :d])
        return below, attention + mlp

    def parameters(self) -> list[torch.nn.Parameter]:
        """All A and B, in the order of the gradients."""
        return [parameter for joined in self.joined for parameter in joined.parameters()]

    def _make_again(self, kept: Kept, run: Pass) -> None:
        """The tensors that were not kept, except the gate's product and the input of q, k and v, which are made when they are needed."""
        if kept.qkv is None:
            again = Kept()
            self._attention_half(kept.x, None, run, again)
            again.X_qkv = None  # cheap, and not needed before the MLP's backward pass is over
            self._mlp_half(run, again)
            if self.around_mlp.after is not None:
                self._gate(run, again)
                again.made = torch.empty_like(again.x2)
                self.down.forward(again.X_down, again.made)
            kept.update(again)
        elif kept.X_mlp is None:
            kept.X_mlp = self._input_of(self.mlp, kept.x2, self.around_mlp, 2, run)

    def _input_of(self, joined: Joined, x: torch.Tensor, branch: Branch, place: int, run: Pass) -> torch.Tensor:
        """The complete input (T, width) of the projection after the branch's norm of `x` (T, d)."""
        X = joined.new_input(run.tokens)
        branch.enter(x, None, X[:, joined.x])
        joined.project_down(X, self._dropout(joined, place, run))
        return X

    def _mlp_backward(self, G: torch.Tensor, kept: Kept, run: Pass) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Gradients of the MLP's LoRA, and of its normed input (T, d). Overwrites gate_up."""
        dropout = self._dropout(self.down, 3, run)
        made = kept.X_down is None
        X_down = self.down.new_input(run.tokens) if made else kept.X_down
        product = X_down[:, self.down.x] if made else G.new_empty(run.tokens, self.down.inputs)
        self.down.backward_input(G, dropout, out=product)
        elementwise.gated_product_backward_(kept.gate_up[:, : self.mlp.out], product, made, self.activation)
        if made:
            self.down.project_down(X_down, dropout)
        del product
        down = self._lora_gradients(self.down, G, X_down, dropout, run)
        kept.X_down = None
        del X_down
        dropout, G_mlp = self._dropout(self.mlp, 2, run), kept.gate_up
        g = self.mlp.backward_input(G_mlp, dropout)
        gate_up = self._lora_gradients(self.mlp, G_mlp, kept.X_mlp, dropout, run)
        kept.gate_up = kept.X_mlp = None
        return gate_up + down, g

    def _lora_gradients(
        self, joined: Joined, G: torch.Tensor, X: torch.Tensor, dropout: Dropout | None, run: Pass
    ) -> list[torch.Tensor]:
        if run.sink is None:
            return joined.backward_lora(G, X, dropout)
        if joined.rank:
            run.sink(joined, G, X)
        return []

    def _attention_backward(
        self, G_o: torch.Tensor, kept: Kept, run: Pass, input_gradient: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Gradients of attention's LoRA, and of its normed input (T, d)."""
        dropout = self._dropout(self.o, 1, run)
        upstream = self.o.backward_input(G_o, dropout).unflatten(1, (-1, self.head_width))
        o = self._lora_gradients(self.o, G_o, kept.X_o, dropout, run)
        out = kept.X_o[:, self.o.x].unflatten(1, (-1, self.head_width))
        q, k, v = self._split(kept.qkv)
        direct = gradients_go_into(q, k, run.pack, self.softcap)
        G = self.qkv.new_gradient(run.tokens) if direct else None
        into = self._split(G[:, : self.qkv.out]) if direct else None
        dq, dk, dv = attend_backward(
            upstream, q, k, v, out, kept.log_sums, into, run.pack, self.scale, self.window, self.softcap
        )
        kept.qkv = kept.X_o = kept.log_sums = None
        del q, k, v, out, upstream
        if not direct:
            G = self.qkv.new_gradient(run.tokens)
        both, angles, width = self.q_width + self.kv_width, run.angles[self.rope], self.head_width
        if self.qk_norms is None:
            for gradient, columns in ((dq, slice(0, self.q_width)), (dk, slice(self.q_width, both))):
                elementwise.rotate(gradient.flatten(1), G[:, columns], *angles, inverse=True, head_width=width)
        else:
            for gradient, (norm, columns) in zip((dq, dk), self._heads_of(), strict=True):
                raw, to = kept.raw[:, columns], G[:, columns]
                elementwise.norm_heads_backward(gradient.flatten(1), raw, norm.weight, norm.eps, width, angles, to)
            kept.raw = None
        if not direct:
            elementwise.move(dv.flatten(1), G[:, both : self.qkv.out])
        del dq, dk, dv, gradient, into
        dropout = self._dropout(self.qkv, 0, run)
        if input_gradient:
            g = self.qkv.backward_input(G, dropout)
        else:
            g = None
            self.qkv.complete(G)
        X = kept.X_qkv
        if X is None:
            X = self._input_of(self.qkv, kept.x, self.around_attention, 0, run)
        return self._lora_gradients(self.qkv, G, X, dropout, run) + o, g


def _add(projection: Projection, inputs: Any, x: torch.Tensor, branch: Branch) -> None:
    """Add a projection's output to the residual stream `x` (T, d)."""
    if branch.plain:
        projection.add_to(inputs, x)
        return
    made = torch.empty_like(x)
    projection.product(inputs, made)
    x += branch.leave(made)
