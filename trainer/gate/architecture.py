"""Chooses the attention of a model and verifies that it computes packs exactly.

The test suite checks the architectures of trainer/families.py, by transformers' own classes. Any other model is checked when it is
loaded, in the dtype in which it will be used: documents of a pack must be isolated (trainer/gate/isolation.py), and its logits must be
the output head's, with a scale and a cap of its config (trainer/gate/head.py). A model is exact or refused.
"""

from __future__ import annotations

import logging

import torch

from trainer import attention
from trainer.decoder.binding import is_family
from trainer.errors import TrainerError
from trainer.families import FAMILIES
from trainer.gate.head import find_logits, scales_logits
from trainer.gate.isolation import alone, failure
from trainer.gate.probe import short_windows

BLOCK_FIELDS = ("compress_rates", "index_block_size")
"""Fields of configs (DeepSeek-V4, MiniMax-M3) of attention to blocks of neighbouring tokens instead of single ones."""

logger = logging.getLogger(__name__)


def prepare_attention(causal: torch.nn.Module) -> str:
    """Set up the attention of a freshly loaded model (in evaluation mode) and return its name.

    winnow_packed if it is correct, else the model's own with restarting position_ids (slower: transformers builds a
    T × T mask). Raises TrainerError if neither is exact.
    """
    attention.register()
    if is_family(causal):
        if scales_logits(causal.config):
            causal.winnow_logits = find_logits(causal)
        causal.set_attn_implementation(attention.PACKED_ATTENTION)
        return attention.PACKED_ATTENTION
    name = type(causal).__name__
    _refuse_blocks(causal, name)
    try:
        causal.winnow_logits = find_logits(causal)
        with short_windows(causal):
            chosen = _choose(causal, name)
    except TrainerError:
        raise
    except Exception as error:  # code of any model may raise anything; none of it may be used then
        raise TrainerError(
            f"model.name: {name} cannot be checked ({_first_line(error)}); choose a model of one of the families {_families()}"
        ) from error
    logger.info("%s: packs go through %s attention, verified on a probe", name, chosen)
    return chosen


def _refuse_blocks(causal: torch.nn.Module, name: str) -> None:
    """Blocks may be longer than the probe's documents, so the probe cannot find that they cross borders."""
    config = causal.config.get_text_config(decoder=True)
    for field in BLOCK_FIELDS:
        if getattr(config, field, None):
            raise TrainerError(
                f"model.name: {name} does not isolate the documents of a pack (its attention sees blocks of tokens, {field}, which begin "
                f"at the start of the pack, not of a document); choose a model of one of the families {_families()}"
            )


def _choose(causal: torch.nn.Module, name: str) -> str:
    own = causal.config._attn_implementation
    expected = alone(causal)
    failures = []
    for choice in ([attention.PACKED_ATTENTION] if getattr(causal, "_supports_attention_backend", False) else []) + [
        own
    ]:
        try:
            causal.set_attn_implementation(choice)
            reason = failure(causal, expected)
        except Exception as error:  # a forward without position_ids, an option that packed attention refuses, …
            reason = _first_line(error)
        if reason is None:
            return choice
        failures.append(f"{choice} attention: {reason}")
    raise TrainerError(
        f"model.name: {name} does not isolate the documents of a pack ({'; '.join(failures)}); "
        f"choose a model of one of the families {_families()}"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def _families() -> str:
    return ", ".join(family.name for family in FAMILIES.values())
