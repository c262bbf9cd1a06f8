"""Triton kernels of attention inside each document of a pack, forward and backward; packed_attention.py starts them.

A tile is QUERIES consecutive tokens of one document times all query heads of one key head: ROWS = QUERIES · GROUPS rows of one product
(GROUPS: query heads of a key head, rounded up to a power of two). Keys are read once for all of them, and the gradient of a key is one
sum over rows: no copy for each query head, no atomic addition. Every sum has a fixed order, so results are the same bits in every run,
and those of a document do not depend on the rest of the pack.

    queries   x            masked: the diagonal
        |     o x
        |     o o x        o: computed without a mask
        v     w o o x      masked: the far edge of a window
              keys ->

FlashAttention 2 (Dao, arXiv 2307.08691) has the online softmax and the backward pass from the log-sum-exp. Scores are in base 2, for exp2.
Products, sums and scores are float32; weights and gradients of scores are rounded to the inputs' dtype before a product.
Strides are those of rows in units of ALIGN values, so that the compiler knows that it may read these at once; the heads of a token are
side by side, and offsets inside a tile fit 32 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.decoder.attention_kernels import scaled
from trainer.decoder.kernels import Pointer, Scalar

Scalars = tl.tuple
"""Annotation of several runtime numbers."""
ALIGN = tl.constexpr(8)
HIDDEN = tl.constexpr(-1.0e30)
"""Score of a key that a query does not see. Finite, so that no difference is NaN, and below LOWEST, so that its weight is always 0."""
LOWEST = tl.constexpr(-1.0e20)
"""First value of a running maximum."""


@triton.jit
def _load(at: Pointer, inside: Scalar, GUARD: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr) -> Scalar:
    """A tile of rows, HEAD columns of which WIDTH are in memory; 0 outside, and where a row is not `inside` (read only with GUARD)."""
    if HEAD > WIDTH:
        value = tl.load(at, mask=inside[:, None] & (tl.arange(0, HEAD) < WIDTH)[None, :], other=0.0)
    elif GUARD:
        value = tl.load(at, mask=inside[:, None], other=0.0)
    else:
        value = tl.load(at)
    return value


@triton.jit
def _store(at: Pointer, value: Scalar, inside: Scalar, WIDTH: tl.constexpr, HEAD: tl.constexpr) -> None:
    mask = inside[:, None] & (tl.arange(0, HEAD) < WIDTH)[None, :]
    tl.store(at, value.to(at.dtype.element_ty), mask=mask)


@triton.jit
def _rows(
    pointer: Pointer, token: Scalar, stride: Scalar, head: Scalar, ROWS: tl.constexpr, GROUPS: tl.constexpr,
    groups: Scalar, WIDTH: tl.constexpr, HEAD: tl.constexpr,
) -> Pointer:  # fmt: skip
    """Addresses (ROWS, HEAD) of the query heads of key head `head`, from `token` on."""
    row = tl.arange(0, ROWS)
    stride = stride * ALIGN
    start = pointer + tl.cast(token, tl.int64) * stride + head * groups * WIDTH
    return start + ((row // GROUPS) * stride + (row % GROUPS) * WIDTH)[:, None] + tl.arange(0, HEAD)[None, :]


@triton.jit
def _keys(
    pointer: Pointer, token: Scalar, stride: Scalar, head: Scalar, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
) -> Pointer:  # fmt: skip
    """Addresses (KEYS, HEAD) of key head `head`, from `token` on."""
    stride = stride * ALIGN
    start = pointer + tl.cast(token, tl.int64) * stride + head * WIDTH
    return start + (tl.arange(0, KEYS) * stride)[:, None] + tl.arange(0, HEAD)[None, :]


@triton.jit
def _spans_of_keys(
    begin: Scalar, first: Scalar, last: Scalar, window: Scalar, WINDOWED: tl.constexpr, KEYS: tl.constexpr
) -> Scalars:
    """Where queries `first` to `last` start to see keys, where all of them see whole tiles of keys, and where the diagonal starts."""
    low, whole = begin, begin
    if WINDOWED:
        low = tl.maximum(begin, first - window + 1)
        whole = low + tl.cdiv(tl.maximum(last - window + 1 - low, 0), KEYS) * KEYS
    return low, whole, whole + tl.maximum(first + 1 - whole, 0) // KEYS * KEYS


@triton.jit
def _spans_of_queries(
    first: Scalar, last: Scalar, end: Scalar, window: Scalar, WINDOWED: tl.constexpr, QUERIES: tl.constexpr
) -> Scalars:
    """Where the queries start that see all keys `first` to `last`, where a window ends that, and where no query sees any of them."""
    whole = first + tl.cdiv(last - first, QUERIES) * QUERIES
    if WINDOWED:
        stop = tl.minimum(end, last + window)
        return whole, tl.minimum(whole + tl.maximum(first + window - whole, 0) // QUERIES * QUERIES, stop), stop
    return whole, end, end


@triton.jit
def _seen(query: Scalar, key: Scalar, window: Scalar, WINDOWED: tl.constexpr) -> Scalar:
    if WINDOWED:
        return (key <= query) & (key > query - window)
    return key <= query


@triton.jit
def _of_score(
    weight: Scalar, of_weight: Scalar, delta: Scalar, score: Scalar, softcap: Scalar, CAPPED: tl.constexpr
) -> Scalar:
    """Gradient of scores, through the softmax and through a cap, whose derivative is 1 - tanh²."""
    gradient = weight * (of_weight - delta)
    if CAPPED:
        part = score * (1.0 / softcap)
        gradient *= 1.0 - part * part
    return gradient


@triton.jit
def _attend(
    state: Scalars, query: Scalar, token: Scalar, start: Scalar, stop: Scalar, k: Pointer, v: Pointer,
    k_stride: Scalar, v_stride: Scalar, head: Scalar, end: Scalar, window: Scalar, scale: Scalar, softcap: Scalar,
    MASKED: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
) -> Scalars:  # fmt: skip
    """(result, total, largest) of a tile's rows after the keys from `start` to `stop`."""
    result, total, largest = state
    for at in range(start, stop, KEYS):
        column = at + tl.arange(0, KEYS)
        key = _load(_keys(k, at, k_stride, head, KEYS, WIDTH, HEAD), column < end, MASKED, WIDTH, HEAD)
        score = scaled(tl.dot(query, tl.trans(key), input_precision="ieee"), scale, softcap, CAPPED)
        if MASKED:
            score = tl.where(_seen(token[:, None], column[None, :], window, WINDOWED), score, HIDDEN)
        higher = tl.maximum(largest, tl.max(score, axis=1))
        shrink = tl.exp2(largest - higher)
        weight = tl.exp2(score - higher[:, None])
        total = total * shrink + tl.sum(weight, axis=1)
        value = _load(_keys(v, at, v_stride, head, KEYS, WIDTH, HEAD), column < end, MASKED, WIDTH, HEAD)
        result = tl.dot(weight.to(value.dtype), value, result * shrink[:, None], input_precision="ieee")
        largest = higher
    return result, total, largest


@triton.jit
def forward_kernel(
    q: Pointer, k: Pointer, v: Pointer, out: Pointer, log_sums: Pointer, tiles: Pointer, q_stride: Scalar, k_stride: Scalar,
    v_stride: Scalar, out_stride: Scalar, heads: Scalar, groups: Scalar, window: Scalar, scale: Scalar, softcap: Scalar,
    CAPPED: tl.constexpr, WINDOWED: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WIDTH: tl.constexpr, HEAD: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of queries: what they attend to, and log_sums (T, H), the base-2 logarithm of each softmax's denominator.

    `tiles` (tiles, 3): begin and end of the tile's document, and its first token. `scale` and `softcap` contain log2(e).
    """
    place, head = tiles + 3 * tl.program_id(0), tl.program_id(1)
    begin, end, first = tl.load(place), tl.load(place + 1), tl.load(place + 2)
    QUERIES: tl.constexpr = ROWS // GROUPS
    row = tl.arange(0, ROWS)
    token, group = first + row // GROUPS, row % GROUPS
    inside = (token < end) & (group < groups)
    query = _load(_rows(q, first, q_stride, head, ROWS, GROUPS, groups, WIDTH, HEAD), inside, True, WIDTH, HEAD)
    last = tl.minimum(first + QUERIES, end) - 1
    low, whole, diagonal = _spans_of_keys(begin, first, last, window, WINDOWED, KEYS)
    state = tl.zeros([ROWS, HEAD], tl.float32), tl.zeros([ROWS], tl.float32), tl.full([ROWS], LOWEST, tl.float32)
    if WINDOWED:
        state = _attend(
            state, query, token, low, whole, k, v, k_stride, v_stride, head, end, window, scale, softcap,
            True, CAPPED, WINDOWED, KEYS, WIDTH, HEAD,
        )  # fmt: skip
    state = _attend(
        state, query, token, whole, diagonal, k, v, k_stride, v_stride, head, end, window, scale, softcap,
        False, CAPPED, WINDOWED, KEYS, WIDTH, HEAD,
    )  # fmt: skip
    state = _attend(
        state, query, token, diagonal, last + 1, k, v, k_stride, v_stride, head, end, window, scale, softcap,
        True, CAPPED, WINDOWED, KEYS, WIDTH, HEAD,
    )  # fmt: skip
    result, total, largest = state
    total = tl.where(inside, total, 1.0)
    target = _rows(out, first, out_stride, head, ROWS, GROUPS, groups, WIDTH, HEAD)
    _store(target, result / total[:, None], inside, WIDTH, HEAD)
    sums = log_sums + token.to(tl.int64) * heads + head * groups + group
    tl.store(sums, largest + tl.log2(total), mask=inside)


@triton.jit
def _query_gradient(
    gradient: Scalar, query: Scalar, upstream: Scalar, log_sum: Scalar, delta: Scalar, token: Scalar, start: Scalar,
    stop: Scalar, k: Pointer, v: Pointer, k_stride: Scalar, v_stride: Scalar, head: Scalar, end: Scalar, window: Scalar,
    scale: Scalar, softcap: Scalar, MASKED: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    KEYS: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr,
) -> Scalar:  # fmt: skip
    """Gradient of a tile's queries, without the scale, after the keys from `start` to `stop`."""
    for at in range(start, stop, KEYS):
        column = at + tl.arange(0, KEYS)
        key = _load(_keys(k, at, k_stride, head, KEYS, WIDTH, HEAD), column < end, MASKED, WIDTH, HEAD)
        value = _load(_keys(v, at, v_stride, head, KEYS, WIDTH, HEAD), column < end, MASKED, WIDTH, HEAD)
        score = scaled(tl.dot(query, tl.trans(key), input_precision="ieee"), scale, softcap, CAPPED)
        shown = score
        if MASKED:
            shown = tl.where(_seen(token[:, None], column[None, :], window, WINDOWED), score, HIDDEN)
        weight = tl.exp2(shown - log_sum[:, None])
        of_weight = tl.dot(upstream, tl.trans(value), input_precision="ieee")
        of_score = _of_score(weight, of_weight, delta[:, None], score, softcap, CAPPED)
        gradient = tl.dot(of_score.to(key.dtype), key, gradient, input_precision="ieee")
    return gradient


@triton.jit
def query_gradient_kernel(
    q: Pointer, k: Pointer, v: Pointer, out: Pointer, upstream: Pointer, log_sums: Pointer, deltas: Pointer, gradient: Pointer,
    tiles: Pointer, q_stride: Scalar, k_stride: Scalar, v_stride: Scalar, out_stride: Scalar, upstream_stride: Scalar,
    gradient_stride: Scalar, heads: Scalar, groups: Scalar, window: Scalar, scale: Scalar, softcap: Scalar,
    slope: Scalar, CAPPED: tl.constexpr, WINDOWED: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WIDTH: tl.constexpr, HEAD: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of queries: their gradient, and `deltas` (T, H), the sums over D of out · its gradient `upstream`, which
    key_gradient_kernel reads. `slope` is the scale without log2(e)."""
    place, head = tiles + 3 * tl.program_id(0), tl.program_id(1)
    begin, end, first = tl.load(place), tl.load(place + 1), tl.load(place + 2)
    QUERIES: tl.constexpr = ROWS // GROUPS
    row = tl.arange(0, ROWS)
    token, group = first + row // GROUPS, row % GROUPS
    inside = (token < end) & (group < groups)
    query = _load(_rows(q, first, q_stride, head, ROWS, GROUPS, groups, WIDTH, HEAD), inside, True, WIDTH, HEAD)
    up = _load(
        _rows(upstream, first, upstream_stride, head, ROWS, GROUPS, groups, WIDTH, HEAD), inside, True, WIDTH, HEAD
    )
    made = _load(_rows(out, first, out_stride, head, ROWS, GROUPS, groups, WIDTH, HEAD), inside, True, WIDTH, HEAD)
    delta = tl.sum(up.to(tl.float32) * made.to(tl.float32), axis=1)
    sums = token.to(tl.int64) * heads + head * groups + group
    tl.store(deltas + sums, delta, mask=inside)
    log_sum = tl.load(log_sums + sums, mask=inside, other=-HIDDEN)  # no weight outside
    last = tl.minimum(first + QUERIES, end) - 1
    low, whole, diagonal = _spans_of_keys(begin, first, last, window, WINDOWED, KEYS)
    total = tl.zeros([ROWS, HEAD], tl.float32)
    if WINDOWED:
        total = _query_gradient(
            total, query, up, log_sum, delta, token, low, whole, k, v, k_stride, v_stride, head, end, window, scale, softcap,
            True, CAPPED, WINDOWED, KEYS, WIDTH, HEAD,
        )  # fmt: skip
    total = _query_gradient(
        total, query, up, log_sum, delta, token, whole, diagonal, k, v, k_stride, v_stride, head, end, window, scale, softcap,
        False, CAPPED, WINDOWED, KEYS, WIDTH, HEAD,
    )  # fmt: skip
    total = _query_gradient(
        total, query, up, log_sum, delta, token, diagonal, last + 1, k, v, k_stride, v_stride, head, end, window, scale, softcap,
        True, CAPPED, WINDOWED, KEYS, WIDTH, HEAD,
    )  # fmt: skip
    target = _rows(gradient, first, gradient_stride, head, ROWS, GROUPS, groups, WIDTH, HEAD)
    _store(target, total * slope, inside, WIDTH, HEAD)


@triton.jit
def _key_gradient(
    state: Scalars, key: Scalar, value: Scalar, column: Scalar, start: Scalar, stop: Scalar, q: Pointer,
    upstream: Pointer, log_sums: Pointer, deltas: Pointer, q_stride: Scalar, upstream_stride: Scalar, head: Scalar,
    heads: Scalar, groups: Scalar, end: Scalar, window: Scalar, scale: Scalar, softcap: Scalar, MASKED: tl.constexpr,
    CAPPED: tl.constexpr, WINDOWED: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
) -> Scalars:  # fmt: skip
    """Gradients of a tile's keys, without the scale, and of its values, after the queries from `start` to `stop`."""
    of_keys, of_values = state
    row = tl.arange(0, ROWS)
    group = row % GROUPS
    for at in range(start, stop, ROWS // GROUPS):
        token = at + row // GROUPS
        inside = (token < end) & (group < groups)
        query = _load(_rows(q, at, q_stride, head, ROWS, GROUPS, groups, WIDTH, HEAD), inside, True, WIDTH, HEAD)
        up = _load(
            _rows(upstream, at, upstream_stride, head, ROWS, GROUPS, groups, WIDTH, HEAD), inside, True, WIDTH, HEAD
        )
        sums = token.to(tl.int64) * heads + head * groups + group
        log_sum = tl.load(log_sums + sums, mask=inside, other=-HIDDEN)  # no weight outside
        delta = tl.load(deltas + sums, mask=inside, other=0.0)
        score = scaled(tl.dot(key, tl.trans(query), input_precision="ieee"), scale, softcap, CAPPED)
        shown = score
        if MASKED:
            shown = tl.where(_seen(token[None, :], column[:, None], window, WINDOWED), score, HIDDEN)
        weight = tl.exp2(shown - log_sum[None, :])
        of_values = tl.dot(weight.to(up.dtype), up, of_values, input_precision="ieee")
        of_weight = tl.dot(value, tl.trans(up), input_precision="ieee")
        of_score = _of_score(weight, of_weight, delta[None, :], score, softcap, CAPPED)
        of_keys = tl.dot(of_score.to(query.dtype), query, of_keys, input_precision="ieee")
    return of_keys, of_values


@triton.jit
def key_gradient_kernel(
    q: Pointer, k: Pointer, v: Pointer, upstream: Pointer, log_sums: Pointer, deltas: Pointer, k_gradient: Pointer,
    v_gradient: Pointer, tiles: Pointer, q_stride: Scalar, k_stride: Scalar, v_stride: Scalar, upstream_stride: Scalar,
    k_gradient_stride: Scalar, v_gradient_stride: Scalar, heads: Scalar, groups: Scalar, window: Scalar, scale: Scalar,
    softcap: Scalar, slope: Scalar, CAPPED: tl.constexpr, WINDOWED: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of KEYS keys of one head: their gradient and that of their values, over all query heads. Scores are transposed,
    (KEYS, ROWS)."""
    place, head = tiles + 3 * tl.program_id(0), tl.program_id(1)
    end, first = tl.load(place + 1), tl.load(place + 2)
    QUERIES: tl.constexpr = ROWS // GROUPS
    column = first + tl.arange(0, KEYS)
    inside = column < end
    key = _load(_keys(k, first, k_stride, head, KEYS, WIDTH, HEAD), inside, True, WIDTH, HEAD)
    value = _load(_keys(v, first, v_stride, head, KEYS, WIDTH, HEAD), inside, True, WIDTH, HEAD)
    last = tl.minimum(first + KEYS, end) - 1
    whole, edge, stop = _spans_of_queries(first, last, end, window, WINDOWED, QUERIES)
    state = tl.zeros([KEYS, HEAD], tl.float32), tl.zeros([KEYS, HEAD], tl.float32)
    state = _key_gradient(
        state, key, value, column, first, tl.minimum(whole, stop), q, upstream, log_sums, deltas, q_stride, upstream_stride, head,
        heads, groups, end, window, scale, softcap, True, CAPPED, WINDOWED, GROUPS, ROWS, WIDTH, HEAD,
    )  # fmt: skip
    state = _key_gradient(
        state, key, value, column, whole, edge, q, upstream, log_sums, deltas, q_stride, upstream_stride, head,
        heads, groups, end, window, scale, softcap, False, CAPPED, WINDOWED, GROUPS, ROWS, WIDTH, HEAD,
    )  # fmt: skip
    if WINDOWED:
        state = _key_gradient(
            state, key, value, column, tl.maximum(whole, edge), stop, q, upstream, log_sums, deltas, q_stride, upstream_stride, head,
            heads, groups, end, window, scale, softcap, True, CAPPED, WINDOWED, GROUPS, ROWS, WIDTH, HEAD,
        )  # fmt: skip
    of_keys, of_values = state
    target = _keys(k_gradient, first, k_gradient_stride, head, KEYS, WIDTH, HEAD)
    _store(target, of_keys * slope, inside, WIDTH, HEAD)
    _store(_keys(v_gradient, first, v_gradient_stride, head, KEYS, WIDTH, HEAD), of_values, inside, WIDTH, HEAD)
