"""Chooses the attention of a model and verifies that documents of a pack are isolated.

The test suite checks the architectures of trainer/families.py. Any other architecture is checked when it is loaded:
two short documents in a pack must give the logits that the model's own forward gives each alone. This detects leaking
documents, soft caps, scaled logits, recurrent layers and other deviations.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from trainer import attention
from trainer.errors import TrainerError
from trainer.families import FAMILIES
from trainer.forward import Batch, collate, hidden_states, output_head

logger = logging.getLogger(__name__)

# Mean difference of the logits relative to their standard deviation: rounding stays below, a leak is above 0.1.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def prepare_attention(causal: torch.nn.Module) -> str:
    """Set up the attention of a freshly loaded model (in evaluation mode) and return its name.

    winnow_packed if it is correct, else the model's own with restarting position_ids (slower: transformers builds a
    T × T mask). Raises TrainerError if neither isolates documents.
    """
    attention.register()
    own = causal.config._attn_implementation
    if causal.config.model_type in FAMILIES:
        causal.set_attn_implementation(attention.PACKED_ATTENTION)
        return attention.PACKED_ATTENTION
    expected = _alone(causal)
    choices = [own]
    # Chunked attention exists only as a mask, which packed attention does not receive.
    if getattr(causal, "_supports_attention_backend", False) and not getattr(
        causal.config, "attention_chunk_size", None
    ):
        choices.insert(0, attention.PACKED_ATTENTION)
    failures = []
    for name in choices:
        causal.set_attn_implementation(name)
        failure = _difference(causal, expected)
        if failure is None:
            logger.info("%s: packs go through %s attention, verified on two documents", causal.config.model_type, name)
            return name
        failures.append(f"{name}: {failure}")
    raise TrainerError(
        f"model.name: {type(causal).__name__} does not isolate the documents of a pack ({'; '.join(failures)}); "
        f"choose a model of one of the families {', '.join(family.name for family in FAMILIES.values())}"
    )


class _Probe:
    """Two documents of 24 and 17 tokens, all of them targets."""

    def __init__(self, vocabulary: int) -> None:
        rng = np.random.default_rng(0)
        self.documents = [rng.integers(0, vocabulary, length) for length in (24, 17)]

    def ids(self, row: int) -> np.ndarray:
        """(length,) token ids of a document."""
        return self.documents[row]

    def targets(self, row: int) -> np.ndarray:
        """(length,) ones: every token is a target."""
        return np.ones(len(self.documents[row]), dtype=np.uint8)


def _probe_batch(causal: torch.nn.Module) -> Batch:
    embeddings = causal.get_input_embeddings().weight
    return collate(_Probe(embeddings.shape[0]), [0, 1], embeddings.device)


@torch.no_grad()
def _alone(causal: torch.nn.Module) -> torch.Tensor:
    batch = _probe_batch(causal)
    pieces = [batch.input_ids[start:end] for start, end in zip(batch.borders, batch.borders[1:], strict=False)]
    return torch.cat([causal(input_ids=piece[None], use_cache=False).logits[0] for piece in pieces]).float()


@torch.no_grad()
def _difference(causal: torch.nn.Module, expected_TV: torch.Tensor) -> str | None:
    try:
        hidden = hidden_states(causal, _probe_batch(causal))
    except (TypeError, ValueError) as error:  # a forward without position_ids, or with unsupported arguments
        return str(error).splitlines()[0]
    weight, bias = output_head(causal)
    logits_TV = torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias).float()
    share = ((logits_TV - expected_TV).abs().mean() / expected_TV.std()).item()
    return None if share <= TOLERANCE[weight.dtype] else f"logits differ by {share:.3g} of their standard deviation"
