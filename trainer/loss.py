"""Cross-entropy and statistics at target positions, without holding all logits.

With P targets and a vocabulary of V, the logits would take P × V × 4 bytes (8k tokens of a 32k vocabulary: 1 GiB, and
as much again for their gradient). They are computed in chunks instead. The head is frozen, so the gradient with
respect to each hidden state is (softmax - onehot) · W, available with the chunk's logits. The forward pass computes
it, and the backward pass only scales it. That costs two products with the head; recomputation would cost three
(the idea of Liger's fused linear cross-entropy, arXiv 2410.10989).

Shapes: P positions, V vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from trainer.decoder.retention import LOGITS_CHUNK

# Elements of one chunk of logits: 32 MiB in float32 on a CPU (cache), 128 MiB in bfloat16 on a GPU (launches).
CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": LOGITS_CHUNK}


class Head(NamedTuple):
    """The output head: logits = softcap · tanh(scale · (h · weightᵀ + bias) / softcap), without tanh if `softcap` is None.

    weight (V, d), bias (V,) or None. Cohere, Granite and others scale logits, Gemma 2 and others cap them.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_Pd: torch.Tensor) -> torch.Tensor:
        """(P, V) in the dtype of the weights, rounded as transformers rounds them."""
        logits_PV = torch.nn.functional.linear(hidden_Pd.to(self.weight.dtype), self.weight, self.bias)
        if self.scale != 1.0:
            logits_PV = logits_PV * self.scale
        if self.softcap is not None:
            logits_PV = torch.tanh(logits_PV / self.softcap) * self.softcap
        return logits_PV

    def backward(self, slope_PV: torch.Tensor, logits_PV: torch.Tensor | None) -> torch.Tensor:
        """Gradient (P, d) of the hidden states, given that of the logits; `logits_PV` is read only if there is a cap."""
        if self.softcap is not None:
            slope_PV = slope_PV * (1 - (logits_PV / self.softcap) ** 2)
        if self.scale != 1.0:
            slope_PV = slope_PV * self.scale
        return slope_PV @ self.weight


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of the distributions predicted at P positions, (P,) float32 each; `correct` bool.

    nll: of the label, nats. entropy: nats. top: the highest probability. margin: by how much it exceeds the second.
    correct: the label is the most probable token (the first of several).
    """

    nll: torch.Tensor
    entropy: torch.Tensor
    top: torch.Tensor
    margin: torch.Tensor
    correct: torch.Tensor


def target_nll(hidden_Pd: torch.Tensor, head: Head, labels_P: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood (P,) in nats, float32, of each label; differentiable in the hidden states only.

    Raises RuntimeError if the output head is trainable.
    """
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in head[:2]):
        raise RuntimeError("the output head must be frozen")
    return _TargetNll.apply(hidden_Pd, head, labels_P)


@torch.no_grad()
def target_statistics(hidden_Pd: torch.Tensor, head: Head, labels_P: torch.Tensor) -> TokenStatistics:
    """Statistics of the distributions predicted at P positions, given the labels."""
    count = len(labels_P)
    found = torch.empty(4, count, dtype=torch.float32, device=hidden_Pd.device)
    best = torch.empty(count, dtype=torch.int64, device=hidden_Pd.device)
    for rows in _chunks(count, head.weight):
        logits_CV = head.logits(hidden_Pd[rows])
        statistics = fused_statistics if logits_CV.is_cuda else plain_statistics
        statistics(logits_CV, labels_P[rows], found[:, rows], best[rows])
    nll, entropy, top, second = found
    return TokenStatistics(nll, entropy, top, top - second, best == labels_P)


def fused_statistics(
    logits_CV: torch.Tensor, labels_C: torch.Tensor, found_4C: torch.Tensor, best_C: torch.Tensor
) -> None:
    """Write nll, entropy and the two highest probabilities, and the most probable token. A Triton kernel, one read."""
    from trainer.decoder.kernels import statistics_kernel

    count, vocabulary = logits_CV.shape
    statistics_kernel[(count,)](
        logits_CV, labels_C, found_4C, best_C, logits_CV.stride(0), vocabulary, found_4C.stride(0),
        BLOCK=2048, num_warps=8,
    )  # fmt: skip


def plain_statistics(
    logits_CV: torch.Tensor, labels_C: torch.Tensor, found_4C: torch.Tensor, best_C: torch.Tensor
) -> None:
    """The same in plain torch."""
    logits_CV = logits_CV.float()
    largest, best = logits_CV.max(-1, keepdim=True)
    best_C.copy_(best[:, 0])
    below_CV = logits_CV.sub_(largest)
    weight_CV = below_CV.exp()
    total = weight_CV.sum(-1)
    log_total = total.log()
    found_4C[0] = log_total - below_CV.gather(1, labels_C[:, None])[:, 0]
    # -inf logits (masked tokens of a vocabulary) have weight 0 and must not give 0 · inf.
    found_4C[1] = log_total - weight_CV.mul_(below_CV.clamp(min=-1e30)).sum(-1) / total
    below_CV.scatter_(1, best, -torch.inf)
    found_4C[2] = 1 / total
    found_4C[3] = below_CV.amax(-1).exp() / total


def nll_and_slope(
    hidden_Pd: torch.Tensor, head: Head, labels_P: torch.Tensor, slope: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """nll (P,) float32 of each label, and (with `slope`) its gradient (P, d) with respect to its hidden state."""
    nll = torch.empty(len(labels_P), dtype=torch.float32, device=hidden_Pd.device)
    gradient = torch.empty_like(hidden_Pd) if slope else None
    for rows in _chunks(len(labels_P), head.weight):
        logits_CV = head.logits(hidden_Pd[rows])
        # nll_ replaces the logits by their gradient; that of a cap needs both.
        capped_CV = logits_CV.clone() if slope and head.softcap is not None else None
        nll_ = fused_nll_ if logits_CV.is_cuda else plain_nll_
        nll[rows] = nll_(logits_CV, labels_P[rows], gradient is not None)
        if gradient is not None:
            gradient[rows] = head.backward(logits_CV, capped_CV).to(gradient.dtype)
    return nll, gradient


class _TargetNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_Pd: torch.Tensor, head: Head, labels_P: torch.Tensor) -> torch.Tensor:
        """nll (P,); computes the gradient in the same pass."""
        nll, gradient = nll_and_slope(hidden_Pd, head, labels_P, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    def backward(ctx: Any, upstream_P: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The saved gradient (P, d), scaled by that of the NLL."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream_P[:, None].to(gradient.dtype), None, None


def fused_nll_(logits_CV: torch.Tensor, labels_C: torch.Tensor, gradient: bool) -> torch.Tensor:
    """nll (C,) float32 of the labels; with `gradient` the logits are replaced by softmax - onehot in place. A Triton kernel."""
    from trainer.decoder.kernels import nll_kernel

    count, vocabulary = logits_CV.shape
    nll = torch.empty(count, dtype=torch.float32, device=logits_CV.device)
    nll_kernel[(count,)](
        logits_CV, labels_C, nll, logits_CV.stride(0), vocabulary, GRADIENT=gradient, BLOCK=4096, num_warps=8
    )
    return nll


def plain_nll_(logits_CV: torch.Tensor, labels_C: torch.Tensor, gradient: bool) -> torch.Tensor:
    """The same in plain torch."""
    float_CV = logits_CV.float()
    nll = _nll(float_CV, labels_C)
    if gradient:
        slope_CV = float_CV.softmax(-1)
        slope_CV.scatter_add_(1, labels_C[:, None], slope_CV.new_full((len(labels_C), 1), -1.0))
        logits_CV.copy_(slope_CV)
    return nll


def _nll(logits_CV: torch.Tensor, labels_C: torch.Tensor) -> torch.Tensor:
    return logits_CV.logsumexp(-1) - logits_CV.gather(1, labels_C[:, None])[:, 0]


def _chunks(count: int, weight: torch.Tensor) -> Iterator[slice]:
    size = max(16, CHUNK_ELEMENTS.get(weight.device.type, 2**23) // weight.shape[0])
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
