"""Attention over packs: documents are concatenated in one sequence and do not see each other.

The mask of a pack of documents a and b (rows query, columns key); empty squares are not computed:

        a a a b b
      a x
      a x x
      a x x x
      b       x
      b       x x

transformers passes every attention call to a function registered by name. For a name without a mask function it
builds no T × T mask, and keyword arguments of the model reach that function unchanged. The borders of
the documents are therefore computed once per batch and passed as one argument, `pack`.

Shapes: B batch (always 1), T tokens of the pack, H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from trainer.decoder import elementwise
from trainer.errors import TrainerError

PACKED_ATTENTION = "winnow_packed"
VARLEN_DTYPES = (torch.bfloat16, torch.float16)
VARLEN_HEAD_WIDTH = 256  # maximum head width of the flash kernels behind varlen_attn
KERNEL_WIDTHS = (32, 64, 128)  # head widths that our own kernel supports
KERNEL_ROWS, KERNEL_KEYS, KERNEL_WARPS, KERNEL_STAGES = 64, 32, 4, 3  # of one tile: fastest of those tried on an H100
LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class PackLayout:
    """Borders of the documents of one pack.

    `borders` are the cumulative lengths [0, l0, l0+l1, …] as Python numbers, `cu_seqlens` the same as an int32 tensor
    on the model's device, `longest` the longest document. With both known, no layer has to read a number from the
    device.
    """

    borders: tuple[int, ...]
    cu_seqlens: torch.Tensor
    longest: int
    _tiles: dict[tuple[int, bool], torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def tiles(self, size: int, keys: bool = False) -> torch.Tensor:
        """(tiles, 3) int32 on the device, the tiles of our own kernels (`packed_attention.tiles_of`), made once for all layers."""
        if (size, keys) not in self._tiles:
            from trainer.decoder.packed_attention import tiles_of

            tiles = torch.from_numpy(tiles_of(self.borders, size, keys))
            device = self.cu_seqlens.device
            tiles = tiles.pin_memory() if device.type == "cuda" else tiles
            self._tiles[size, keys] = tiles.to(device, non_blocking=True)
        return self._tiles[size, keys]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    pack: PackLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document, with the signature that transformers calls.

    query is (1, H, T, D), key and value (1, K, T, D) with K dividing H; returns (1, T, H, D) and no weights. A
    `sliding_window` of w lets a token see itself and the w - 1 before it; `softcap` c replaces scores s by c · tanh(s / c). Raises
    TrainerError for unsupported options (a given mask, attention sinks), so that no model is silently computed wrongly.
    """
    _refuse(attention_mask, pack, query, kwargs)
    method = _method(query[0].transpose(0, 1), key[0].transpose(0, 1), pack, softcap)
    if method is not Method.LOOP and dropout:
        raise TrainerError(
            "packs on a GPU have no attention dropout: set attention_dropout to 0 in the model's config.json"
        )
    if method is Method.PACKED:
        from trainer.decoder.packed_attention import Call, PackedAttention

        call = Call(pack, query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
        heads_second = (x[0].transpose(0, 1) for x in (query, key, value))
        return PackedAttention.apply(*heads_second, call)[None], None
    if method is Method.FLASH:
        return _varlen(query, key, value, pack, scaling, sliding_window), None
    return _document_loop(query, key, value, pack, scaling, sliding_window, softcap, dropout), None


def attend(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    out_THD: torch.Tensor,
    pack: PackLayout,
    scale: float,
    window: int | None,
    softcap: float | None = None,
) -> torch.Tensor | None:
    """Write causal attention inside each document to `out_THD`, which may be columns of a wider buffer; returns the further values that
    `attend_backward` needs."""
    method = _method(q_THD, k_TKD, pack, softcap)
    if method is Method.PACKED:
        from trainer.decoder.packed_attention import Call

        return Call(pack, scale, window, softcap).forward(q_THD, k_TKD, v_TKD, out_THD)
    if method is Method.FLASH:
        left = -1 if window is None else window - 1
        attended, log_sums, *_ = torch.ops.aten._flash_attention_forward(
            q_THD, k_TKD, v_TKD, pack.cu_seqlens, pack.cu_seqlens, pack.longest, pack.longest, 0.0, window is None,
            False, scale=scale, window_size_left=left, window_size_right=0,
        )  # fmt: skip
        elementwise.move(attended.flatten(1), out_THD.flatten(1))
        return log_sums
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THD, k_TKD, v_TKD))
    places = out_THD.split([end - start for start, end in pairwise(pack.borders)])
    for place, attended in zip(places, _documents(q, k, v, pack, scale, window, softcap, 0.0), strict=True):
        place.copy_(attended[0].transpose(0, 1))
    return None


def attend_into(
    out: torch.Tensor,
    qkv: torch.Tensor,
    heads: tuple[int, int, int],
    pack: PackLayout,
    first_T: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    scale: float,
    window: int | None,
    softcap: float | None = None,
) -> None:
    """As `attend`, for measuring: nothing is kept, and the result is written to `out` (T, H · D), rows of a wider buffer.

    `qkv` (T, H · D + 2 · K · D) holds q, k and v side by side, k with its rotary embedding and q without; q may be rotated
    in place. `heads` is (H, K, D), `first_T` (T,) int32 the first key that each token sees, `angles` cos and sin (T, R) of the first R
    columns of a head. On a GPU one kernel handles all documents and rotates the queries, for heads that it supports.
    """
    cos_TR, sin_TR = angles
    count, kv_count, width = heads
    groups = count // kv_count
    supported = width in KERNEL_WIDTHS and groups <= KERNEL_ROWS // 16 and cos_TR.shape[1] == width
    if qkv.is_cuda and qkv.dtype in VARLEN_DTYPES and supported:
        from trainer.decoder.attention_kernels import attention_kernel

        padded = 1 << (groups - 1).bit_length()
        queries = KERNEL_ROWS // padded
        attention_kernel[(-(-len(qkv) // queries), kv_count)](
            qkv, first_T, cos_TR, sin_TR, out, qkv.stride(0), out.stride(0), len(qkv), count * width,
            (count + kv_count) * width, scale * LOG2_E, (softcap or 1.0) * LOG2_E, groups,
            CAPPED=softcap is not None, GROUPS=padded, QUERIES=queries, KEYS=KERNEL_KEYS, HALF=width // 2,
            num_warps=KERNEL_WARPS, num_stages=KERNEL_STAGES,
        )  # fmt: skip
        return
    queries = qkv[:, : count * width]
    elementwise.rotate(queries, queries, cos_TR, sin_TR, head_width=width)
    parts = qkv.split([count * width, kv_count * width, kv_count * width], dim=1)
    q, k, v = (part.unflatten(1, (-1, width)) for part in parts)
    attend(q, k, v, out.unflatten(1, (count, width)), pack, scale, window, softcap)


def attend_backward(
    gradient_THD: torch.Tensor,
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    out_THD: torch.Tensor,
    log_sums: torch.Tensor | None,
    into: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    pack: PackLayout,
    scale: float,
    window: int | None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, given the gradient of the result of `attend`: written `into` three tensors like q, k and v, and those
    returned, where `gradients_go_into` says so; otherwise new ones, and `into` is not read."""
    method = _method(q_THD, k_TKD, pack, softcap)
    if method is Method.PACKED:
        from trainer.decoder.packed_attention import Call

        call = Call(pack, scale, window, softcap)
        call.backward(gradient_THD, q_THD, k_TKD, v_TKD, out_THD, log_sums, into)
        return into
    if method is Method.FLASH:
        left = -1 if window is None else window - 1
        nothing = torch.zeros(2, dtype=torch.uint64, device=q_THD.device)  # the state of an unused dropout
        return torch.ops.aten._flash_attention_backward(
            gradient_THD, q_THD, k_TKD, v_TKD, out_THD, log_sums, pack.cu_seqlens, pack.cu_seqlens, pack.longest,
            pack.longest, 0.0, window is None, nothing, nothing, scale=scale, window_size_left=left,
            window_size_right=0,
        )  # fmt: skip
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (q_THD, k_TKD, v_TKD)]
        q, k, v = (x.transpose(0, 1)[None] for x in leaves)
        out = _document_loop(q, k, v, pack, scale, window, softcap, 0.0)[0]
        return torch.autograd.grad(out, leaves, gradient_THD)


def gradients_go_into(q_THD: torch.Tensor, k_TKD: torch.Tensor, pack: PackLayout, softcap: float | None) -> bool:
    """Whether `attend_backward` writes gradients where its caller wants them. Otherwise it makes tensors of its own, next to which a
    buffer of the caller would only add to the peak of memory."""
    return _method(q_THD, k_TKD, pack, softcap) is Method.PACKED


class Method(Enum):
    """How a pack is attended to: by our own kernels, by FlashAttention 2, or one document after another."""

    PACKED = "packed"
    FLASH = "flash"
    LOOP = "loop"


def _method(q_THD: torch.Tensor, k_TKD: torch.Tensor, pack: PackLayout, softcap: float | None) -> Method:
    """The fastest method that computes this on the card. FlashAttention 2 caps no scores. On a CPU, and in float32, only the loop does."""
    if not q_THD.is_cuda or q_THD.dtype not in VARLEN_DTYPES:
        return Method.LOOP
    from trainer.decoder.packed_attention import faster_than_flash, shared_memory, supports

    heads, width = q_THD.shape[1:]
    flash = softcap is None and _has_flash(q_THD)
    if supports(heads, k_TKD.shape[1], width, shared_memory(q_THD.device)) and not (
        flash and not faster_than_flash(width, pack.borders)
    ):
        return Method.PACKED
    return Method.FLASH if flash else Method.LOOP


def _has_flash(query: torch.Tensor) -> bool:
    """Whether the flash kernels support heads like these (…, D) on their card: they need compute capability 8.0."""
    width = query.shape[-1]
    fits = query.dtype in VARLEN_DTYPES and width <= VARLEN_HEAD_WIDTH and width % 8 == 0
    return query.is_cuda and fits and torch.cuda.get_device_capability(query.device)[0] >= 8


def _refuse(mask: torch.Tensor | None, pack: PackLayout | None, query: torch.Tensor, kwargs: dict[str, Any]) -> None:
    if pack is None or mask is not None or query.shape[0] != 1 or query.shape[2] != pack.borders[-1]:
        raise TrainerError(
            "this model is set up for packs: call it through trainer.forward.hidden_states, "
            "or inside trainer.model.plain_attention(model) for padded batches and generation"
        )
    for name in ("s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise TrainerError(f"packed attention does not support '{name}'")


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pack: PackLayout,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    groups = query.shape[1] // key.shape[1]
    # torch 2.11 has no enable_gqa here, so key and value heads are repeated.
    q_THD, k_THD, v_THD = (x[0].transpose(0, 1) for x in (query, _repeat(key, groups), _repeat(value, groups)))
    left = -1 if window is None else window - 1
    borders, longest = pack.cu_seqlens, pack.longest
    return varlen_attn(
        q_THD.contiguous(),
        k_THD.contiguous(),
        v_THD.contiguous(),
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(left, 0),
    )[None]


def _repeat(x_BKTD: torch.Tensor, groups: int) -> torch.Tensor:
    return x_BKTD if groups == 1 else x_BKTD.repeat_interleave(groups, dim=1)


def _document_loop(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pack: PackLayout,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    dropout: float,
) -> torch.Tensor:
    documents = _documents(query, key, value, pack, scaling, window, softcap, dropout)
    return torch.cat([document.transpose(1, 2) for document in documents], dim=1)


def _documents(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pack: PackLayout,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    dropout: float,
) -> Iterator[torch.Tensor]:
    """Attention of each document alone, (1, H, length, D)."""
    grouped = query.shape[1] != key.shape[1]
    lengths = [end - start for start, end in pairwise(pack.borders)]
    # split, not slices: the backward pass of a slice fills a tensor of the whole pack for each document.
    documents = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    for length, (q, k, v) in zip(lengths, documents, strict=True):
        if softcap is not None:
            seen = _window_mask(length, min(window or length, length), query.device)
            yield softcapped_attention(q, k, v, seen, scaling or q.shape[-1] ** -0.5, softcap, dropout)
            continue
        windowed = window is not None and length > window
        yield F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_window_mask(length, window, query.device) if windowed else None,
            dropout_p=dropout,
            is_causal=not windowed,
            scale=scaling,
            enable_gqa=grouped,
        )


def softcapped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor | None,
    scale: float,
    softcap: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention with scores softcap · tanh(scale · q·k / softcap), rounded as in transformers' eager form (Gemma 2, arXiv 2408.00118).

    query (B, H, Q, D), key and value (B, K, N, D) with K dividing H; `seen` (Q, N) bool, None: every key. Returns (B, H, Q, D).
    """
    grouped = query.unflatten(1, (key.shape[1], -1))
    scores = torch.matmul(grouped, key[:, :, None].transpose(-1, -2)) * scale
    scores = torch.tanh(scores / softcap) * softcap
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout)
    return torch.matmul(weights, value[:, :, None]).flatten(1, 2)


@lru_cache(maxsize=16)
def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """(length, length) bool: query i sees key j if i - window < j <= i."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window)


def register() -> None:
    """Register `packed_attention` with transformers as PACKED_ATTENTION. Idempotent."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
