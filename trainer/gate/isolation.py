"""Whether a pack gives each document exactly what the model gives it alone.

Three checks, in the dtype in which the model will be used:

1. Alone: the hidden states of every document in a pack are those of the model's own forward over it, up to rounding.
2. Isolated: other documents before and after a document leave every bit of its hidden states as it was, in training mode and through
   replaced embeddings, as in training. In a mixture of experts the tokens of all documents share matrix products, whose rounding
   depends on their number: there the difference is at most rounding.
3. The gradient of a document's hidden states with respect to the embeddings of the others is exactly zero.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from trainer.forward import Batch, body, collate, hidden_states
from trainer.gate.probe import PACKS, Probe
from trainer.randomness import forked_rng

ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest norm of the difference of a document's hidden states relative to their norm, between two attention functions."""
SHARED_PRODUCTS = {torch.float32: 1e-6, torch.bfloat16: 2**-6}
"""The same between two passes of a mixture of experts that differ only in how many tokens an expert gets."""


@torch.no_grad()
def alone(causal: torch.nn.Module) -> list[torch.Tensor]:
    """Hidden states (length, d) of each document of the first pack, by the model's own forward."""
    batch = _batch(causal, 0)
    pieces = [batch.input_ids[a:b] for a, b in pairwise(batch.borders)]
    return [body(causal)(input_ids=piece[None], use_cache=False)[0][0] for piece in pieces]


def failure(causal: torch.nn.Module, expected: list[torch.Tensor]) -> str | None:
    """Why packs of this model are wrong under the attention that is set, or None. `expected`: of `alone`."""
    dtype = causal.get_input_embeddings().weight.dtype
    with torch.no_grad():
        found = hidden_states(causal, _batch(causal, 0)).split([len(document) for document in expected])
    share = max(_share(a, b) for a, b in zip(found, expected, strict=True))
    if not share <= ROUNDING[dtype]:
        return f"in a pack the hidden states of a document differ by {share:.2g} from those that it has alone"
    causal.train()
    try:
        return _leak(causal, dtype)
    finally:
        causal.eval()


def _leak(causal: torch.nn.Module, dtype: torch.dtype) -> str | None:
    one, other = (_trained(causal, index) for index in range(2))
    share = _share(one, other)
    if not share <= (SHARED_PRODUCTS[dtype] if is_mixture(causal) else 0.0):
        return f"the hidden states of a document change by {share:.2g} with the documents around it"
    batch, embeddings_Td = _embedded(causal, 0)
    leaf_Td = embeddings_Td.requires_grad_()
    with torch.enable_grad(), forked_rng(0, leaf_Td.device):
        hidden_Td = hidden_states(causal, batch, leaf_Td)
    inside = slice(*batch.borders[1:3])
    weights_Td = torch.zeros_like(hidden_Td)
    weights_Td[inside] = torch.randn(weights_Td[inside].shape, generator=torch.Generator().manual_seed(0)).to(hidden_Td)
    (gradient_Td,) = torch.autograd.grad(hidden_Td, leaf_Td, weights_Td)
    if not gradient_Td[inside].any():
        return "noise on the embeddings (train.neftune_alpha) does not reach the hidden states"
    gradient_Td[inside] = 0
    return "a document has gradients of another one" if gradient_Td.any() else None


@torch.no_grad()
def _trained(causal: torch.nn.Module, index: int) -> torch.Tensor:
    """Hidden states of the compared document in pack `index`, as training computes them; dropout is the same in every pack."""
    batch, embeddings_Td = _embedded(causal, index)
    with forked_rng(0, embeddings_Td.device):
        return hidden_states(causal, batch, embeddings_Td)[slice(*batch.borders[1:3])]


def _embedded(causal: torch.nn.Module, index: int) -> tuple[Batch, torch.Tensor]:
    """Pack `index` and its embeddings (T, d)."""
    batch = _batch(causal, index)
    with torch.no_grad():
        return batch, causal.get_input_embeddings()(batch.input_ids).clone()


def _batch(causal: torch.nn.Module, index: int) -> Batch:
    weight = causal.get_input_embeddings().weight
    return collate(Probe(weight.shape[0]), PACKS[index], weight.device)


def is_mixture(causal: torch.nn.Module) -> bool:
    """Whether a layer has experts, each of which computes some of the tokens."""
    return any(name.rpartition(".")[2] == "experts" for name, _ in causal.named_modules())


def _share(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()
