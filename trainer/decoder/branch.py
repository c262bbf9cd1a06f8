"""How each half of a layer (attention, MLP) reads the residual stream x and is added to it.

Llama, Mistral, Qwen, Phi-3, SmolLM3    x + half(norm(x))
Granite                                 x + scale · half(norm(x))
OLMo 2, OLMo 3                          x + norm(half(x))
Gemma 2, Gemma 3                        x + norm(half(norm(x)))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.decoder import elementwise


@dataclass(frozen=True)
class Norm:
    """RMSNorm: weight (width,), eps. A float32 weight multiplies before the result is rounded; see `elementwise.add_rms_norm`."""

    weight: torch.Tensor
    eps: float


@dataclass(frozen=True)
class Branch:
    """The norm before a half, the norm after it, the scale of its result; None: no norm."""

    before: Norm | None
    after: Norm | None = None
    scale: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether the half's result is added as it is."""
        return self.after is None and self.scale == 1.0

    def enter(self, x: torch.Tensor, delta: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
        """Write the half's input, the norm of x + delta, into `out` (T, d) and return x + delta (x itself if delta is None)."""
        if self.before is not None:
            return elementwise.add_rms_norm(x, delta, self.before.weight, self.before.eps, out)
        total = x if delta is None else x + delta
        elementwise.move(total, out)
        return total

    def enter_backward(
        self, gradient: torch.Tensor, x: torch.Tensor, residual: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Write the gradient of x into `out` (T, d), given those of the half's input and of the residual stream."""
        if self.before is not None:
            elementwise.rms_norm_backward(gradient, x, self.before.weight, self.before.eps, residual, out)
        else:
            torch.add(gradient, residual, out=out)

    def leave(self, made: torch.Tensor) -> torch.Tensor:
        """What is added to x, given what the half has `made` (T, d). Changes it in place if it is only scaled."""
        if self.after is not None:
            normed = torch.empty_like(made)
            elementwise.add_rms_norm(made, None, self.after.weight, self.after.eps, normed)
            made = normed
        return made if self.scale == 1.0 else made.mul_(self.scale)

    def leave_backward(self, gradient: torch.Tensor, made: torch.Tensor | None) -> torch.Tensor:
        """Replace the `gradient` (T, d) of the sum by that of what the half has `made`; returns the former, for the residual stream.

        `made` is read only if there is a norm. A plain branch changes nothing: both gradients are one tensor.
        """
        if self.plain:
            return gradient
        residual = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        if self.after is not None:
            elementwise.rms_norm_backward(
                gradient, made, self.after.weight, self.after.eps, None, gradient, copy=residual
            )
        else:
            residual.copy_(gradient)
        if self.scale != 1.0:
            gradient.mul_(self.scale)
        return residual
