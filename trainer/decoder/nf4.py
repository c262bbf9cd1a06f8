"""An NF4 weight in bitsandbytes' format, dequantized directly into a product's matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit

BLOCKS_PER_PROGRAM = 32


@dataclass(frozen=True)
class Nf4Weight:
    """`packed` uint8 (out · in / 2, 1) and the QuantState of a bitsandbytes Params4bit."""

    packed: torch.Tensor
    state: Any

    @property
    def shape(self) -> torch.Size:
        """(out, in)."""
        return self.state.shape

    def dequantize_into(self, target: torch.Tensor) -> None:
        """Write the weight into `target` (out, in), whose rows may be part of a wider matrix.

        The values are those of bitsandbytes.functional.dequantize_4bit, bit for bit, in the target's dtype.
        """
        if not self._has_kernel(target):
            target.copy_(dequantize_4bit(self.packed, self.state).view(self.shape))
            return
        from trainer.decoder.kernels import dequantize_nf4_kernel

        state, nested = self.state, self.state.nested
        blocks = self.shape.numel() // state.blocksize
        inner = state.state2 if nested else state
        # No fused multiply-add: it would round once, bitsandbytes rounds twice.
        dequantize_nf4_kernel[(-(-blocks // BLOCKS_PER_PROGRAM),)](
            self.packed, state.code, state.absmax, inner.code, inner.absmax, state.offset if nested else state.absmax,
            target, blocks, self.shape[1], target.stride(0),
            NESTED=nested, OUTER=inner.blocksize, BLOCKS=BLOCKS_PER_PROGRAM, HALF=state.blocksize // 2,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip

    def _has_kernel(self, target: torch.Tensor) -> bool:
        """Whether the kernel gives bitsandbytes' values: it rounds once, from float32 to the target, so bitsandbytes must not
        use another dtype in between."""
        whole = self.shape.numel() % self.state.blocksize == 0
        return whole and target.is_cuda and self.packed.dtype == torch.uint8 and self.state.dtype == target.dtype
