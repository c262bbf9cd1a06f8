"""Triton kernels behind dropout.py. Masks are computed where they are applied, from the same bits as in plain torch."""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.decoder.kernels import Pointer, Scalar


@triton.jit
def _pcg4d(x: Scalar, y: Scalar, z: Scalar, w: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Four words of 32 bits from four; see dropout.py."""
    x = x * 1664525 + 1013904223
    y = y * 1664525 + 1013904223
    z = z * 1664525 + 1013904223
    w = w * 1664525 + 1013904223
    x += y * w
    y += z * x
    z += x * y
    w += y * z
    x ^= x >> 16
    y ^= y >> 16
    z ^= z >> 16
    w ^= w >> 16
    x += y * w
    y += z * x
    z += x * y
    w += y * z
    return x, y, z, w


@triton.jit
def _words(
    keys: Pointer, row: Scalar, rows: Scalar, group: Scalar, site: Scalar, LANE: tl.constexpr
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """The random words of a group of columns, each (ROWS, LANE)."""
    inside = row < rows
    place = tl.load(keys + row, mask=inside, other=0).to(tl.uint32, bitcast=True)
    low = tl.load(keys + rows + row, mask=inside, other=0).to(tl.uint32, bitcast=True)
    high = tl.load(keys + 2 * rows + row, mask=inside, other=0).to(tl.uint32, bitcast=True)
    call = (group * LANE + tl.arange(0, LANE)).to(tl.uint32)
    nothing = tl.zeros([row.shape[0], LANE], tl.uint32)
    return _pcg4d(
        call[None, :] + nothing,
        place[:, None] + nothing,
        (low ^ site)[:, None] + nothing,
        high[:, None] + nothing,
    )


@triton.jit
def _kept(x: Scalar, y: Scalar, z: Scalar, w: Scalar, threshold: Scalar, lane: tl.constexpr) -> Scalar:
    """Which elements of lane `lane` are kept."""
    if lane < 2:
        word = x
    elif lane < 4:
        word = y
    elif lane < 6:
        word = z
    else:
        word = w
    return ((word >> (16 * (lane % 2))) & 0xFFFF) >= threshold


@triton.jit(do_not_specialize=["site", "threshold"])  # every layer has another site, and 1 would be a constant
def dropout_kernel(
    source: Pointer, target: Pointer, keys: Pointer, source_stride: Scalar, rows: Scalar, width: Scalar, site: Scalar,
    threshold: Scalar, scale: Scalar, ROWS: tl.constexpr, LANE: tl.constexpr, LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Rows of one group of columns: target (rows, width), contiguous, is source with elements dropped and the others scaled."""
    row, group = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    x, y, z, w = _words(keys, row, rows, group, site, LANE)
    row_of = row.to(tl.int64)[:, None]
    for lane in tl.static_range(LANES):
        column = (group * LANES + lane) * LANE + tl.arange(0, LANE)[None, :]
        inside = (row[:, None] < rows) & (column < width)
        value = tl.load(source + row_of * source_stride + column, mask=inside, other=0.0)
        kept = tl.where(_kept(x, y, z, w, threshold, lane), value.to(tl.float32) * scale, 0.0)
        tl.store(target + row_of * width + column, kept.to(value.dtype), mask=inside)


@triton.jit(do_not_specialize=["site", "threshold"])
def add_dropped_product_kernel(
    out: Pointer, left: Pointer, right: Pointer, keys: Pointer, out_stride: Scalar, left_stride: Scalar, right_stride: Scalar,
    rows: Scalar, width: Scalar, inner: Scalar, site: Scalar, threshold: Scalar, scale: Scalar, ROWS: tl.constexpr,
    LANE: tl.constexpr, LANES: tl.constexpr, INNER: tl.constexpr,
) -> None:  # fmt: skip
    """Rows of two lanes: out += left (rows, inner) @ right (inner, width) with elements dropped and the others scaled. One word of four
    is used, so that a program needs few registers; that costs a quarter of the time that its memory takes."""
    row, pair = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    x, y, z, w = _words(keys, row, rows, pair // (LANES // 2), site, LANE)
    number = pair % (LANES // 2)
    if number == 0:
        word = x
    elif number == 1:
        word = y
    elif number == 2:
        word = z
    else:
        word = w
    row_of, there = row.to(tl.int64)[:, None], row[:, None] < rows
    column = pair * 2 * LANE + tl.arange(0, LANE)[None, :]
    first, second = tl.zeros([ROWS, LANE], tl.float32), tl.zeros([ROWS, LANE], tl.float32)
    for begin in range(0, inner, INNER):
        k = begin + tl.arange(0, INNER)
        a = tl.load(left + row_of * left_stride + k[None, :], mask=there & (k[None, :] < inner), other=0.0)
        b_at, b_there = right + k.to(tl.int64)[:, None] * right_stride + column, k[:, None] < inner
        b = tl.load(b_at, mask=b_there & (column < width), other=0.0)
        first = tl.dot(a, b, first, input_precision="ieee")
        b = tl.load(b_at + LANE, mask=b_there & (column + LANE < width), other=0.0)
        second = tl.dot(a, b, second, input_precision="ieee")
    place = out + row_of * out_stride + column
    for lane in tl.static_range(2):
        product = first if lane == 0 else second
        kept = tl.where(((word >> (16 * lane)) & 0xFFFF) >= threshold, product * scale, 0.0)
        inside = there & (column + lane * LANE < width)
        value = tl.load(place + lane * LANE, mask=inside, other=0.0)
        tl.store(place + lane * LANE, (value.to(tl.float32) + kept).to(value.dtype), mask=inside)
