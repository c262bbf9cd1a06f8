"""Attention inside each document of a pack by our own Triton kernels, forward and backward; packed_attention_kernels.py has the method.

FlashAttention 2 has tiles of 128 × 128 tokens: for documents of 220 tokens it computes 3.5 times the scores that are needed. Its backward
pass writes the gradients of keys for every query head, and adds with atomics, so that two runs differ. These kernels have smaller tiles,
one program for all query heads of a key head, and sums in a fixed order.

Shapes: T tokens, H query heads, K key/value heads, D head width, G = H / K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from trainer.decoder import packed_attention_kernels
from trainer.decoder.packed_attention_kernels import forward_kernel, key_gradient_kernel, query_gradient_kernel

LOG2_E = 1.4426950408889634
ALIGN = packed_attention_kernels.ALIGN.value
"""Strides of rows, and head widths, are multiples of this many values."""


@dataclass(frozen=True)
class Tiling:
    """Size of a tile: `rows` queries × heads, `keys`; warps and pipeline stages of its program."""

    rows: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tilings:
    """Of the three kernels: forward, gradient of queries, gradients of keys and values."""

    forward: Tiling
    queries: Tiling
    keys: Tiling

    def shared_bytes(self, head: int) -> int:
        """Shared memory of a block of the largest of the three for heads of `head` columns of 16 bits: what Triton takes on Ampere, Ada and
        consumer Blackwell (sm_80 to 89 and 120), or up to 16 KiB more. It takes more on Hopper and the B200, up to 213,040 bytes for
        the widest heads of TILINGS, but a block may have 232,448 there.
        """
        forward, queries, keys = self.forward, self.queries, self.keys
        held = (  # rows that stay, rows that are read ahead, numbers of each row read ahead
            (forward, forward.rows, 2 * forward.keys, 0),
            (queries, 2 * queries.rows, 2 * queries.keys, 0),
            (keys, 2 * keys.keys, 2 * keys.rows, 4 * keys.rows),
        )
        return max(
            2 * head * (stay + max(t.stages - 1, 1) * ahead) + 2 * t.rows * t.keys + 2 * max(t.stages - 1, 1) * numbers
            for t, stay, ahead, numbers in held
        )


TILINGS = {
    64: Tilings(Tiling(128, 64, 8, 2), Tiling(64, 64, 4, 3), Tiling(64, 64, 4, 2)),
    128: Tilings(Tiling(64, 64, 4, 3), Tiling(64, 32, 4, 3), Tiling(32, 64, 4, 2)),
    256: Tilings(Tiling(128, 64, 8, 2), Tiling(128, 32, 8, 2), Tiling(32, 64, 8, 2)),
}
"""By head width, rounded up to a power of two. benchmarks/attention_speed.py measures them."""
SMALLER = {
    256: (
        Tilings(Tiling(128, 64, 8, 2), Tiling(64, 32, 8, 2), Tiling(32, 64, 8, 2)),
        Tilings(Tiling(64, 32, 4, 2), Tiling(32, 32, 4, 2), Tiling(16, 32, 4, 2)),
    )
}
"""For cards whose blocks have too little shared memory for those of TILINGS: the A100's (166,912 bytes), then RTX 30's and 40's (101,376).
Chosen by what fits; not timed, because we have run on none of these cards."""
FLASH_FROM = {64: 675, 128: 16384, 256: 3087}
"""Mean length of documents, weighted by their tokens, from which FlashAttention 2 is faster; by head width as in TILINGS."""


class Pack(Protocol):
    """The part of trainer.attention.PackLayout that the kernels need."""

    borders: tuple[int, ...]
    longest: int

    def tiles(self, size: int, keys: bool = False) -> torch.Tensor:
        """(tiles, 3) int32 on the device, see `tiles_of`."""
        ...


def padded(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def head_of(width: int) -> int:
    """The columns that the kernels compute for heads of `width`: a key of TILINGS, if they support it."""
    return max(padded(width), min(TILINGS))


@lru_cache
def shared_memory(device: torch.device) -> int | None:
    """Bytes of shared memory that a block may have on `device`; None where it is unlimited, in Triton's interpreter on a CPU."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)


def tilings_of(head: int, shared: int | None) -> Tilings | None:
    """The tiles in use for `head` columns, a key of TILINGS, where a block may have `shared` bytes (None: unlimited). None if none fit."""
    choices = (TILINGS[head], *SMALLER.get(head, ()))
    return next((tilings for tilings in choices if shared is None or tilings.shared_bytes(head) <= shared), None)


def supports(heads: int, kv_heads: int, width: int, shared: int | None = None) -> bool:
    """Whether the kernels compute heads like these on a card with `shared` bytes for a block (None: unlimited): a width up to 256 that is a
    multiple of 8, tiles that fit, and no more query heads for a key head than a tile has rows."""
    head = head_of(width)
    if head not in TILINGS or width % ALIGN:
        return False
    tilings = tilings_of(head, shared)
    return tilings is not None and padded(heads // kv_heads) <= min(
        tilings.forward.rows, tilings.queries.rows, tilings.keys.rows
    )


def faster_than_flash(width: int, borders: Sequence[int]) -> bool:
    """Whether these kernels are faster than FlashAttention 2 for documents with these `borders`, by FLASH_FROM.

    Work grows with the squares of lengths, so the mean is that of the document in which a token stands: one long document
    among many short ones counts as what it costs.
    """
    lengths = np.diff(borders).astype(np.float64)
    return (lengths**2).sum() < FLASH_FROM[head_of(width)] * lengths.sum()


def tiles_of(borders: Sequence[int], size: int, keys: bool = False) -> np.ndarray:
    """(tiles, 3) int32: begin and end of the document and first token of every tile of `size` tokens, none of which spans two
    documents. Those with most work come first: queries at a document's end, `keys` at its beginning."""
    borders = np.asarray(borders, dtype=np.int64)
    lengths = np.diff(borders)
    counts = -(-lengths // size)
    documents = np.repeat(np.arange(len(lengths)), counts)
    begin, end = borders[:-1][documents], borders[1:][documents]
    first = begin + size * (np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts))
    work = end - first if keys else np.minimum(first + size, end) - begin
    return np.stack([begin, end, first], axis=1)[np.argsort(-work, kind="stable")].astype(np.int32)


@dataclass(frozen=True)
class Call:
    """One attention over a pack: `scale` of scores; a `window` of w shows a token itself and the w - 1 before it; `softcap` c replaces
    scores s by c · tanh(s / c). `tilings`: others than those of `tilings_of`, for measuring."""

    pack: Pack
    scale: float
    window: int | None = None
    softcap: float | None = None
    tilings: Tilings | None = None

    def forward(
        self, q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, out_THD: torch.Tensor
    ) -> torch.Tensor:
        """Write what queries attend to into `out_THD`, which may be columns of a wider buffer as the inputs may; returns the base-2
        log-sum-exp of the scores, (T, H) float32."""
        q, k, v, out = (_aligned(x) for x in (q_THD, k_TKD, v_TKD, out_THD))
        log_sums_TH = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        tiling, groups = self._tilings(q).forward, padded(q.shape[1] // k.shape[1])
        tiles = self.pack.tiles(tiling.rows // groups)
        forward_kernel[(len(tiles), k.shape[1])](
            q, k, v, out, log_sums_TH, tiles, *_strides(q, k, v, out), *self._numbers(q, k),
            **self._constants(q, groups, tiling),
        )  # fmt: skip
        _give_back(out, out_THD)
        return log_sums_TH

    def backward(
        self,
        gradient_THD: torch.Tensor,
        q_THD: torch.Tensor,
        k_TKD: torch.Tensor,
        v_TKD: torch.Tensor,
        out_THD: torch.Tensor,
        log_sums_TH: torch.Tensor,
        into: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> None:
        """Write the gradients of q, k and v to `into`, given that of the result of `forward`, the result and its log-sum-exp."""
        dq_THD, dk_TKD, dv_TKD = into
        deltas_TH = self.query_gradient(gradient_THD, q_THD, k_TKD, v_TKD, out_THD, log_sums_TH, dq_THD)
        self.key_gradient(gradient_THD, q_THD, k_TKD, v_TKD, log_sums_TH, deltas_TH, dk_TKD, dv_TKD)

    def query_gradient(
        self,
        gradient_THD: torch.Tensor,
        q_THD: torch.Tensor,
        k_TKD: torch.Tensor,
        v_TKD: torch.Tensor,
        out_THD: torch.Tensor,
        log_sums_TH: torch.Tensor,
        dq_THD: torch.Tensor,
    ) -> torch.Tensor:
        """Write the gradient of q; returns the sums over D of out · its gradient, (T, H) float32, for `key_gradient`."""
        inputs = [_aligned(x) for x in (q_THD, k_TKD, v_TKD, out_THD, gradient_THD)]
        q, k, dq = inputs[0], inputs[1], _aligned(dq_THD)
        deltas_TH = torch.empty_like(log_sums_TH)
        tiling, groups = self._tilings(q).queries, padded(q.shape[1] // k.shape[1])
        tiles = self.pack.tiles(tiling.rows // groups)
        query_gradient_kernel[(len(tiles), k.shape[1])](
            *inputs, log_sums_TH, deltas_TH, dq, tiles, *_strides(*inputs, dq), *self._numbers(q, k),
            self.scale, **self._constants(q, groups, tiling),
        )  # fmt: skip
        _give_back(dq, dq_THD)
        return deltas_TH

    def key_gradient(
        self,
        gradient_THD: torch.Tensor,
        q_THD: torch.Tensor,
        k_TKD: torch.Tensor,
        v_TKD: torch.Tensor,
        log_sums_TH: torch.Tensor,
        deltas_TH: torch.Tensor,
        dk_TKD: torch.Tensor,
        dv_TKD: torch.Tensor,
    ) -> None:
        """Write the gradients of k and v, given what `query_gradient` returned."""
        inputs = [_aligned(x) for x in (q_THD, k_TKD, v_TKD, gradient_THD)]
        q, k, dk, dv = inputs[0], inputs[1], _aligned(dk_TKD), _aligned(dv_TKD)
        tiling, groups = self._tilings(q).keys, padded(q.shape[1] // k.shape[1])
        tiles = self.pack.tiles(tiling.keys, keys=True)
        key_gradient_kernel[(len(tiles), k.shape[1])](
            *inputs, log_sums_TH, deltas_TH, dk, dv, tiles, *_strides(*inputs, dk, dv),
            *self._numbers(q, k), self.scale, **self._constants(q, groups, tiling),
        )  # fmt: skip
        _give_back(dk, dk_TKD)
        _give_back(dv, dv_TKD)

    def _tilings(self, q_THD: torch.Tensor) -> Tilings:
        return self.tilings or tilings_of(head_of(q_THD.shape[2]), shared_memory(q_THD.device))

    def _numbers(self, q_THD: torch.Tensor, k_TKD: torch.Tensor) -> tuple[float, ...]:
        heads, kv_heads = q_THD.shape[1], k_TKD.shape[1]
        capped = (1.0 if self.softcap is None else self.softcap) * LOG2_E
        return heads, heads // kv_heads, self.window or 0, self.scale * LOG2_E, capped

    def _constants(self, q_THD: torch.Tensor, groups: int, tiling: Tiling) -> dict[str, int | bool]:
        width = q_THD.shape[2]
        return {
            "CAPPED": self.softcap is not None, "WINDOWED": self.window is not None and self.window < self.pack.longest,
            "GROUPS": groups, "ROWS": tiling.rows, "KEYS": tiling.keys, "WIDTH": width, "HEAD": head_of(width),
            "num_warps": tiling.warps, "num_stages": tiling.stages,
        }  # fmt: skip


def _aligned(x_THD: torch.Tensor) -> torch.Tensor:
    """The tensor, or a new one like it if the kernels cannot read its rows."""
    heads_side_by_side = x_THD.stride(2) == 1 and (x_THD.shape[1] == 1 or x_THD.stride(1) == x_THD.shape[2])
    return x_THD if heads_side_by_side and x_THD.stride(0) % ALIGN == 0 else x_THD.contiguous()


def _strides(*tensors: torch.Tensor) -> tuple[int, ...]:
    """Of rows, in the kernels' units."""
    return tuple(x.stride(0) // ALIGN for x in tensors)


def _give_back(made: torch.Tensor, wanted: torch.Tensor) -> None:
    """Copy a result that could not be written where it is `wanted`."""
    if made is not wanted:
        wanted.copy_(made)


class PackedAttention(torch.autograd.Function):
    """`Call` for autograd: apply(q (T, H, D), k, v (T, K, D), call) is (T, H, D)."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: Call) -> torch.Tensor:
        """What queries attend to."""
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        ctx.save_for_backward(q, k, v, out, call.forward(q, k, v, out))
        ctx.call = call
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of q, k and v."""
        q, k, v, out, log_sums = ctx.saved_tensors
        into = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        ctx.call.backward(gradient, q, k, v, out, log_sums, into)
        return *into, None
