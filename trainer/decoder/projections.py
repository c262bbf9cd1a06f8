"""Joins linear layers of one input and their LoRA into one matrix.

For n layers W_i of input x, with LoRA A_i (r, in), B_i (out_i, r) and scale s, one bordered matrix holds everything:

              r      in      r
          ┌───────┬───────┬───────┐
    out_0 │ s·B_0 │  W_0  │   0   │      input  X = [ x·A_0ᵀ │ x │ x·A_1ᵀ ]
    out_1 │   0   │  W_1  │ s·B_1 │      output   = X · matrixᵀ
          ├───────┼───────┼───────┤
     r    │       │  A_0  │       │      gradient G = [ g_0 │ g_1 │ s·g_0·B_0 │ s·g_1·B_1 ]
     r    │       │  A_1  │       │      of x     = G · the middle columns
          └───────┴───────┴───────┘

The low-rank update then costs a few more columns of products that are computed anyway. The output is never read again to
add to it, and x is multiplied with all A at once.

W is a frozen weight, dense or NF4. Its matrix is either resident (dequantized once) or written to a shared scratch
for each use; the values are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from trainer.decoder import elementwise, low_rank
from trainer.decoder.dropout import Dropout
from trainer.decoder.nf4 import Nf4Weight
from trainer.decoder.retention import ALIGN

JOINT_WASTE = 1 / 32  # maximum share of zeros in the products' width


@dataclass(frozen=True)
class Lora:
    """LoRA of one linear layer: A (r, in), B (out, r) trainable parameters, y += scale · B(A(dropout(x)))."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scale: float
    dropout: float


@dataclass(frozen=True)
class Linear:
    """A frozen linear layer: weight (out, in) dense or NF4, bias (out,) or None, and its LoRA or None."""

    weight: torch.Tensor | Nf4Weight
    bias: torch.Tensor | None
    lora: Lora | None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return tuple(self.weight.shape)


@dataclass
class Scratch:
    """Memory for one bordered matrix at a time, shared by all layers; `owner` is the layer of the current matrix.

    `generation` counts passes between which parameters may have changed, so that LoRA is copied again. (Tensor versions
    do not show this: the fused optimizers change parameters without incrementing them.)
    """

    device: torch.device
    dtype: torch.dtype
    held: torch.Tensor | None = None
    owner: tuple[int, int] | None = None
    generation: int = 0

    def take(self, rows: int, columns: int) -> torch.Tensor:
        """(rows, columns) of undefined content; overwrites the matrix taken before."""
        if self.held is None or self.held.numel() < rows * columns:
            with torch.inference_mode(False):  # allocated outside inference mode, so that training can use it too
                self.held = torch.empty(rows * columns, dtype=self.dtype, device=self.device)
        return self.held[: rows * columns].view(rows, columns)


class Joined:
    """Linear layers of one input with their LoRA. See the module's docstring for the layout."""

    def __init__(self, linears: list[Linear], scratch: Scratch):
        self.linears, self.scratch = linears, scratch
        self.inputs = linears[0].shape[1]
        self.outputs = [linear.shape[0] for linear in linears]
        ranks = [linear.lora.a.shape[0] for linear in linears if linear.lora]
        self.rank = -(-max(ranks) // ALIGN) * ALIGN if ranks else 0
        self.out = sum(self.outputs)
        self.width = self.inputs + len(linears) * self.rank
        self.rows = self.out + len(linears) * self.rank
        self.x = slice(self.rank, self.rank + self.inputs)
        self._joint = (len(linears) - 1) * self.rank <= JOINT_WASTE * self.inputs
        self.dropout = max((linear.lora.dropout for linear in linears if linear.lora), default=0.0)
        self.resident: torch.Tensor | None = None
        self.generation = -1

    # Layout

    def output(self, i: int) -> slice:
        """Rows of the matrix (columns of outputs and gradients) of layer i."""
        start = sum(self.outputs[:i])
        return slice(start, start + self.outputs[i])

    def down(self, i: int) -> slice:
        """Rows of the matrix (columns of gradients) of A_i."""
        return slice(self.out + i * self.rank, self.out + (i + 1) * self.rank)

    def up(self, i: int) -> slice:
        """Columns of the matrix (and of inputs) of B_i: the first left of x, the others right of it."""
        start = 0 if i == 0 else self.inputs + i * self.rank
        return slice(start, start + self.rank)

    def products(self) -> list[tuple[slice, slice]]:
        """(rows, columns) of the matrix products of a forward pass.

        One product for all layers if multiplying with the zeros of the others costs little (a large product is a few percent
        faster than two halves), else the first layer alone.
        """
        if self.rank == 0 or len(self.linears) == 1 or self._joint:
            return [(slice(0, self.out), slice(0, self.width))]
        return [
            (self.output(0), slice(0, self.rank + self.inputs)),
            (slice(self.outputs[0], self.out), slice(self.rank, self.width)),
        ]

    # The matrix

    @property
    def matrix_bytes(self) -> int:
        """Bytes of the resident matrix."""
        return self.rows * self.width * self.scratch.dtype.itemsize

    def make_resident(self) -> None:
        """Make the matrix resident. A dense weight moves into it: the layer's own tensor becomes a view, so there is no
        second copy."""
        with torch.inference_mode(False):  # allocated outside inference mode, so that training can use it too
            self.resident = torch.zeros(self.rows, self.width, dtype=self.scratch.dtype, device=self.scratch.device)
            self._fill_weights(self.resident)
            for i, linear in enumerate(self.linears):
                if not isinstance(linear.weight, Nf4Weight):
                    linear.weight.data = self.resident[self.output(i), self.x]
        self.generation = -1

    def release(self) -> None:
        """Drop the resident matrix of NF4 weights."""
        self.resident = None

    def matrix(self) -> torch.Tensor:
        """The bordered matrix (rows, width) with the parameters at the start of this pass."""
        generation = self.scratch.generation
        if self.resident is not None:
            if self.generation != generation:
                self._fill_lora(self.resident)
                self.generation = generation
            return self.resident
        matrix, key = self.scratch.take(self.rows, self.width), (id(self), generation)
        if self.scratch.owner != key:
            self._fill_weights(matrix)
            self._clear_borders(matrix)
            self._fill_lora(matrix)
            self.scratch.owner = key
        return matrix

    @torch.no_grad()
    def _fill_weights(self, matrix: torch.Tensor) -> None:
        for i, linear in enumerate(self.linears):
            target = matrix[self.output(i), self.x]
            if isinstance(linear.weight, Nf4Weight):
                linear.weight.dequantize_into(target)
            else:
                target.copy_(linear.weight)

    def _clear_borders(self, matrix: torch.Tensor) -> None:
        """Zero the cells that _fill_lora does not write: other layers' columns, and padding of the rank."""
        padded = any(linear.lora is None or linear.lora.a.shape[0] != self.rank for linear in self.linears)
        if padded:
            matrix[:, : self.rank].zero_()
            matrix[self.out :, self.x].zero_()
        if self._joint:
            matrix[: self.out, : self.rank].zero_()
        if padded or self._joint or len(self.linears) > 2:
            matrix[: self.out, self.rank + self.inputs :].zero_()

    @torch.no_grad()
    def _fill_lora(self, matrix: torch.Tensor) -> None:
        for i, linear in enumerate(self.linears):
            if linear.lora:
                lora, r = linear.lora, linear.lora.a.shape[0]
                matrix[self.down(i), self.x][:r].copy_(lora.a)
                torch.mul(lora.b, lora.scale, out=matrix[self.output(i), self.up(i)][:, :r])

    # The products

    def new_input(self, tokens: int) -> torch.Tensor:
        """A buffer (T, width); its columns `x` are for the input."""
        return torch.empty(tokens, self.width, dtype=self.scratch.dtype, device=self.scratch.device)

    def new_gradient(self, tokens: int) -> torch.Tensor:
        """A buffer (T, rows); its first `out` columns are for outputs, and later their gradient."""
        return torch.empty(tokens, self.rows, dtype=self.scratch.dtype, device=self.scratch.device)

    def project_down(self, X: torch.Tensor, dropout: Dropout | None = None) -> None:
        """Fill the columns x·Aᵀ of X (T, width); `dropout` is applied to x only there."""
        if self.rank:
            x, matrix = X[:, self.x] if dropout is None else dropout(X[:, self.x]), self.matrix()
            columns = len(self.linears) * self.rank
            if self._suits(columns, X, x, matrix):
                wide, which = (X, "A") if dropout is None else (x, "A, dropped")
                low_rank.product(wide, matrix, X, self._parts[which], columns, True, self.rank, self.inputs)
                return
            a = matrix[self.out :, self.x].t()
            if len(self.linears) == 1:
                torch.mm(x, a, out=X[:, self.up(0)])
                return
            h = x @ a
            elementwise.move(h[:, : self.rank], X[:, self.up(0)])
            elementwise.move(h[:, self.rank :], X[:, self.rank + self.inputs :])

    def forward(self, X: torch.Tensor, out: torch.Tensor) -> None:
        """Write the outputs of all layers side by side into `out` (T, ≥ out). X must be complete (see project_down)."""
        matrix = self.matrix()
        for rows, columns in self.products():
            torch.mm(X[:, columns], matrix[rows, columns].t(), out=out[:, rows])
        for i, linear in enumerate(self.linears):
            if linear.bias is not None:
                out[:, self.output(i)] += linear.bias

    def complete(self, G: torch.Tensor) -> None:
        """Fill the columns s·g·B of G (T, rows), whose first `out` columns hold the gradient of the outputs."""
        if self.rank:
            matrix = self.matrix()
            if self._suits(self.rank, G, matrix):
                low_rank.product(G, matrix, G, self._parts["B"], self.rank)
                return
            for i in range(len(self.linears)):
                torch.mm(G[:, self.output(i)], matrix[self.output(i), self.up(i)], out=G[:, self.down(i)])

    def backward_input(self, G: torch.Tensor, dropout: Dropout | None, out: torch.Tensor | None = None) -> torch.Tensor:
        """Gradient (T, in) of the input, written to `out` if given; completes G (T, rows)."""
        self.complete(G)
        matrix = self.matrix()
        out = G.new_empty(len(G), self.inputs) if out is None else out
        if dropout is None:
            return torch.mm(G, matrix[:, self.x], out=out)
        torch.mm(G[:, : self.out], matrix[: self.out, self.x], out=out)
        return dropout.add_product(out, G[:, self.out :], matrix[self.out :, self.x])

    def backward_lora(self, G: torch.Tensor, X: torch.Tensor, dropout: Dropout | None) -> list[torch.Tensor]:
        """Gradients of A and B of every layer with LoRA, in that order, float32. G and X must be complete."""
        if not self.rank:
            return []
        x = X[:, self.x] if dropout is None else dropout(X[:, self.x])
        of_a = _product(G[:, self.out :].t(), x)
        gradients = []
        for i, linear in enumerate(self.linears):
            if linear.lora:
                r = linear.lora.a.shape[0]
                of_b = _product(G[:, self.output(i)].t(), X[:, self.up(i)][:, :r])
                if linear.lora.scale != 1.0:
                    of_b *= linear.lora.scale
                gradients += [of_a[i * self.rank : i * self.rank + r], of_b]
        return gradients

    def _suits(self, columns: int, *buffers: torch.Tensor) -> bool:
        """Whether the kernel of low_rank.py takes products of these buffers."""
        whole = all(width % low_rank.ALIGN == 0 for width in (self.rank, self.inputs, *self.outputs))
        return whole and low_rank.suits(buffers, columns)

    @cached_property
    def _parts(self) -> dict[str, torch.Tensor]:
        """Where in X, G and the matrix the products of low_rank.py find their factors."""
        of_a, of_b = self.out * self.width + self.rank, []
        for i, width in enumerate(self.outputs):
            start = self.output(i).start
            of_b.append((start, start * self.width + self.up(i).start, self.down(i).start, width))
        found = {"A": [(self.rank, of_a, 0, self.inputs)], "A, dropped": [(0, of_a, 0, self.inputs)], "B": of_b}
        return {name: low_rank.parts(entries, self.scratch.device) for name, entries in found.items()}

    def parameters(self) -> list[torch.nn.Parameter]:
        """A and B of every layer with LoRA, in the order of backward_lora."""
        return [p for linear in self.linears if linear.lora for p in (linear.lora.a, linear.lora.b)]


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ right in float32 for any input dtype, because gradients are summed over batches."""
    if left.is_cuda and left.dtype == torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
