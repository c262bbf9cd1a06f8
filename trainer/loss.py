"""Cross-entropy and statistics at target positions, without ever holding all logits.

With P targets and a vocabulary of V, the logits would take P × V × 4 bytes (8k tokens of a 32k vocabulary: 1 GiB, and
as much again for their gradient). They are made chunk by chunk instead. The head is frozen, so the gradient with
respect to each hidden state is (softmax - onehot) · W, known as soon as the chunk's logits are: it is taken in the
forward pass, and the backward pass only scales it. That costs two products with the head instead of the three of
recomputation (the idea is that of Liger's fused linear cross-entropy, arXiv 2410.10989).

Shapes: P positions, V vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from trainer.decoder.retention import LOGITS_CHUNK

# Elements of one chunk of logits: 32 MiB in float32 on a CPU (cache), 128 MiB in bfloat16 on a GPU (launches).
CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": LOGITS_CHUNK}

Head = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class TokenStatistics:
    """Per target: nll (P,) float32 nats, entropy (P,) float32 nats of the predicted distribution, correct (P,) bool."""

    nll: torch.Tensor
    entropy: torch.Tensor
    correct: torch.Tensor


def target_nll(hidden_Pd: torch.Tensor, head: Head, labels_P: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood (P,) in nats, float32, of each label; differentiable in the hidden states only."""
    return _TargetNll.apply(hidden_Pd, *head, labels_P)


@torch.no_grad()
def target_statistics(hidden_Pd: torch.Tensor, head: Head, labels_P: torch.Tensor) -> TokenStatistics:
    """What the distributions predicted at P positions say of the labels that came."""
    parts = []
    for rows in _chunks(len(labels_P), head[0]):
        logits_CV = torch.nn.functional.linear(hidden_Pd[rows].to(head[0].dtype), *head).float()
        nll = _nll(logits_CV, labels_P[rows])
        correct = logits_CV.argmax(-1) == labels_P[rows]
        log_p = logits_CV.log_softmax(-1)
        parts.append((nll, -(log_p.exp() * log_p).sum(-1), correct))
    if not parts:
        empty = torch.zeros(0, device=hidden_Pd.device)
        return TokenStatistics(empty, empty, empty.bool())
    return TokenStatistics(*(torch.cat(column) for column in zip(*parts, strict=True)))


class _TargetNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_Pd, weight, bias, labels_P):
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            raise RuntimeError("the output head must be frozen")
        nll = torch.empty(len(labels_P), dtype=torch.float32, device=hidden_Pd.device)
        gradient = torch.empty_like(hidden_Pd) if ctx.needs_input_grad[0] else None
        for rows in _chunks(len(labels_P), weight):
            logits_CV = torch.nn.functional.linear(hidden_Pd[rows].to(weight.dtype), weight, bias)
            nll_ = fused_nll_ if logits_CV.is_cuda else plain_nll_
            nll[rows] = nll_(logits_CV, labels_P[rows], gradient is not None)
            if gradient is not None:
                gradient[rows] = (logits_CV @ weight).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    def backward(ctx, upstream_P):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream_P[:, None].to(gradient.dtype), None, None, None


def fused_nll_(logits_CV: torch.Tensor, labels_C: torch.Tensor, gradient: bool) -> torch.Tensor:
    """nll (C,) float32 of the labels; with `gradient` the logits become softmax - onehot in place. A Triton kernel."""
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
