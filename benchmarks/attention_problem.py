"""Attention over a pack as a problem of its own: shapes of models, random inputs, a reference in float64, and the check of our kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from trainer.attention import PackLayout
from trainer.decoder.packed_attention import Call, Tilings

TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Largest error of a row, relative to its norm or to the rows' root mean square, whichever is larger: 10 roundings of a value."""


@dataclass(frozen=True)
class Shape:
    """Attention of a model: query heads, key heads, head width, cap of scores, window."""

    heads: int
    kv_heads: int
    width: int
    softcap: float | None = None
    window: int | None = None


MODELS = {
    "mistral-7b": Shape(32, 8, 128),
    "qwen2.5-0.5b": Shape(14, 2, 64),
    "gemma-2-9b": Shape(16, 8, 256, 50.0, 4096),
    "gemma-3": Shape(8, 4, 256, None, 1024),
}
CHECKED = {
    **MODELS,
    "gemma-2-9b, window 100": Shape(16, 8, 256, 5.0, 100),
    "gemma-3, window 33": Shape(8, 4, 256, None, 33),
    "no groups, width 96": Shape(8, 8, 96),
    "width 80, capped": Shape(8, 2, 80, 5.0, 64),
    "width 112": Shape(6, 2, 112),
    "one key head, width 256": Shape(8, 1, 256),
    "width 128, window 300": Shape(8, 2, 128, None, 300),
}
CHECKED_LENGTHS = (1, 7, 63, 64, 65, 130, 300, 513)


def lengths_of(mean: int, tokens: int) -> tuple[int, ...]:
    """Lengths of about this mean that add up to `tokens`, log-normally spread as instructions are."""
    count = max(round(tokens / mean), 1)
    weights = np.random.default_rng(mean).lognormal(0.0, 0.6, count)
    borders = np.unique(np.round(np.cumsum(weights) / weights.sum() * tokens).astype(int))
    return tuple(np.diff([0, *borders[borders > 0]]).tolist())


def layout(lengths: Iterable[int], device: torch.device) -> PackLayout:
    """The borders of a pack of documents."""
    borders = (0, *np.cumsum(tuple(lengths)).tolist())
    longest = max(b - a for a, b in pairwise(borders))
    return PackLayout(borders, torch.tensor(borders, dtype=torch.int32, device=device), longest)


class Problem:
    """Inputs of one layer over one pack, as the decoder has them: q, k, v and their gradients are columns of joined buffers."""

    def __init__(self, shape: Shape, lengths: Iterable[int], device: torch.device, dtype: torch.dtype):
        self.shape, self.pack, self.scale = shape, layout(lengths, device), shape.width**-0.5
        tokens, heads = self.pack.borders[-1], (shape.heads, shape.kv_heads, shape.kv_heads)
        generator = torch.Generator(device=device).manual_seed(tokens)

        def columns(*counts: int) -> list[torch.Tensor]:
            """Heads side by side in one random buffer, (T, heads, D) each."""
            widths = [count * shape.width for count in counts]
            buffer = torch.randn(tokens, sum(widths) + 16, generator=generator, device=device, dtype=torch.float32)
            return [part.unflatten(1, (-1, shape.width)) for part in buffer.to(dtype).split([*widths, 16], 1)[:-1]]

        self.inputs, self.into = columns(*heads), tuple(columns(*heads))
        (self.out,), (self.gradient,) = columns(shape.heads), columns(shape.heads)

    def call(self, tilings: Tilings | None = None) -> Call:
        """Our kernels, with the tiles in use or others."""
        return Call(self.pack, self.scale, self.shape.window, self.shape.softcap, tilings)

    def packed(self, call: Call) -> tuple[torch.Tensor, ...]:
        """(out, dq, dk, dv) by our kernels."""
        log_sums = call.forward(*self.inputs, self.out)
        call.backward(self.gradient, *self.inputs, self.out, log_sums, self.into)
        return tuple(x.clone() for x in (self.out, *self.into))

    def reference(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """(out, dq, dk, dv) in float64, one document after another."""
        shape = self.shape
        for begin, end in pairwise(self.pack.borders):
            leaves = [x[begin:end].double().requires_grad_() for x in self.inputs]
            q, k, v = leaves[0], *(x.repeat_interleave(shape.heads // shape.kv_heads, 1) for x in leaves[1:])
            scores = torch.einsum("ihd,jhd->hij", q, k) * self.scale
            if shape.softcap:
                scores = shape.softcap * torch.tanh(scores / shape.softcap)
            at = torch.arange(end - begin, device=q.device)
            distance = at[:, None] - at
            seen = (distance >= 0) & (distance < (shape.window or end))
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            out = torch.einsum("hij,jhd->ihd", weights, v)
            yield out.detach(), *torch.autograd.grad(out, leaves, self.gradient[begin:end].double())


def is_windowed(problem: Problem) -> bool:
    """Whether a document is longer than the window."""
    return problem.shape.window is not None and problem.shape.window < problem.pack.longest


def row_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest error of a row (last axis), relative to its norm or to the root mean square of all rows' norms. inf for NaN."""
    norms = wanted.double().norm(dim=-1)
    least = norms.square().mean().sqrt().clamp(min=1e-30)
    errors = (found.double() - wanted.double()).norm(dim=-1) / torch.maximum(norms, least)
    return float(torch.nan_to_num(errors, nan=torch.inf).max())


def check(name: str, shape: Shape, device: torch.device, dtype: torch.dtype, lengths: Iterable[int]) -> dict[str, Any]:
    """Errors and exactness of our kernels for one shape. Inputs are enlarged, so that softmaxes are sharp and caps bend scores."""
    problem = Problem(shape, lengths, device, dtype)
    problem.scale *= 2.0
    found = problem.packed(problem.call())
    wanted = [torch.cat(parts) for parts in zip(*problem.reference(), strict=True)]
    names = ("out", "dq", "dk", "dv")
    errors = {key: row_error(one, other) for key, one, other in zip(names, found, wanted, strict=True)}
    repeated = all(torch.equal(one, other) for one, other in zip(found, problem.packed(problem.call()), strict=True))
    begin, end = problem.pack.borders[-2:]
    for x in (*problem.inputs, problem.gradient):
        x[:begin] = torch.nan
    spoiled = problem.packed(problem.call())
    isolated = all(torch.equal(one[begin:], other[begin:]) for one, other in zip(found, spoiled, strict=True))
    right = max(errors.values()) <= TOLERANCE[dtype] and repeated and isolated
    return {
        "shape": name, "dtype": str(dtype).removeprefix("torch."), "tolerance": TOLERANCE[dtype],
        "errors": {key: float(f"{value:.2e}") for key, value in errors.items()},
        "same_bits_twice": repeated, "isolated": isolated, "right": right,
    }  # fmt: skip
