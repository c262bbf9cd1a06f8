"""Joined projections for forward passes without gradients: in the model's dtype, or in 8-bit floats.

Both have the same steps: write an input directly into the buffer of its matrix product (normed, gated, or filled by
attention), then multiply. The same product either makes a new result or adds to the residual stream.

In 8-bit floats (e4m3) the bordered matrix of projections.py has its borders on one side,

    M = [ W_0 │ s·B_0   0    0 ]  / row scales        X = [ x │ x·A_0ᵀ │ x·A_1ᵀ │ 0 ]  / row scales
        [ W_1 │   0   s·B_1  0 ]

with zeros up to a multiple of 128 columns, which makes the products fast (for 4,144 columns on an H100: 1,080 TFLOP/s
unpadded, 1,470 padded). Every row of M and X has its own scale. LoRA is separate from the base weights, so
two adapters are compared with the same rounding of the base.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from trainer.decoder import elementwise
from trainer.decoder.branch import Branch
from trainer.decoder.elementwise import FP8_MAX, Activation
from trainer.decoder.projections import Joined

FP8 = torch.float8_e4m3fn
FP8_ALIGN = 128
HEADROOM = 16.0
"""The range of a row is this many times its largest base weight, to leave room for LoRA's s·B. Floats lose no precision by it."""
SHARE = 0.25
"""x·Aᵀ is stored multiplied by this factor, because it may exceed the range of x's scale."""


class Projection(Protocol):
    """The interface between a layer and a projection. T tokens; `inputs` is opaque between the calls."""

    def entered(self, x_Td: torch.Tensor, branch: Branch) -> Any:
        """Inputs from the residual stream, by the branch's norm."""

    def gated(self, gate_up: torch.Tensor, activation: Activation) -> Any:
        """Inputs activation(gate) · up."""

    def blank(self, tokens: int) -> tuple[Any, torch.Tensor]:
        """(argument for `filled`, (T, in) tensor to write the input into)."""

    def filled(self, held: Any) -> Any:
        """Inputs from the buffer of `blank`."""

    def product(self, inputs: Any, out: torch.Tensor) -> None:
        """Write the outputs of all layers side by side into `out` (T, out)."""

    def add_to(self, inputs: Any, x_Td: torch.Tensor) -> None:
        """Add the output of the only layer to `x_Td`."""


class Plain:
    """A projection in the model's dtype: the bordered matrix of projections.py."""

    def __init__(self, joined: Joined):
        self.joined = joined

    def entered(self, x_Td: torch.Tensor, branch: Branch) -> torch.Tensor:
        """See Projection."""
        X, view = self.blank(len(x_Td))
        branch.enter(x_Td, None, view)
        return self.filled(X)

    def gated(self, gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See Projection."""
        X, view = self.blank(len(gate_up))
        elementwise.gated_product(gate_up, view, activation)
        return self.filled(X)

    def blank(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See Projection."""
        X = self.joined.new_input(tokens)
        return X, X[:, self.joined.x]

    def filled(self, held: torch.Tensor) -> torch.Tensor:
        """See Projection."""
        self.joined.project_down(held)
        return held

    def product(self, inputs: torch.Tensor, out: torch.Tensor) -> None:
        """See Projection."""
        self.joined.forward(inputs, out)

    def add_to(self, inputs: torch.Tensor, x_Td: torch.Tensor) -> None:
        """See Projection."""
        torch.addmm(x_Td, inputs, self.joined.matrix()[: self.joined.out].t(), out=x_Td)
        bias = self.joined.linears[0].bias
        if bias is not None:
            x_Td += bias


class Fp8:
    """A projection in 8-bit floats; see the module's docstring. Holds its own matrix in addition to the base weights."""

    def __init__(self, joined: Joined):
        self.joined, self.generation = joined, -1
        self.down_rows = len(joined.linears) * joined.rank
        self.width = -(-(joined.inputs + self.down_rows) // FP8_ALIGN) * FP8_ALIGN
        device = joined.scratch.device
        self.weight = torch.zeros(joined.out, self.width, dtype=FP8, device=device)
        weight = joined.matrix()[: joined.out, joined.x]
        self.unit = weight.abs().amax(1).float().clamp_(min=1e-12).mul_(HEADROOM / FP8_MAX)[None]  # (1, out)
        for rows in torch.arange(joined.out, device=device).split(4096):
            here = slice(int(rows[0]), int(rows[-1]) + 1)
            self.weight[here, : joined.inputs] = (weight[here].float() / self.unit[0, here, None]).to(FP8)
        self.down = torch.zeros(self.down_rows, joined.inputs, dtype=FP8, device=device)
        self.down_unit = torch.ones(1, self.down_rows, dtype=torch.float32, device=device)

    def entered(self, x_Td: torch.Tensor, branch: Branch) -> tuple[torch.Tensor, torch.Tensor]:
        """See Projection."""
        norm = branch.before
        return self._inputs(x_Td, norm=None if norm is None else (norm.weight, norm.eps))

    def gated(self, gate_up: torch.Tensor, activation: Activation) -> tuple[torch.Tensor, torch.Tensor]:
        """See Projection."""
        return self._inputs(gate_up, gate=activation)

    def blank(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See Projection."""
        scratch = self.joined.scratch
        held = torch.empty(tokens, self.joined.inputs, dtype=scratch.dtype, device=scratch.device)
        return held, held

    def filled(self, held: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Projection."""
        return self._inputs(held)

    def product(self, inputs: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor) -> None:
        """See Projection."""
        X, unit = inputs
        _scaled_product(X, unit, self.weight, self.unit, out)
        for i, linear in enumerate(self.joined.linears):
            if linear.bias is not None:
                out[:, self.joined.output(i)] += linear.bias

    def add_to(self, inputs: tuple[torch.Tensor, torch.Tensor], x_Td: torch.Tensor) -> None:
        """See Projection."""
        out = torch.empty_like(x_Td)
        self.product(inputs, out)
        x_Td += out

    def _inputs(self, source: torch.Tensor, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
        joined = self.joined
        X = torch.empty(len(source), self.width, dtype=FP8, device=source.device)
        unit = elementwise.fp8_rows(source, X[:, : joined.inputs], **how)
        if self.down_rows:
            self._refresh()
            h = torch.empty(len(source), self.down_rows, dtype=source.dtype, device=source.device)
            _scaled_product(X[:, : joined.inputs], unit, self.down, self.down_unit, h)
            elementwise.fp8_border(h, unit, X[:, joined.inputs :], SHARE)
        elif self.width > joined.inputs:
            X[:, joined.inputs :].zero_()
        return X, unit

    def _refresh(self) -> None:
        """Copy LoRA as it is at the start of this pass."""
        joined = self.joined
        if self.generation == joined.scratch.generation:
            return
        self.generation = joined.scratch.generation
        for i, linear in enumerate(joined.linears):
            if linear.lora is None:
                continue
            lora, r = linear.lora, linear.lora.a.shape[0]
            rows = slice(i * joined.rank, i * joined.rank + r)
            unit = lora.a.detach().abs().amax(1).float().clamp_(min=1e-12) / FP8_MAX
            self.down[rows] = (lora.a.detach().float() / unit[:, None]).to(FP8)
            self.down_unit[0, rows] = unit
            up = lora.b.detach().float() * (lora.scale / SHARE) / self.unit[0, joined.output(i), None]
            columns = slice(joined.inputs + rows.start, joined.inputs + rows.stop)
            self.weight[joined.output(i), columns] = up.clamp(-FP8_MAX, FP8_MAX).to(FP8)


def _scaled_product(
    X: torch.Tensor, unit_T1: torch.Tensor, weight: torch.Tensor, unit_1N: torch.Tensor, out: torch.Tensor
) -> None:
    """(X · unit) · (weight · unit)ᵀ into `out` (T, N)."""
    if X.is_cuda:
        torch._scaled_mm(
            X, weight.t(), scale_a=unit_T1, scale_b=unit_1N, out_dtype=out.dtype, use_fast_accum=True, out=out
        )
    else:
        out.copy_((X.float() @ weight.float().t()) * unit_T1 * unit_1N)
