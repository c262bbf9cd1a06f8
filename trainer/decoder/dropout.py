"""LoRA's dropout without stored masks: whether an element is dropped is a function of where it is.

    element (token, column) of a layer's input is kept  ⇔  16 random bits ≥ rate · 2¹⁶
    bits = lane of pcg4d(call, place of the token in its pack, low word of the pack's seed ^ site, high word of it)

pcg4d (Jarzynski and Olano, Hash Functions for GPU Rendering, JCGT 9(3), 2020) makes four words of 32 bits from four. A call makes
the bits of eight elements, LANE columns apart, so that a GPU reads whole lines:

    columns   0 … 63   64 … 127   …   448 … 511 | 512 …
    call      0 … 63    0 …  63         0 …  63 |  64 …
    bits      word 0,    word 0,        word 3, |
              low half   high half      high    |

So the backward pass computes the mask again instead of reading it, nothing depends on which packs share a forward pass, and every
input is read once. A mask that is drawn, kept and read moves 38 bytes for each element of an input in bfloat16; this moves 12. On a
CPU it takes less than half as long as torch's generator. On a GPU these are the kernels of dropout_kernels.py, with the same masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

LANE, LANES = 64, 8
LEVELS = 2**16
ROWS, ROWS_OF_PRODUCT, INNER, WARPS = 32, 64, 64, 8
MULTIPLIER, INCREMENT = 1664525, 1013904223
"""Constants of pcg4d's first step, the linear congruential generator of Numerical Recipes."""


@dataclass(frozen=True)
class Keys:
    """What masks are computed from: `words_3T` (3, T) int32 of each token: its place in its pack, low and high word of the pack's seed."""

    words_3T: torch.Tensor

    @classmethod
    def of(cls, packs: Sequence[tuple[int, int]], device: torch.device) -> Keys:
        """For concatenated packs of (tokens, 63-bit seed)."""
        tokens, seeds = (np.array(values, dtype=np.int64) for values in zip(*packs, strict=True))
        places = np.arange(tokens.sum()) - np.repeat(np.cumsum(tokens) - tokens, tokens)
        low, high = (np.repeat(part, tokens) for part in (seeds & 0xFFFFFFFF, seeds >> 32))
        words = torch.from_numpy(np.stack([places, low, high]).astype(np.uint32).view(np.int32))
        return cls((words.pin_memory() if device.type == "cuda" else words).to(device, non_blocking=True))


@dataclass(frozen=True)
class Dropout:
    """Dropout of one input of one layer in one pass, applied to what only LoRA reads. `site`: the number of the input in the model.

    `rate` is rounded to 2⁻¹⁶. What is kept is scaled by 1 / (1 - rate), so the expectation is exact.
    """

    keys: Keys
    site: int
    rate: float

    @property
    def threshold(self) -> int:
        """Values of 16 bits from which on an element is kept."""
        return round(self.rate * LEVELS)

    @property
    def scale(self) -> float:
        """Factor of what is kept."""
        return LEVELS / (LEVELS - self.threshold)

    def keep(self, width: int) -> torch.Tensor:
        """(T, width) bool: the elements that are kept. In plain torch, on any device."""
        place_T, low_T, high_T = self.keys.words_3T
        groups = -(-width // (LANE * LANES))
        call = torch.arange(groups * LANE, dtype=torch.int32, device=place_T.device)
        words = pcg4d(call[None], place_T[:, None], (low_T ^ self.site)[:, None], high_T[:, None])
        kept = torch.empty(len(place_T), groups, LANES, LANE, dtype=torch.bool, device=place_T.device)
        for number, word in enumerate(words):
            word = word.view(len(place_T), groups, LANE)
            kept[:, :, 2 * number] = (word & 0xFFFF) >= self.threshold
            kept[:, :, 2 * number + 1] = ((word >> 16) & 0xFFFF) >= self.threshold
        return kept.view(len(place_T), -1)[:, :width]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`x` (T, in), rows of a wider buffer, with elements dropped and the others scaled; a new tensor."""
        rows, width = x.shape
        if not _by_kernels(x):
            return torch.where(self.keep(width), x.float() * self.scale, 0.0).to(x.dtype)
        from trainer.decoder.dropout_kernels import dropout_kernel

        out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
        dropout_kernel[(-(-rows // ROWS), -(-width // (LANE * LANES)))](
            x, out, self.keys.words_3T, x.stride(0), rows, width, self.site, self.threshold, self.scale,
            ROWS=ROWS, LANE=LANE, LANES=LANES, num_warps=WARPS,
        )  # fmt: skip
        return out

    def add_product(self, out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Add left (T, r) @ right (r, in), with dropout, to `out` (T, in) in place; all may be rows of wider buffers. Returns `out`."""
        rows, width = out.shape
        if not _by_kernels(out):
            return out.add_(self(left @ right))
        from trainer.decoder.dropout_kernels import add_dropped_product_kernel

        add_dropped_product_kernel[(-(-rows // ROWS_OF_PRODUCT), -(-width // (2 * LANE)))](
            out, left, right, self.keys.words_3T, out.stride(0), left.stride(0), right.stride(0), rows, width, left.shape[1],
            self.site, self.threshold, self.scale, ROWS=ROWS_OF_PRODUCT, LANE=LANE, LANES=LANES, INNER=INNER, num_warps=WARPS, num_stages=2,
        )  # fmt: skip
        return out


def _by_kernels(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda


def pcg4d(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Four int32 tensors, whose bits are uniform, from four that broadcast to one shape."""
    x, y, z, w = (word * MULTIPLIER + INCREMENT for word in torch.broadcast_tensors(*inputs))
    for last in (False, True):
        x += y * w
        y += z * x
        z += x * y
        w += y * z
        if not last:
            for word in (x, y, z, w):
                word ^= (word >> 16) & 0xFFFF
    return x, y, z, w
