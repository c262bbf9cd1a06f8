"""Triton kernels of heads side by side: rotary embeddings, and the norms of q and k that some models have before them.

Conventions as in kernels.py. A program has one token with all its heads, so that short heads (64 to 256 columns) keep it busy.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.decoder.kernels import Pointer, Scalar


@triton.jit
def _halves(start: Pointer, place: Scalar, half: Scalar, inside: Scalar) -> tuple[Scalar, Scalar]:
    """The values at `place`, and those `half` columns on."""
    at = start + place
    return tl.load(at, mask=inside, other=0.0), tl.load(at + half, mask=inside, other=0.0)


@triton.jit
def _rotated(
    first: Scalar, second: Scalar, cos: Pointer, sin: Pointer, angle: Scalar, half: Scalar, there: Scalar, INVERSE: tl.constexpr,
) -> tuple[Scalar, Scalar]:  # fmt: skip
    """Both halves of heads, float32, rotated one against the other."""
    cos_1, cos_2 = _halves(cos, angle, half, there)
    sin_1, sin_2 = _halves(sin, angle, half, there)
    cos_1, cos_2, sin_1, sin_2 = cos_1.to(tl.float32), cos_2.to(tl.float32), sin_1.to(tl.float32), sin_2.to(tl.float32)
    if INVERSE:
        new_first, new_second = first * cos_1 + second * sin_2, second * cos_2 - first * sin_1
    else:
        new_first, new_second = first * cos_1 - second * sin_1, second * cos_2 + first * sin_2
    return new_first, new_second


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
    first, second = _halves(source + token * source_stride, place, half, inside)
    dtype = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    new_first, new_second = _rotated(first, second, cos, sin, token * (2 * half) + column, half, column < half, INVERSE)
    tl.store(target + token * target_stride + place, new_first.to(dtype), mask=inside)
    tl.store(target + token * target_stride + place + half, new_second.to(dtype), mask=inside)


@triton.jit
def _of_weight(
    weight: Pointer, place: Scalar, column: Scalar, half: Scalar, inside: Scalar, there: Scalar, WHOLE: tl.constexpr,
) -> tuple[Scalar, Scalar]:  # fmt: skip
    """The norm's weight at both halves: of a head, the same for every one, or of all heads (WHOLE)."""
    if WHOLE:
        factors = _halves(weight, place, half, inside)
    else:
        factors = _halves(weight, column, half, there)
    return factors


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
    start = source + token * source_stride
    first, second = _halves(start, place, half, inside)
    dtype = first.dtype
    if RAW:
        kept = raw + token * raw_stride + place
        tl.store(kept, first, mask=inside)
        tl.store(kept + half, second, mask=inside)
    first, second = first.to(tl.float32), second.to(tl.float32)
    scale = tl.rsqrt(_mean(first * first + second * second, heads, half, WHOLE) + eps)
    factor_1, factor_2 = _of_weight(weight, place, column, half, inside, there, WHOLE)
    first = ((first * scale).to(factor_1.dtype).to(tl.float32) * factor_1.to(tl.float32)).to(dtype)
    second = ((second * scale).to(factor_2.dtype).to(tl.float32) * factor_2.to(tl.float32)).to(dtype)
    if ROTATE:
        first, second = first.to(tl.float32), second.to(tl.float32)
        first, second = _rotated(first, second, cos, sin, token * (2 * half) + column, half, there, False)
    tl.store(start + place, first.to(dtype), mask=inside)
    tl.store(start + place + half, second.to(dtype), mask=inside)


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
    above_1, above_2 = _halves(gradient + token * gradient_stride, place, half, inside)
    dtype = above_1.dtype
    above_1, above_2 = above_1.to(tl.float32), above_2.to(tl.float32)
    if ROTATE:
        above_1, above_2 = _rotated(above_1, above_2, cos, sin, token * (2 * half) + column, half, there, True)
        above_1, above_2 = above_1.to(dtype).to(tl.float32), above_2.to(dtype).to(tl.float32)
    first, second = _halves(raw + token * raw_stride, place, half, inside)
    first, second = first.to(tl.float32), second.to(tl.float32)
    scale = tl.rsqrt(_mean(first * first + second * second, heads, half, WHOLE) + eps)
    first, second = first * scale, second * scale
    factor_1, factor_2 = _of_weight(weight, place, column, half, inside, there, WHOLE)
    above_1, above_2 = above_1 * factor_1.to(tl.float32), above_2 * factor_2.to(tl.float32)
    mean = _mean(above_1 * first + above_2 * second, heads, half, WHOLE)
    to = out + token * out_stride + place
    tl.store(to, (scale * (above_1 - first * mean)).to(dtype), mask=inside)
    tl.store(to + half, (scale * (above_2 - second * mean)).to(dtype), mask=inside)
