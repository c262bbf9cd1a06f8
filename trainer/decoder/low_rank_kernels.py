"""The Triton kernel behind low_rank.py. Conventions as in kernels.py; sums are in float32."""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.decoder.kernels import Pointer, Scalar

ALIGN = tl.constexpr(16)


@triton.jit
def narrow_product_kernel(
    wide: Pointer, weight: Pointer, out: Pointer, parts: Pointer, wide_stride: Scalar, weight_inner: Scalar, weight_column: Scalar,
    out_stride: Scalar, rows: Scalar, columns: Scalar, left: Scalar, jump: Scalar, ROWS: tl.constexpr, INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """ROWS rows of wide (rows, inner) · weight (inner, columns). From column `left` on results lie `jump` columns further.

    `parts` (n, 4) int64: where in their buffers the factors and the result of each of n such products begin, and its inner width; all
    but the third, and the strides of rows, are multiples of ALIGN.
    """
    part = parts + 4 * tl.program_id(1)
    of_wide, of_weight = tl.multiple_of(tl.load(part), ALIGN), tl.multiple_of(tl.load(part + 1), ALIGN)
    of_out, inner = tl.load(part + 2), tl.multiple_of(tl.load(part + 3).to(tl.int32), ALIGN)
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    there, wanted = row < rows, column < columns
    row = row.to(tl.int64)
    values = wide + of_wide + row[:, None] * tl.multiple_of(wide_stride, ALIGN)
    factors = weight + of_weight + column[None, :] * weight_column
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for start in range(0, inner, INNER):
        place = start + tl.arange(0, INNER)
        value = tl.load(values + place[None, :], mask=there[:, None] & (place < inner)[None, :], other=0.0)
        at = factors + place.to(tl.int64)[:, None] * weight_inner
        factor = tl.load(at, mask=(place < inner)[:, None] & wanted[None, :], other=0.0)
        total = tl.dot(value, factor, total)
    place = of_out + row[:, None] * out_stride + (column + tl.where(column < left, 0, jump))[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=there[:, None] & wanted[None, :])
