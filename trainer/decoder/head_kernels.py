"""Triton kernels of heads side by side: rotary embeddings, and the norms of q and k that some models have before them.

Conventions as in kernels.py. A program has one token with all its heads, so that short heads (64 to 256 columns) keep it busy.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.decoder.kernels import Pointer, Scalar


@triton.jit
def rotate_kernel(
    source: Pointer, target: Pointer, cos: Pointer, sin: Pointer, source_stride: Scalar, target_stride: Scalar, heads: Scalar,
    half: Scalar, head_width: Scalar, INVERSE: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
) -> None:  # fmt: skip
    """One token: rotary embedding of the first 2 · half columns of all its heads. Reads both halves before writing, so target may be
    source."""
    token = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (column < half)
    place = head * head_width + column
    first = tl.load(source + token * source_stride + place, mask=inside, other=0.0)
    second = tl.load(source + token * source_stride + place + half, mask=inside, other=0.0)
    dtype = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    angle, there = token * (2 * half) + column, column < half
    cos_1 = tl.load(cos + angle, mask=there, other=0.0).to(tl.float32)
    cos_2 = tl.load(cos + angle + half, mask=there, other=0.0).to(tl.float32)
    sin_1 = tl.load(sin + angle, mask=there, other=0.0).to(tl.float32)
    sin_2 = tl.load(sin + angle + half, mask=there, other=0.0).to(tl.float32)
    if INVERSE:
        new_first, new_second = first * cos_1 + second * sin_2, second * cos_2 - first * sin_1
    else:
        new_first, new_second = first * cos_1 - second * sin_1, second * cos_2 + first * sin_2
    tl.store(target + token * target_stride + place, new_first.to(dtype), mask=inside)
    tl.store(target + token * target_stride + place + half, new_second.to(dtype), mask=inside)


@triton.jit
def _mean(values: Scalar, heads: Scalar, half: Scalar, WHOLE: tl.constexpr) -> Scalar:
    """Of each head (HEADS, 1), or of all heads together (WHOLE), whose two halves `values` (HEADS, HALF) has summed."""
    if WHOLE:
        mean = tl.sum(values) / (heads * 2 * half)
    else:
        mean = (tl.sum(values, axis=1) / (2 * half))[:, None]
    return mean


@triton.jit
def norm_rotate_kernel(
    source: Pointer, raw: Pointer, weight: Pointer, cos: Pointer, sin: Pointer, source_stride: Scalar, raw_stride: Scalar,
    heads: Scalar, half: Scalar, eps: Scalar, WHOLE: tl.constexpr, RAW: tl.constexpr, ROTATE: tl.constexpr,
    HEADS: tl.constexpr, HALF: tl.constexpr,
) -> None:  # fmt: skip
    """One token, in place: RMSNorm of each head or of all together (WHOLE), then the rotary embedding (ROTATE). `raw` receives what it
    was before (RAW)."""
    token = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside, there = (head < heads) & (column < half), column < half
    place = head * (2 * half) + column
    at = source + token * source_stride + place
    first, second = tl.load(at, mask=inside, other=0.0), tl.load(at + half, mask=inside, other=0.0)
    dtype = first.dtype
    if RAW:
        kept = raw + token * raw_stride + place
        tl.store(kept, first, mask=inside)
        tl.store(kept + half, second, mask=inside)
    first, second = first.to(tl.float32), second.to(tl.float32)
    scale = tl.rsqrt(_mean(first * first + second * second, heads, half, WHOLE) + eps)
    if WHOLE:
        factors, known = weight + place, inside
    else:
        factors, known = weight + column, there
    factor = tl.load(factors, mask=known, other=0.0)
    first = ((first * scale).to(factor.dtype).to(tl.float32) * factor.to(tl.float32)).to(dtype)
    factor = tl.load(factors + half, mask=known, other=0.0)
    second = ((second * scale).to(factor.dtype).to(tl.float32) * factor.to(tl.float32)).to(dtype)
    if ROTATE:
        first, second = first.to(tl.float32), second.to(tl.float32)
        angle = token * (2 * half) + column
        turned = first * tl.load(cos + angle, mask=there, other=0.0).to(tl.float32)
        turned -= second * tl.load(sin + angle, mask=there, other=0.0).to(tl.float32)
        second *= tl.load(cos + angle + half, mask=there, other=0.0).to(tl.float32)
        second += first * tl.load(sin + angle + half, mask=there, other=0.0).to(tl.float32)
        first = turned
    tl.store(at, first.to(dtype), mask=inside)
    tl.store(at + half, second.to(dtype), mask=inside)


@triton.jit
def norm_rotate_backward_kernel(
    gradient: Pointer, raw: Pointer, weight: Pointer, cos: Pointer, sin: Pointer, out: Pointer, gradient_stride: Scalar,
    raw_stride: Scalar, out_stride: Scalar, heads: Scalar, half: Scalar, eps: Scalar, WHOLE: tl.constexpr, ROTATE: tl.constexpr,
    HEADS: tl.constexpr, HALF: tl.constexpr,
) -> None:  # fmt: skip
    """One token: gradient with respect to `raw` of norm_rotate_kernel. Reads everything before it writes, so out may be gradient."""
    token = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside, there = (head < heads) & (column < half), column < half
    place = head * (2 * half) + column
    at = gradient + token * gradient_stride + place
    above_1, above_2 = tl.load(at, mask=inside, other=0.0), tl.load(at + half, mask=inside, other=0.0)
    dtype = above_1.dtype
    above_1, above_2 = above_1.to(tl.float32), above_2.to(tl.float32)
    if ROTATE:
        angle = token * (2 * half) + column
        turned = above_1 * tl.load(cos + angle, mask=there, other=0.0).to(tl.float32)
        turned += above_2 * tl.load(sin + angle + half, mask=there, other=0.0).to(tl.float32)
        above_2 *= tl.load(cos + angle + half, mask=there, other=0.0).to(tl.float32)
        above_2 -= above_1 * tl.load(sin + angle, mask=there, other=0.0).to(tl.float32)
        above_1, above_2 = turned.to(dtype).to(tl.float32), above_2.to(dtype).to(tl.float32)
    before = raw + token * raw_stride + place
    first = tl.load(before, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(before + half, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(_mean(first * first + second * second, heads, half, WHOLE) + eps)
    first, second = first * scale, second * scale
    if WHOLE:
        factors, known = weight + place, inside
    else:
        factors, known = weight + column, there
    above_1 *= tl.load(factors, mask=known, other=0.0).to(tl.float32)
    above_2 *= tl.load(factors + half, mask=known, other=0.0).to(tl.float32)
    mean = _mean(above_1 * first + above_2 * second, heads, half, WHOLE)
    to = out + token * out_stride + place
    tl.store(to, (scale * (above_1 - first * mean)).to(dtype), mask=inside)
    tl.store(to + half, (scale * (above_2 - second * mean)).to(dtype), mask=inside)
