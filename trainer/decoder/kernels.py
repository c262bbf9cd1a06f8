"""Triton kernels behind elementwise.py. Each reads and writes every value once; matrix products are left to cuBLAS.

Rows may be part of a wider buffer: every tensor comes with its row stride, and the last axis is contiguous.
Arithmetic is float32; results are rounded once, at the same place as in transformers.
"""

from __future__ import annotations

import triton
import triton.language as tl

Pointer = Scalar = tl.tensor
"""Annotations of kernel arguments: a tensor's first element, and a runtime number. Triton reads `int` and `float` as 32-bit types, which
would disable its own choice of width."""


@triton.jit
def add_rms_norm_kernel(
    x: Pointer, y: Pointer, weight: Pointer, total: Pointer, normed: Pointer, x_stride: Scalar, y_stride: Scalar,
    total_stride: Scalar, normed_stride: Scalar, width: Scalar, eps: Scalar, ADD: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One row: total = x + y (if ADD), normed = rms_norm(total) · weight."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0)
    dtype = value.dtype
    if ADD:
        other = tl.load(y + row * y_stride + columns, mask=inside, other=0.0)
        value = (value.to(tl.float32) + other.to(tl.float32)).to(dtype)
        tl.store(total + row * total_stride + columns, value, mask=inside)
    value = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    factor = tl.load(weight + columns, mask=inside, other=0.0)
    normal = (value * scale).to(factor.dtype).to(tl.float32)
    tl.store(normed + row * normed_stride + columns, (normal * factor.to(tl.float32)).to(dtype), mask=inside)


@triton.jit
def rms_norm_backward_kernel(
    gradient: Pointer, x: Pointer, weight: Pointer, residual: Pointer, out: Pointer, gradient_stride: Scalar,
    x_stride: Scalar, residual_stride: Scalar, out_stride: Scalar, width: Scalar, eps: Scalar, ADD: tl.constexpr,
    COPY: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One row: gradient of rms_norm with respect to x, plus the residual stream's gradient (if ADD). With COPY, `residual` receives
    `gradient`."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0)
    dtype = value.dtype
    value = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    normal = value * scale
    above = tl.load(gradient + row * gradient_stride + columns, mask=inside, other=0.0)
    if COPY:
        tl.store(residual + row * residual_stride + columns, above, mask=inside)
    upstream = above.to(tl.float32) * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    result = scale * (upstream - normal * (tl.sum(upstream * normal, axis=0) / width))
    if ADD:
        result += tl.load(residual + row * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, result.to(dtype), mask=inside)


@triton.jit
def move_kernel(
    source: Pointer, target: Pointer, source_stride: Scalar, target_stride: Scalar, rows: Scalar, width: Scalar,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Copy a tile between rows of different strides."""
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (row < rows) & (column < width)
    value = tl.load(source + row * source_stride + column, mask=inside)
    tl.store(target + row * target_stride + column, value, mask=inside)


@triton.jit
def _openness(gate: Scalar, linear: Scalar, cubic: Scalar, GELU: tl.constexpr) -> Scalar:
    """sigmoid(k(gate)), float32: the activation is gate times this; see elementwise.Activation."""
    if GELU:
        return tl.sigmoid(gate * (linear + cubic * gate * gate))
    return tl.sigmoid(gate)


@triton.jit
def gated_product_kernel(
    gate_up: Pointer, out: Pointer, gate_up_stride: Scalar, out_stride: Scalar, width: Scalar, linear: Scalar, cubic: Scalar,
    GELU: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Part of a row: activation(gate) · up, with gate and up side by side."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(gate_up + row * gate_up_stride + columns, mask=inside, other=0.0)
    up = tl.load(gate_up + row * gate_up_stride + width + columns, mask=inside, other=0.0)
    dtype = gate.dtype
    gate = gate.to(tl.float32)
    active = (gate * _openness(gate, linear, cubic, GELU)).to(dtype).to(tl.float32)
    tl.store(out + row * out_stride + columns, (active * up.to(tl.float32)).to(dtype), mask=inside)


@triton.jit
def gated_product_backward_kernel(
    gate_up: Pointer, product: Pointer, gate_up_stride: Scalar, product_stride: Scalar, width: Scalar, linear: Scalar,
    cubic: Scalar, PRODUCT: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """In place: gate and up are replaced by their gradients, and (with PRODUCT) the product's gradient by the product."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate_at = gate_up + row * gate_up_stride + columns
    product_at = product + row * product_stride + columns
    gate = tl.load(gate_at, mask=inside, other=0.0)
    dtype = gate.dtype
    gate = gate.to(tl.float32)
    up = tl.load(gate_at + width, mask=inside, other=0.0).to(tl.float32)
    upstream = tl.load(product_at, mask=inside, other=0.0).to(tl.float32)
    sigmoid = _openness(gate, linear, cubic, GELU)
    active = gate * sigmoid
    steepness = active * (1.0 - sigmoid)
    if GELU:
        steepness *= linear + 3.0 * cubic * gate * gate
    tl.store(gate_at, (upstream * up * (sigmoid + steepness)).to(dtype), mask=inside)
    tl.store(gate_at + width, (upstream * active).to(dtype), mask=inside)
    if PRODUCT:
        tl.store(product_at, (active.to(dtype).to(tl.float32) * up).to(dtype), mask=inside)


@triton.jit
def dequantize_nf4_kernel(
    packed: Pointer, code: Pointer, absmax: Pointer, absmax_code: Pointer, absmax_scale: Pointer, offset: Pointer,
    out: Pointer, blocks: Scalar, width: Scalar, out_stride: Scalar, NESTED: tl.constexpr, OUTER: tl.constexpr,
    BLOCKS: tl.constexpr, HALF: tl.constexpr,
) -> None:  # fmt: skip
    """BLOCKS quantization blocks of 2 · HALF weights each, two weights per byte, the first in its high half.

    With NESTED the scales are 8-bit codes with one scale per OUTER codes, and an offset.
    """
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    there = block < blocks
    if NESTED:
        level = tl.load(absmax + block, mask=there, other=0).to(tl.int32)
        scale = tl.load(absmax_code + level) * tl.load(absmax_scale + block // OUTER, mask=there, other=0.0)
        scale = scale + tl.load(offset)
    else:
        scale = tl.load(absmax + block, mask=there, other=0.0)
    byte_at = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
    byte = tl.load(packed + byte_at, mask=there[:, None], other=0).to(tl.int32)
    high = tl.load(code + (byte >> 4)) * scale[:, None]
    low = tl.load(code + (byte & 15)) * scale[:, None]
    place = block[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    target = out + (place // width) * out_stride + place % width
    tl.store(target, tl.interleave(high, low).to(out.dtype.element_ty), mask=there[:, None])


@triton.jit
def nll_kernel(
    logits: Pointer, labels: Pointer, nll: Pointer, stride: Scalar, vocabulary: Scalar, GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One row of logits: nll of its label, and (with GRADIENT) softmax - onehot in place of the logits."""
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    label = tl.load(labels + row)
    chosen = tl.load(start + label).to(tl.float32)  # before another warp may write its gradient there
    columns = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocabulary, BLOCK):
        value = tl.load(start + first + columns, mask=first + columns < vocabulary, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(largest, value)
        # Before the first value both are -inf, and their difference would be NaN.
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(largest - shift) + tl.exp(value - shift)
        largest = higher
    top = tl.max(largest, axis=0)
    log_sum = top + tl.log(tl.sum(total * tl.exp(largest - top), axis=0))
    tl.store(nll + row, log_sum - chosen)
    if GRADIENT:
        for first in range(0, vocabulary, BLOCK):
            inside = first + columns < vocabulary
            value = tl.load(start + first + columns, mask=inside, other=-float("inf")).to(tl.float32)
            slope = tl.exp(value - log_sum) - tl.where(first + columns == label, 1.0, 0.0)
            tl.store(start + first + columns, slope.to(logits.dtype.element_ty), mask=inside)


@triton.jit
def statistics_kernel(
    logits: Pointer, labels: Pointer, out: Pointer, best: Pointer, stride: Scalar, vocabulary: Scalar, rows: Scalar,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One row of logits, read once: `out` (4, rows) receives the nll of its label, the entropy and the two highest
    probabilities, `best` (rows) the index of the first highest logit.

    Each lane computes online: its two highest logits, the sum of exponentials, and their sum weighted by
    the distance from the highest (the entropy without the cancellation of logsumexp - E[logit]).
    """
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    columns = tl.arange(0, BLOCK)
    first = tl.full([BLOCK], -float("inf"), tl.float32)
    second = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    weighted = tl.zeros([BLOCK], tl.float32)
    place = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, vocabulary, BLOCK):
        value = tl.load(start + begin + columns, mask=begin + columns < vocabulary, other=-float("inf")).to(tl.float32)
        higher = value > first
        second = tl.maximum(second, tl.minimum(value, first))
        top = tl.maximum(first, value)
        place = tl.where(higher, begin + columns, place)
        # Before the first value both are -inf, and their difference would be NaN.
        fallen = tl.where(first == -float("inf"), 0.0, first - top)
        risen = tl.where(value == -float("inf"), 0.0, value - top)
        shrink, grown = tl.exp(fallen), tl.where(value == -float("inf"), 0.0, tl.exp(risen))
        weighted = (weighted + total * fallen) * shrink + risen * grown
        total = total * shrink + grown
        first = top
    highest = tl.max(first, axis=0)
    at = tl.min(tl.where(first == highest, place, vocabulary), axis=0)
    winner = place == at
    runner = tl.maximum(tl.max(tl.where(winner & (first == highest), second, first), axis=0), -3.0e38)
    fallen = tl.where(first == -float("inf"), 0.0, first - highest)
    shrink = tl.where(first == -float("inf"), 0.0, tl.exp(fallen))
    sums = tl.sum(total * shrink, axis=0)
    mean = tl.sum((weighted + total * fallen) * shrink, axis=0) / sums
    log_sum = tl.log(sums)
    chosen = tl.load(start + tl.load(labels + row)).to(tl.float32)
    tl.store(out + row, log_sum - (chosen - highest))
    tl.store(out + rows + row, log_sum - mean)
    tl.store(out + 2 * rows + row, 1.0 / sums)
    tl.store(out + 3 * rows + row, tl.exp(runner - highest) / sums)
    tl.store(best + row, at)


@triton.jit
def fp8_rows_kernel(
    source: Pointer, weight: Pointer, out: Pointer, scale: Pointer, source_stride: Scalar, out_stride: Scalar, width: Scalar,
    eps: Scalar, linear: Scalar, cubic: Scalar, NORM: tl.constexpr, GATE: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One row in 8-bit floats and its scale: out · scale = the row, its rms norm (NORM), or activation(gate) · up (GATE)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(source + row * source_stride + columns, mask=inside, other=0.0)
    dtype = value.dtype
    value = value.to(tl.float32)
    if NORM:
        factor = tl.load(weight + columns, mask=inside, other=0.0)
        normal = value * tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
        value = (normal.to(factor.dtype).to(tl.float32) * factor.to(tl.float32)).to(dtype).to(tl.float32)
    if GATE:
        up = tl.load(source + row * source_stride + width + columns, mask=inside, other=0.0).to(tl.float32)
        value = value * _openness(value, linear, cubic, GELU) * up
    unit = tl.maximum(tl.max(tl.abs(value), axis=0), 1.0e-12) / 448.0
    tl.store(scale + row, unit)
    tl.store(out + row * out_stride + columns, (value / unit).to(out.dtype.element_ty), mask=inside)


@triton.jit
def fp8_border_kernel(
    source: Pointer, scale: Pointer, out: Pointer, source_stride: Scalar, out_stride: Scalar, width: Scalar, filled: Scalar,
    share: Scalar, rows: Scalar, ROWS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Columns next to a row with a given scale: source · share / scale, clipped to the range, and
    zeros from `width` to `filled`."""
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    value = tl.load(source + row * source_stride + column, mask=(row < rows) & (column < width), other=0.0)
    value = value.to(tl.float32) * share / tl.load(scale + row, mask=row < rows, other=1.0)
    value = tl.minimum(tl.maximum(value, -448.0), 448.0)
    inside = (row < rows) & (column < filled)
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gradient_sketch_kernel(
    left: Pointer, right: Pointer, borders: Pointer, mean: Pointer, square: Pointer, start: Pointer,
    row_sign: Pointer, column_sign: Pointer, out: Pointer, left_stride: Scalar, right_stride: Scalar, mean_row: Scalar,
    mean_column: Scalar, rank: Scalar, width: Scalar, dimension: Scalar, scale: Scalar, beta_1: Scalar, beta_2: Scalar, factor: Scalar,
    eps_inside: Scalar, eps_outside: Scalar,
    MOMENTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr,
) -> None:  # fmt: skip
    """A tile of one document's gradient scale · leftᵀ · right, through Adam (with MOMENTS). Adds entry (i, j) with
    its sign to place (start[i] + j) mod dimension of the document's row of `out`."""
    document = tl.program_id(1)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    real, there = row < rank, column < width
    begin, end = tl.load(borders + document), tl.load(borders + document + 1)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(begin, end, TOKENS):
        token = first + tl.arange(0, TOKENS)
        inside = token < end
        at = token.to(tl.int64)
        one = tl.load(left + at[None, :] * left_stride + row[:, None], mask=inside[None, :] & real[:, None], other=0.0)
        other = tl.load(
            right + at[:, None] * right_stride + column[None, :], mask=inside[:, None] & there[None, :], other=0.0
        )
        total = tl.dot(one, other, total, input_precision="ieee")
    total = total * scale
    both = real[:, None] & there[None, :]
    if MOMENTS:
        place = row[:, None] * mean_row + column[None, :] * mean_column
        upper = beta_1 * tl.load(mean + place, mask=both, other=0.0) + (1.0 - beta_1) * total
        lower = beta_2 * tl.load(square + place, mask=both, other=1.0) + (1.0 - beta_2) * total * total
        total = factor * upper / (tl.sqrt(lower + eps_inside) + eps_outside)
    signs = tl.load(row_sign + row, mask=real, other=0.0)[:, None]
    signs = signs * tl.load(column_sign + column, mask=there, other=0.0)[None, :]
    target = (tl.load(start + row, mask=real, other=0)[:, None] + column[None, :]) % dimension
    tl.atomic_add(out + document.to(tl.int64) * dimension + target, total * signs, mask=both)
