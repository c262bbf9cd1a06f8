"""Projected gradients of LoRA, one vector per example (LESS, arXiv 2402.04333).

A packed backward pass sums the gradients of its documents. Before that, the gradient of a LoRA matrix is a sum of outer
products over tokens, and the tokens of one document give that document's gradient:

    gradient of A = Σ_t (s·g_t·B) ⊗ x_t,    gradient of B = Σ_t g_t ⊗ (x_t·Aᵀ)

LoRA's matrices are small, so these are formed layer by layer for all documents of a batch (a few hundred MB), put
through Adam, and projected immediately. Only one vector per example is kept. `Moments.adam` has both forms of Adam: the step
that AdamW would take, and that of LESS's code.

The projection is a count sketch (Charikar et al. 2002): entry (i, j) of a matrix is added, with a random sign, to place
(h_i + j) mod k, where h_i is drawn for each row i of each matrix. It is as accurate as dense random projection of the whole gradient
(measured in docs/performance.md) and reads the gradient once. Neighbours stay neighbours, so a
GPU adds whole lines at once.

Shapes: T tokens of the pack, D documents, r rank, w width of the other side, k dimension of the projection.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from trainer.activation import backward_memory
from trainer.adapters import trainable_parameters
from trainer.attention import PackLayout
from trainer.decoder.projections import Joined
from trainer.errors import CheckpointError
from trainer.forward import Tokens, bound_decoder, causal_lm, collate, hidden_states, output_head
from trainer.loss import nll_and_slope, target_nll
from trainer.measure import FittingBatches
from trainer.optim import BETA_1, BETA_2, EPSILON
from trainer.shortage import Shortage, attempt

Preconditioner = Literal["adamw", "less"]
GRADIENT_ELEMENTS = 2**24
"""Maximum number of gradient elements of one matrix held at once on a CPU."""


@dataclass(frozen=True)
class Moments:
    """Adam's moving averages of each parameter's gradient and of its square, by the parameter's name, in its shape, after `steps`
    optimizer steps. `lora_plus_ratio`: learning rate of LoRA's B matrices over that of A."""

    mean: dict[str, torch.Tensor]
    square: dict[str, torch.Tensor]
    steps: int
    lora_plus_ratio: float = 1.0

    @classmethod
    def open(cls, path: Path, device: torch.device | str) -> Moments:
        """Read a file of `trainer.optim.save_moments`. Raises CheckpointError for a missing or damaged file."""
        from safetensors import safe_open

        parts: dict[str, dict[str, torch.Tensor]] = {"mean": {}, "square": {}}
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                about = file.metadata()
                about = (
                    json.loads(about["optimizer"]) if "optimizer" in about else about
                )  # an earlier version had a key for each
                for key in file.keys():
                    kind, name = key.split(".", 1)
                    parts[kind][name] = file.get_tensor(key)
                return cls(**parts, steps=int(about["steps"]), lora_plus_ratio=float(about["lora_plus_ratio"]))
        except Exception as error:
            raise CheckpointError(
                f"{path}: expected the moments of an optimizer and its steps: {error!r}. Measure again after the next round, or "
                "remove `less` from score.by, score.also and select."
            ) from error

    def adam(self, name: str, form: Preconditioner) -> Adam:
        """What the next step makes of gradients of parameter `name`.

        "adamw" is what torch.optim.AdamW divides: m̂ / (√v̂ + ε) with bias correction, times the learning rate of the parameter over that
        of LoRA's A. Weight decay does not depend on the example and is left out. "less" is LESS's code, m / √(v + ε): ε counts as
        √ε = 1e-4, and early in training v is a small part of the squared gradient, so that small entries hardly count.
        """
        mean, square = self.mean[name], self.square[name]
        if form == "less":
            return Adam(mean, square, factor=1.0, eps_inside=EPSILON, eps_outside=0.0)
        correction_1, correction_2 = 1 - BETA_1 ** (self.steps + 1), math.sqrt(1 - BETA_2 ** (self.steps + 1))
        rate = self.lora_plus_ratio if ".lora_B." in name else 1.0
        return Adam(
            mean, square, rate * correction_2 / correction_1, eps_inside=0.0, eps_outside=EPSILON * correction_2
        )


@dataclass(frozen=True)
class Adam:
    """Adam's averages m and v of one matrix, and the constants of `direction`."""

    mean: torch.Tensor
    square: torch.Tensor
    factor: float
    eps_inside: float
    eps_outside: float

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """factor · (β₁·m + (1 - β₁)·g) / (√(β₂·v + (1 - β₂)·g² + eps_inside) + eps_outside) of gradients g (…, rows, columns)."""
        upper = BETA_1 * self.mean + (1 - BETA_1) * gradient
        lower = BETA_2 * self.square + (1 - BETA_2) * gradient.square() + self.eps_inside
        return self.factor * upper / (lower.sqrt() + self.eps_outside)


def project_gradients(
    model: torch.nn.Module,
    tokens: Tokens,
    rows: np.ndarray,
    *,
    dimension: int,
    batch_tokens: int,
    seed: int,
    moments: Moments | None = None,
    form: Preconditioner = "adamw",
    progress: Callable[[int], None] = lambda rows: None,
) -> np.ndarray:
    """(n, dimension) float16 unit vectors: the gradient of each document's mean NLL per target with respect to the trainable
    LoRA of `model`, projected at random by `seed`. Documents without targets get zeros.

    With `moments` the gradient goes through Adam first, as LESS does with candidates (not with targets), in a `form` of
    `Moments.adam`. DoRA's magnitudes are omitted. Cosines of the vectors approximate those of the
    gradients to 1/√dimension. Order and batching change results only by rounding. Costs about as much as training;
    activations use the free memory. When memory runs out, this batch and the later ones are halved.

    Raises MachineError if one document alone does not fit, CheckpointError if `moments` belong to another adapter,
    TrainerError if the adapter is not trainable.
    """
    rows = np.asarray(rows, dtype=np.int64)
    parameters = {
        name: p for name, p in trainable_parameters(model).items() if ".lora_A." in name or ".lora_B." in name
    }
    projector = Projector(parameters, dimension, seed, moments, form)
    result = np.zeros((len(rows), dimension), dtype=np.float16)
    lengths = np.array([len(tokens.ids(int(row))) for row in rows], dtype=np.int64)
    model.eval()
    progress(int((lengths == 0).sum()))
    project = _one_by_one if bound_decoder(model) is None else _packed
    with backward_memory(model, batch_tokens) as memory:
        batches = FittingBatches(lengths, batch_tokens, "computing gradients of", memory.lower)
        for members in batches:
            vectors = attempt(partial(project, model, tokens, rows[members], projector))
            if isinstance(vectors, Shortage):
                batches.halve(vectors)
                memory.divide(batches.batch_tokens)
                continue
            result[members] = torch.nn.functional.normalize(vectors, dim=-1).half().cpu().numpy()
            progress(len(members))
    return result


@dataclass(frozen=True)
class _Sketch:
    """The projection of one LoRA matrix, oriented (r, w): `start` (r,) int32 where row i begins, `row_sign` (r,) and
    `column_sign` (w,) float32 of ±1; `adam` or None for plain gradients."""

    start: torch.Tensor
    row_sign: torch.Tensor
    column_sign: torch.Tensor
    adam: Adam | None


class Projector:
    """Puts gradients through Adam and projects them. `parameters`, by PEFT's names, are LoRA's A (r, in) and B (out, r)."""

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        dimension: int,
        seed: int,
        moments: Moments | None = None,
        form: Preconditioner = "adamw",
    ) -> None:
        self.dimension, self.parameters = dimension, parameters
        self.device = next(iter(parameters.values())).device
        if moments is not None:
            shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
            if shapes != {name: tuple(moments.mean[name].shape) for name in shapes if name in moments.mean}:
                raise CheckpointError("the optimizer's moments belong to another adapter than the model's")
        self._sketches = {
            id(parameter): self._sketch(place, name, parameter, seed, moments, form)
            for place, (name, parameter) in enumerate(parameters.items())
        }

    def _sketch(
        self,
        place: int,
        name: str,
        parameter: torch.nn.Parameter,
        seed: int,
        moments: Moments | None,
        form: Preconditioner,
    ) -> _Sketch:
        rank, width = parameter.shape if ".lora_A." in name else parameter.shape[::-1]
        rng = np.random.default_rng([seed, place])
        start = rng.integers(self.dimension, size=rank, dtype=np.int32)
        signs = rng.integers(0, 2, size=rank + width).astype(np.float32) * 2 - 1
        parts = (torch.from_numpy(values).to(self.device) for values in (start, signs[:rank], signs[rank:]))
        adam = None if moments is None else moments.adam(name, form)
        if adam is not None and ".lora_B." in name:
            adam = replace(adam, mean=adam.mean.t(), square=adam.square.t())
        return _Sketch(*parts, adam)

    def add_products(
        self,
        into_Dk: torch.Tensor,
        left_Tr: torch.Tensor,
        right_Tw: torch.Tensor,
        scale: float,
        parameter: torch.nn.Parameter,
        pack: PackLayout,
    ) -> None:
        """Add the projected gradients of `parameter` to `into_Dk` (float32): of each document Σ_t scale · left_t ⊗ right_t."""
        sketch = self._sketches[id(parameter)]
        if into_Dk.is_cuda:
            _fused_products(into_Dk, left_Tr, right_Tw, scale, sketch, pack)
            return
        size = max(1, GRADIENT_ELEMENTS // (left_Tr.shape[1] * right_Tw.shape[1]))
        for first in range(0, len(into_Dk), size):
            spans = [slice(a, b) for a, b in zip(pack.borders[first:], pack.borders[first + 1 :], strict=False)][:size]
            products = [left_Tr[span].float().t() @ right_Tw[span].float() for span in spans]
            _add_gradients(into_Dk[first : first + size], torch.stack(products) * scale, sketch)

    def add_gradient(self, into_k: torch.Tensor, gradient: torch.Tensor, name: str) -> None:
        """Add the projected gradient of one document, in the shape of parameter `name`, to `into_k`."""
        oriented = gradient if ".lora_A." in name else gradient.t()
        _add_gradients(into_k[None], oriented[None].float(), self._sketches[id(self.parameters[name])])


def _packed(model: torch.nn.Module, tokens: Tokens, rows: np.ndarray, projector: Projector) -> torch.Tensor:
    """(D, k) of documents `rows`, by one pass of our own decoder."""
    batch = collate(tokens, rows, projector.device)
    into_Dk = torch.zeros(len(rows), projector.dimension, device=projector.device)
    counts = np.bincount(batch.label_documents, minlength=len(rows))
    share_P = torch.from_numpy(1.0 / counts[batch.label_documents]).to(projector.device)

    def slope(hidden_Td: torch.Tensor) -> torch.Tensor:
        """(T, d) gradient of each document's mean NLL with respect to the hidden states."""
        _, slope_Pd = nll_and_slope(hidden_Td[batch.predictors], output_head(model), batch.labels)
        slope_Td = torch.zeros_like(hidden_Td)
        slope_Td[batch.predictors] = slope_Pd * share_P[:, None].to(slope_Pd.dtype)
        return slope_Td

    def sink(joined: Joined, G: torch.Tensor, X: torch.Tensor) -> None:
        """Project the gradients of one joined layer's LoRA matrices into `into_Dk`."""
        for i, linear in enumerate(joined.linears):
            if linear.lora is None:
                continue
            a, b, r = linear.lora.a, linear.lora.b, linear.lora.a.shape[0]
            projector.add_products(into_Dk, G[:, joined.down(i)][:, :r], X[:, joined.x], 1.0, a, batch.layout)
            up, out = X[:, joined.up(i)][:, :r], G[:, joined.output(i)]
            projector.add_products(into_Dk, up, out, linear.lora.scale, b, batch.layout)

    embeddings_Td = causal_lm(model).get_input_embeddings()(batch.input_ids)
    bound_decoder(model).backward_into(sink, embeddings_Td, batch.position_ids, batch.layout, slope)
    return into_Dk


def _one_by_one(model: torch.nn.Module, tokens: Tokens, rows: np.ndarray, projector: Projector) -> torch.Tensor:
    """The same through autograd, for models that run through transformers' forward."""
    into_Dk = torch.zeros(len(rows), projector.dimension, device=projector.device)
    for into_k, row in zip(into_Dk, rows, strict=True):
        batch = collate(tokens, [int(row)], projector.device)
        if len(batch.labels):
            hidden_Td = hidden_states(model, batch)
            loss = target_nll(hidden_Td[batch.predictors], output_head(model), batch.labels).mean()
            gradients = torch.autograd.grad(loss, list(projector.parameters.values()), allow_unused=True)
            for name, gradient in zip(projector.parameters, gradients, strict=True):
                if gradient is not None:
                    projector.add_gradient(into_k, gradient, name)
    return into_Dk


def _add_gradients(into_Dk: torch.Tensor, gradient_Drw: torch.Tensor, sketch: _Sketch) -> None:
    if sketch.adam is not None:
        gradient_Drw = sketch.adam.direction(gradient_Drw)
    dimension = into_Dk.shape[1]
    signed_Drw = gradient_Drw * sketch.row_sign[:, None] * sketch.column_sign
    wrapped = signed_Drw.split(dimension, dim=2)
    for i, start in enumerate(sketch.start.tolist()):
        for part in wrapped:
            row = part[:, i]
            before = min(row.shape[1], dimension - start)
            into_Dk[:, start : start + before] += row[:, :before]
            into_Dk[:, : row.shape[1] - before] += row[:, before:]


def _fused_products(
    into_Dk: torch.Tensor,
    left_Tr: torch.Tensor,
    right_Tw: torch.Tensor,
    scale: float,
    sketch: _Sketch,
    pack: PackLayout,
) -> None:
    """The same in one Triton kernel: forms a gradient, puts it through Adam and adds it to its places without writing it to memory."""
    from trainer.decoder.kernels import gradient_sketch_kernel

    rank, width, documents = left_Tr.shape[1], right_Tw.shape[1], len(into_Dk)
    rows = min(64, max(16, 1 << (rank - 1).bit_length()))
    columns = 128
    adam = sketch.adam or Adam(right_Tw, right_Tw, 1.0, 0.0, 0.0)
    gradient_sketch_kernel[(-(-width // columns), documents, -(-rank // rows))](
        left_Tr, right_Tw, pack.cu_seqlens, adam.mean, adam.square, sketch.start, sketch.row_sign, sketch.column_sign,
        into_Dk, left_Tr.stride(0), right_Tw.stride(0), adam.mean.stride(0), adam.mean.stride(1), rank, width, into_Dk.shape[1],
        scale, BETA_1, BETA_2, adam.factor, adam.eps_inside, adam.eps_outside,
        MOMENTS=sketch.adam is not None, ROWS=rows, COLUMNS=columns, TOKENS=64, num_warps=4,
    )  # fmt: skip
