"""Triton kernels of attention without gradients: over a pack of documents, and over a key/value cache.

Conventions as in kernels.py. Scores and sums are float32; queries, keys and weights are rounded as in transformers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trainer.decoder.kernels import Pointer, Scalar


@triton.jit
def scaled(score: Scalar, scale: Scalar, softcap: Scalar, CAPPED: tl.constexpr) -> Scalar:
    """scale · score, with CAPPED softcap · tanh(scale · score / softcap). `scale` and `softcap` contain log2(e), for exp2."""
    if CAPPED:
        return softcap * (2.0 * tl.sigmoid(score * (2.0 * scale / softcap)) - 1.0)
    return score * scale


@triton.jit
def attention_kernel(
    qkv: Pointer, first: Pointer, cos: Pointer, sin: Pointer, out: Pointer, qkv_stride: Scalar, out_stride: Scalar,
    tokens: Scalar, key_at: Scalar, value_at: Scalar, scale: Scalar, softcap: Scalar, groups: Scalar, CAPPED: tl.constexpr,
    GROUPS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr,
) -> None:  # fmt: skip
    """QUERIES tokens × all query heads of one key head: token t sees the keys first[t] … t. Queries are rotated here, keys
    before. Heads are processed in two halves, which the rotation turns against each other.

    Documents are concatenated and first never decreases. A tile that spans several of them reads the keys from the
    first of its first token to its own last, and the comparison with `first` isolates them.
    """
    block, head = tl.program_id(0), tl.program_id(1)
    inner = tl.arange(0, QUERIES * GROUPS)
    token, group = block * QUERIES + inner // GROUPS, inner % GROUPS
    inside = ((token < tokens) & (group < groups))[:, None]
    half = tl.arange(0, HALF)
    heads = head * groups + group
    row = token.to(tl.int64)[:, None]
    at = qkv + row * qkv_stride + (heads * 2 * HALF)[:, None] + half[None, :]
    one, two = tl.load(at, mask=inside, other=0.0), tl.load(at + HALF, mask=inside, other=0.0)
    dtype = one.dtype
    angle = row * (2 * HALF) + half[None, :]
    cos_1, cos_2 = tl.load(cos + angle, mask=inside, other=0.0), tl.load(cos + angle + HALF, mask=inside, other=0.0)
    sin_1, sin_2 = tl.load(sin + angle, mask=inside, other=0.0), tl.load(sin + angle + HALF, mask=inside, other=0.0)
    one, two = one.to(tl.float32), two.to(tl.float32)
    query_1 = (one * cos_1.to(tl.float32) - two * sin_1.to(tl.float32)).to(dtype)
    query_2 = (two * cos_2.to(tl.float32) + one * sin_2.to(tl.float32)).to(dtype)
    begin = tl.load(first + token, mask=token < tokens, other=0)
    largest = tl.full([QUERIES * GROUPS], -1.0e20, tl.float32)
    total = tl.zeros([QUERIES * GROUPS], tl.float32)
    wide = tl.arange(0, 2 * HALF)
    result = tl.zeros([QUERIES * GROUPS, 2 * HALF], tl.float32)
    keys = qkv + key_at + head * (2 * HALF)
    values = qkv + value_at + head * (2 * HALF)
    for start in range(tl.load(first + block * QUERIES), min((block + 1) * QUERIES, tokens), KEYS):
        column = start + tl.arange(0, KEYS)
        there = column < tokens
        place = column.to(tl.int64) * qkv_stride
        key = keys + place[None, :] + half[:, None]
        score = tl.dot(query_1, tl.load(key, mask=there[None, :], other=0.0), input_precision="ieee")
        score = tl.dot(query_2, tl.load(key + HALF, mask=there[None, :], other=0.0), score, input_precision="ieee")
        seen = (column[None, :] >= begin[:, None]) & (column[None, :] <= token[:, None])
        score = tl.where(seen, scaled(score, scale, softcap, CAPPED), -1.0e30)
        higher = tl.maximum(largest, tl.max(score, axis=1))
        shrink = tl.exp2(largest - higher)
        weight = tl.exp2(score - higher[:, None])
        total = total * shrink + tl.sum(weight, axis=1)
        value = tl.load(values + place[:, None] + wide[None, :], mask=there[:, None], other=0.0)
        result = tl.dot(weight.to(dtype), value, result * shrink[:, None], input_precision="ieee")
        largest = higher
    result = result / total[:, None]
    target = out + row * out_stride + (heads * 2 * HALF)[:, None] + wide[None, :]
    tl.store(target, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def cached_attention_kernel(
    qkv: Pointer, cos: Pointer, sin: Pointer, cache: Pointer, begins: Pointer, places: Pointer, out: Pointer,
    qkv_stride: Scalar, cache_stride: Scalar, out_stride: Scalar, key_at: Scalar, value_at: Scalar, scale: Scalar,
    softcap: Scalar, groups: Scalar, window: Scalar, CAPPED: tl.constexpr, GROUPS: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr,
) -> None:  # fmt: skip
    """The newest token of one sequence × all query heads of one key head, over the sequence's span of the cache.

    Rotates the query and the new key, and stores the new key and value in the cache. The token sees the cached ones before it, at most
    window - 1 of them, and itself from registers. A cache row holds all keys, then all values.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    group, half, wide = tl.arange(0, GROUPS), tl.arange(0, HALF), tl.arange(0, 2 * HALF)
    inside = (group < groups)[:, None]
    cos_1 = tl.load(cos + row * (2 * HALF) + half).to(tl.float32)
    cos_2 = tl.load(cos + row * (2 * HALF) + HALF + half).to(tl.float32)
    sin_1 = tl.load(sin + row * (2 * HALF) + half).to(tl.float32)
    sin_2 = tl.load(sin + row * (2 * HALF) + HALF + half).to(tl.float32)
    heads = head * groups + group
    at = qkv + row * qkv_stride + (heads * 2 * HALF)[:, None] + half[None, :]
    one, two = tl.load(at, mask=inside, other=0.0), tl.load(at + HALF, mask=inside, other=0.0)
    dtype = one.dtype
    one, two = one.to(tl.float32), two.to(tl.float32)
    query_1 = (one * cos_1[None, :] - two * sin_1[None, :]).to(dtype)
    query_2 = (two * cos_2[None, :] + one * sin_2[None, :]).to(dtype)
    own = qkv + row * qkv_stride + head * (2 * HALF)
    one, two = tl.load(own + key_at + half).to(tl.float32), tl.load(own + key_at + HALF + half).to(tl.float32)
    key_1, key_2 = (one * cos_1 - two * sin_1).to(dtype), (two * cos_2 + one * sin_2).to(dtype)
    value = tl.load(own + value_at + wide)
    begin, place = tl.load(begins + row), tl.load(places + row)
    keys = cache + begin * cache_stride + head * (2 * HALF)
    values = keys + (value_at - key_at)
    target = keys + place * cache_stride
    tl.store(target + half, key_1)
    tl.store(target + HALF + half, key_2)
    tl.store(target + (value_at - key_at) + wide, value)
    largest = tl.sum(query_1.to(tl.float32) * key_1.to(tl.float32)[None, :], axis=1)
    largest = largest + tl.sum(query_2.to(tl.float32) * key_2.to(tl.float32)[None, :], axis=1)
    largest = scaled(largest, scale, softcap, CAPPED)
    total = tl.full([GROUPS], 1.0, tl.float32)
    result = tl.zeros([GROUPS, 2 * HALF], tl.float32) + value.to(tl.float32)[None, :]
    for start in range(tl.maximum(place - (window - 1), 0), place, KEYS):
        column = start + tl.arange(0, KEYS)
        there = column < place
        offset = column.to(tl.int64) * cache_stride
        key = keys + offset[None, :] + half[:, None]
        score = tl.dot(query_1, tl.load(key, mask=there[None, :], other=0.0), input_precision="ieee")
        score = tl.dot(query_2, tl.load(key + HALF, mask=there[None, :], other=0.0), score, input_precision="ieee")
        score = tl.where(there[None, :], scaled(score, scale, softcap, CAPPED), -1.0e30)
        higher = tl.maximum(largest, tl.max(score, axis=1))
        shrink = tl.exp2(largest - higher)
        weight = tl.exp2(score - higher[:, None])
        total = total * shrink + tl.sum(weight, axis=1)
        cached = tl.load(values + offset[:, None] + wide[None, :], mask=there[:, None], other=0.0)
        result = tl.dot(weight.to(dtype), cached, result * shrink[:, None], input_precision="ieee")
        largest = higher
    result = result / total[:, None]
    at = out + row * out_stride + (heads * 2 * HALF)[:, None] + wide[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=inside)
