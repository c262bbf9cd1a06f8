"""The stack of layers of a Llama-family model, bound to the weights and LoRA of a transformers model.

The transformers (and PEFT) model owns every weight. A Decoder reads the weights in place, so adapters load
and save in PEFT's format, and the model remains usable as usual. A Decoder refuses to bind to anything it cannot compute
exactly (another architecture, DoRA, several adapters at once); transformers' own forward then runs instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.attention import PackLayout
from trainer.decoder import elementwise
from trainer.decoder.binding import Rotary, Unsupported, is_family, read_layer, read_norm, rotaries
from trainer.decoder.branch import Norm
from trainer.decoder.dropout import Keys
from trainer.decoder.inference import Fp8, Plain
from trainer.decoder.kept import Kept
from trainer.decoder.layer import Attention, Layer, Pass, Sink, WithinDocuments
from trainer.decoder.nf4 import Nf4Weight
from trainer.decoder.offload import HostStore
from trainer.decoder.projections import Joined, Scratch
from trainer.decoder.retention import Memory, Retention, Widths
from trainer.families import FAMILIES, Family


@dataclass
class Decoder:
    """Layers and their shared state. `retention`: what each layer keeps in training; see `trainer.decoder.retention`.

    `ropes`: rotary embeddings by the name that layers have for theirs. `embedding_scale` multiplies the embeddings (Granite).
    `resident`: whether NF4 weights are also held dequantized (same values, no dequantization in each pass).
    `measured`: versions of the parameters in the last pass, if it had no backward pass.
    """

    layers: list[Layer]
    norm: Norm
    ropes: dict[str, Rotary]
    embedding_scale: float
    family: Family
    scratch: Scratch
    retention: list[Retention]
    store: HostStore | None = None
    resident: bool = False
    measured: int | None = None

    @classmethod
    def bind(cls, causal: torch.nn.Module, dtype: torch.dtype) -> Decoder:
        """A decoder over the weights of `causal` (a transformers model with or without a PEFT LoRA), in `dtype`.

        Raises Unsupported with the reason if its results would differ.
        """
        config, base = causal.config, causal.base_model
        if not is_family(causal):
            raise Unsupported(f"the architecture {config.model_type} ({type(causal).__module__})")
        family, scratch = FAMILIES[config.model_type], Scratch(base.embed_tokens.weight.device, dtype)
        layers = [read_layer(index, module, config, scratch) for index, module in enumerate(base.layers)]
        decoder = cls(
            layers,
            read_norm(base.norm, family),
            rotaries(base, config),
            getattr(base, "embedding_multiplier", 1.0),
            family,
            scratch,
            [Retention.KEEP] * len(layers),
        )
        lora = {id(parameter) for parameter in decoder.parameters()}
        if lora and any(p.requires_grad and id(p) not in lora for p in causal.parameters()):
            raise Unsupported("trainable weights other than LoRA's A and B")
        for layer in layers:
            for joined in layer.joined:
                if not any(isinstance(linear.weight, Nf4Weight) for linear in joined.linears):
                    joined.make_resident()
        return decoder

    @property
    def widths(self) -> Widths:
        """Widths of a layer, for computing memory."""
        layer = self.layers[0]
        return Widths(
            hidden=layer.qkv.inputs,
            query=layer.q_width,
            key_value=layer.kv_width,
            intermediate=layer.down.inputs,
            heads=layer.heads,
            rank=max(joined.rank for joined in layer.joined),
            itemsize=self.scratch.dtype.itemsize,
            qk_norm=layer.qk_norms is not None,
            after_norms=layer.around_mlp.after is not None,
            scaled=layer.around_mlp.scale != 1.0,
        )

    @property
    def matrix_bytes(self) -> int:
        """Bytes of the dequantized weights of all NF4 layers."""
        return sum(joined.matrix_bytes for joined in self.nf4)

    @property
    def nf4(self) -> list[Joined]:
        """The joined layers with NF4 weights."""
        return [
            joined
            for layer in self.layers
            for joined in layer.joined
            if any(isinstance(linear.weight, Nf4Weight) for linear in joined.linears)
        ]

    def settle(self, memory: Memory | None) -> None:
        """Use memory in training as set by `memory`; None after training, when nothing is kept."""
        self.retention = [Retention.KEEP] * len(self.layers) if memory is None else memory.retentions
        self.hold(memory is not None and memory.resident)
        self.store = None

    def hold(self, resident: bool) -> None:
        """Hold NF4 weights dequantized (True) or stop doing so."""
        if not resident:
            for joined in self.nf4:
                joined.release()
        elif not self.resident:
            for joined in self.nf4:
                joined.make_resident()
        self.resident = resident

    def measure_in_fp8(self, wanted: bool) -> None:
        """Make passes without gradients use 8-bit copies of the weights, or stop doing so; see `trainer.decoder.inference`."""
        for layer in self.layers:
            layer.measuring = [Plain(joined) for joined in layer.joined]  # free the old copies before making new ones
        for layer in self.layers if wanted else ():
            layer.measuring = [Fp8(joined) for joined in layer.joined]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Every A and B of LoRA, in order of layers."""
        return [parameter for layer in self.layers for parameter in layer.parameters()]

    def hidden_states(
        self,
        embeddings_Td: torch.Tensor,
        position_ids_T: torch.Tensor,
        pack: PackLayout,
        training: bool,
        rows: torch.Tensor | None = None,
        dropout_packs: Sequence[tuple[int, int]] | None = None,
    ) -> torch.Tensor:
        """Final hidden states (T, d) after the last norm, or (P, d) of `rows` (P,); differentiable in A and B if gradients
        are enabled.

        With `training`, LoRA's dropout is applied: by (tokens, seed) of each pack, or as to one pack with a seed from torch's global
        generator.
        """
        parameters = self.parameters()
        differentiable = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        dropout = training and any(joined.dropout for layer in self.layers for joined in layer.joined)
        if dropout and dropout_packs is None:
            dropout_packs = [(len(embeddings_Td), int(torch.randint(2**62, ()).item()))]
        keys = Keys.of(dropout_packs, embeddings_Td.device) if dropout else None
        run = self.new_pass(embeddings_Td, position_ids_T, pack, differentiable, dropout_keys=keys)
        if differentiable:
            hidden_Td = _Stack.apply(self, run, embeddings_Td, *parameters)
        elif dropout:  # training mode without gradients: the training forward, its tape discarded
            hidden_Td = self._forward(embeddings_Td, run, [])
        else:
            return self.without_gradients(embeddings_Td, run, WithinDocuments.of(self.layers, position_ids_T), rows)
        return hidden_Td if rows is None else hidden_Td[rows]

    def new_pass(
        self,
        embeddings_Td: torch.Tensor,
        position_ids_T: torch.Tensor,
        pack: PackLayout | None,
        differentiable: bool,
        dropout_keys: Keys | None = None,
        sink: Sink | None = None,
    ) -> Pass:
        """The shared state of a pass, with the rotary angles of these positions.

        Layers copy LoRA again in it, unless this pass and the previous one have no gradients and no parameter changed
        (an optimizer's step is not visible, but it always follows a pass with gradients).
        """
        versions = None if differentiable else sum(parameter._version for parameter in self.parameters())
        if versions is None or versions != self.measured:
            self.scratch.generation += 1
        self.measured = versions
        angles = {}
        for name, rotary in self.ropes.items():
            cos, sin = rotary(embeddings_Td[None], position_ids_T[None])
            angles[name] = (cos[0].contiguous(), sin[0].contiguous())
        return Pass(self.scratch.generation, pack, angles, dropout_keys, sink)

    @torch.no_grad()
    def backward_into(
        self,
        sink: Sink,
        embeddings_Td: torch.Tensor,
        position_ids_T: torch.Tensor,
        pack: PackLayout,
        slope: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """A forward and a backward pass in which `sink` receives the factors of LoRA's gradients, from the last layer to the first.

        `slope` gives the gradient (T, d) of the loss with respect to the final hidden states (T, d). No dropout is applied.
        """
        run = self.new_pass(embeddings_Td, position_ids_T, pack, differentiable=True, sink=sink)
        tape: list[Kept] = []
        self._backward(slope(self._forward(embeddings_Td, run, tape)), run, tape)

    def without_gradients(
        self, embeddings_Td: torch.Tensor, run: Pass, attention: Attention, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states (T, d) of a pass without a backward pass: one residual stream, changed in place. With `rows` (P,) only
        those of these tokens, (P, d), and in the last layer only they are computed after attention."""
        x = self._scaled(embeddings_Td.clone())
        for layer in self.layers:
            x = layer.measure(x, run, attention, rows if layer is self.layers[-1] else None)
        hidden = torch.empty_like(x)
        elementwise.add_rms_norm(x, None, self.norm.weight, self.norm.eps, hidden)
        return hidden

    def _scaled(self, embeddings_Td: torch.Tensor) -> torch.Tensor:
        return embeddings_Td if self.embedding_scale == 1.0 else embeddings_Td * self.embedding_scale

    def _forward(self, x: torch.Tensor, run: Pass, tape: list[Kept]) -> torch.Tensor:
        """Hidden states. Appends what each layer keeps to `tape`, and finally the input of the last norm."""
        x, delta = self._scaled(x), None
        for layer, retention in zip(self.layers, self.retention, strict=True):
            x, delta, kept = layer.forward(x, delta, run, retention)
            if retention is Retention.OFFLOAD:
                self._host().put(layer.index, kept.x, run.number)
                kept.x = None
            tape.append(kept)
        hidden = torch.empty_like(x)
        x = elementwise.add_rms_norm(x, delta, self.norm.weight, self.norm.eps, hidden)
        tape.append(Kept(x=x))
        return hidden

    def _backward(self, gradient_Td: torch.Tensor, run: Pass, tape: list[Kept]) -> list[torch.Tensor]:
        """Gradients of all A and B; empties `tape`, so that memory is freed as early as possible."""
        top = self.layers[-1].down
        G = top.new_gradient(run.tokens)
        shape = gradient_Td.shape
        elementwise.rms_norm_backward(gradient_Td, tape.pop().x, self.norm.weight, self.norm.eps, None, G[:, : top.out])
        gradients: list[list[torch.Tensor]] = []
        for layer in reversed(self.layers):
            kept = tape.pop()
            below = self.layers[layer.index - 1] if layer.index else None
            if self.retention[layer.index] is Retention.OFFLOAD:
                kept.x = self._host().take(layer.index, shape, run.number)
            if below is not None and self.retention[below.index] is Retention.OFFLOAD:
                self._host().fetch(below.index, shape, run.number)
            G, found = layer.backward(G, kept, run, below.down if below else None, input_gradient=below is not None)
            gradients.append(found)
        return [gradient for found in reversed(gradients) for gradient in found]

    def _host(self) -> HostStore:
        if self.store is None:
            self.store = HostStore(self.scratch.device)
        return self.store


class _Stack(torch.autograd.Function):
    """All layers as one function of the LoRA parameters. The embeddings are frozen and get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, decoder: Decoder, run: Pass, embeddings_Td: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states (T, d); keeps the tape of all layers for the backward pass."""
        ctx.decoder, ctx.run, ctx.tape = decoder, run, []
        return decoder._forward(embeddings_Td, run, ctx.tape)

    @staticmethod
    def backward(ctx: Any, gradient_Td: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the LoRA parameters. Raises RuntimeError if called twice, because it consumes the tape."""
        if not ctx.tape:
            raise RuntimeError("the decoder's backward pass runs once for each forward pass")
        gradients = ctx.decoder._backward(gradient_Td.contiguous(), ctx.run, ctx.tape)
        return None, None, None, *gradients


def layers_signature(causal: torch.nn.Module) -> tuple[Any, ...]:
    """A key that changes when a linear layer is replaced (an adapter loaded or removed) or its adapter is switched.

    It holds the layers: the id of a layer that was removed may be that of the next one.
    """
    if not is_family(causal):
        return (causal.config.model_type,)
    modules = [
        child
        for layer in causal.base_model.layers
        for part in (layer.self_attn, layer.mlp)
        for child in part.children()
    ]
    return tuple(
        (
            module,
            getattr(module, "disable_adapters", None),
            getattr(module, "merged", None),
            tuple(getattr(module, "active_adapters", ())),
            tuple(getattr(module, "scaling", {}).items()),
        )
        for module in modules
    )
