"""What a layer's forward pass leaves for its backward pass."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from trainer.decoder.retention import Retention


@dataclass
class Kept:
    """Tensors of a forward pass that its backward pass needs; those that are None are recomputed.

    x, x2 (T, d) residual stream before attention and before the MLP; X_qkv, X_o, X_mlp, X_down inputs of the
    projections with their LoRA columns; qkv (T, H·D + 2·K·D) with q and k rotated; raw (T, (H+K)·D) q and k before
    their norms (Qwen3); log_sums of attention; gate_up (T, rows) outputs of gate and up in a gradient buffer; attended,
    made (T, d) outputs of attention and of the MLP before their norms (Gemma 2, OLMo 2).
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
    attended: torch.Tensor | None = None
    made: torch.Tensor | None = None

    def reduced(self, retention: Retention) -> Kept:
        """The tensors kept under `retention` (for offload the caller removes x)."""
        if retention is Retention.KEEP:
            return self
        if retention is Retention.PRODUCTS:
            return Kept(
                x=self.x, raw=self.raw, qkv=self.qkv, X_o=self.X_o, log_sums=self.log_sums, x2=self.x2,
                gate_up=self.gate_up, attended=self.attended, made=self.made,
            )  # fmt: skip
        return Kept(x=self.x)

    def update(self, other: Kept) -> None:
        """Fill missing tensors from `other`."""
        for field in fields(self):
            if getattr(self, field.name) is None:
                setattr(self, field.name, getattr(other, field.name))
