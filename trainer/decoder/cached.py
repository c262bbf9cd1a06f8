"""Attention over a key/value cache: prompts fill it as a pack, then each sequence grows by one token a pass.

One flat cache serves all sequences. Each has a span of rows, its prompt and then room for its answer:

    row     0         5       9                18
            a a a a . │ b b . │ c c c c c c . . │ free        a sequence's place n is row begin + n of the cache

A row holds the rotated keys of a token, then its values, for one layer. S sequences, C rows, W = 2 · K · D columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.attention import LOG2_E, softcapped_attention
from trainer.decoder import elementwise
from trainer.decoder.layer import Layer, Pass, WithinDocuments, no_angles

KERNEL_WIDTHS = (32, 64, 128, 256)
KERNEL_KEYS = 64
NO_WINDOW = 1 << 30


def new_cache(layers: Sequence[Layer], rows: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An empty cache (layers, rows + 1, W). The last row is nobody's: padding of a batch writes there."""
    return torch.zeros(len(layers), rows + 1, 2 * layers[0].kv_width, dtype=dtype, device=device)


def row_bytes(layers: Sequence[Layer], dtype: torch.dtype) -> int:
    """Bytes of one token in the cache."""
    return len(layers) * 2 * layers[0].kv_width * dtype.itemsize


@dataclass(frozen=True)
class IntoCache:
    """Attention inside each document of a pack that also copies rows `source` (n,) of keys and values to rows `target` (n,) of the
    cache."""

    within: WithinDocuments
    cache: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor

    def __call__(self, layer: Layer, run: Pass, qkv: torch.Tensor, out: torch.Tensor) -> None:
        """See trainer.decoder.layer.Attention."""
        self.within(layer, run, qkv, out)
        self.cache[layer.index].index_copy_(0, self.target, qkv[:, layer.q_width :].index_select(0, self.source))


@dataclass(frozen=True)
class FromCache:
    """Attention of the newest token of each sequence, which is stored in the cache.

    begins, places (S,) int64: first row of each span, and place of the newest token in it; `host` the same as Python numbers, which
    only the path without a kernel needs.
    """

    cache: torch.Tensor
    begins: torch.Tensor
    places: torch.Tensor
    host: Sequence[tuple[int, int]]

    def __call__(self, layer: Layer, run: Pass, qkv: torch.Tensor, out: torch.Tensor) -> None:
        """See trainer.decoder.layer.Attention."""
        rows = self.cache[layer.index]
        rotated = qkv[:, : layer.q_width + layer.kv_width]
        cos, sin = run.angles[layer.rope]
        if has_kernel(layer, qkv):
            from trainer.decoder.attention_kernels import cached_attention_kernel

            if cos.shape[1] < layer.head_width:  # the kernel rotates whole heads: here by nothing
                elementwise.rotate(rotated, rotated, cos, sin, head_width=layer.head_width)
                cos, sin = no_angles(len(qkv), layer.head_width, qkv)
            groups = layer.heads // layer.kv_heads
            cached_attention_kernel[(len(qkv), layer.kv_heads)](
                qkv, cos, sin, rows, self.begins, self.places, out, qkv.stride(0), rows.stride(0), out.stride(0),
                layer.q_width, layer.q_width + layer.kv_width, layer.scale * LOG2_E, (layer.softcap or 1.0) * LOG2_E, groups,
                layer.window or NO_WINDOW, CAPPED=layer.softcap is not None,
                GROUPS=max(16, 1 << (groups - 1).bit_length()), KEYS=KERNEL_KEYS, HALF=layer.head_width // 2, num_warps=4,
            )  # fmt: skip
            return
        elementwise.rotate(rotated, rotated, cos, sin, head_width=layer.head_width)
        rows.index_copy_(0, self.begins + self.places, qkv[:, layer.q_width :])
        queries = qkv[:, : layer.q_width].view(len(qkv), layer.heads, 1, layer.head_width)
        for i, (begin, place) in enumerate(self.host):
            first = 0 if layer.window is None else max(0, place - layer.window + 1)
            seen = rows[begin + first : begin + place + 1].unflatten(1, (2, layer.kv_heads, layer.head_width))
            keys, values = seen.permute(1, 2, 0, 3)
            if layer.softcap is not None:
                attended = softcapped_attention(
                    queries[i][None], keys[None], values[None], None, layer.scale, layer.softcap
                )
            else:
                grouped = layer.heads != layer.kv_heads
                attended = F.scaled_dot_product_attention(
                    queries[i], keys, values, scale=layer.scale, enable_gqa=grouped
                )
            out[i].copy_(attended.flatten())


def has_kernel(layer: Layer, tensor: torch.Tensor) -> bool:
    """Whether a kernel attends for all sequences at once: on a GPU, for the usual head widths."""
    return tensor.is_cuda and layer.head_width in KERNEL_WIDTHS
