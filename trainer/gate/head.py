"""Finds how a model makes logits of its hidden states: the output head alone, a scale, a soft cap.

A cap changes only large logits, and those of a short random text may all be small. Therefore the head is probed apart from the layers:
the hidden states are enlarged until plain logits have the deviation SPREAD, and the model makes logits of those.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from trainer.errors import TrainerError
from trainer.forward import body, output_head
from trainer.gate.probe import COMPARED, Probe
from trainer.loss import Head

SPREAD = 30.0
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 6e-3}
"""Largest norm of the difference of two computations of the same logits, relative to their norm. bfloat16 rounds each number by up to
2^-9, and a scale and a cap round again."""
SCALES, CAPS = ("logit_scale", "logits_scaling", "lm_head_multiplier"), ("final_logit_softcapping", "logits_soft_cap")
"""Fields of configs. A scale multiplies logits in some models and divides them in others, so both are tried."""


def scales_logits(config: Any) -> bool:
    """Whether a value of a model's config scales or caps its logits."""
    return any(scale != 1.0 or cap is not None for scale, cap in _candidates(config.get_text_config(decoder=True)))


@torch.no_grad()
def find_logits(causal: torch.nn.Module) -> tuple[float, float | None]:
    """(scale, cap or None) with which `trainer.loss.Head` gives the model's own logits.

    Raises TrainerError if no values of its config do.
    """
    hidden_Td, expected_TV = _enlarged(causal)
    head = output_head(causal)
    for scale, cap in _candidates(causal.config.get_text_config(decoder=True)):
        logits_TV = Head(head.weight, head.bias, scale, cap).logits(hidden_Td)
        if logits_TV.shape != expected_TV.shape:
            break
        difference = (logits_TV.double() - expected_TV.double()).norm() / expected_TV.double().norm()
        if difference <= ROUNDING[head.weight.dtype]:
            return scale, cap
    raise TrainerError(
        f"model.name: the logits of {type(causal).__name__} are not its output head applied to its hidden states, nor scaled or capped "
        f"by a value of its config ({', '.join((*SCALES, *CAPS))}), so its losses cannot be computed; choose another model"
    )


def _candidates(config: Any) -> Iterator[tuple[float, float | None]]:
    values = [value for name in SCALES if isinstance(value := getattr(config, name, None), (int, float)) and value]
    scales = [*(factor for value in values for factor in (value, 1 / value)), 1.0]
    caps = [value for name in CAPS if (value := getattr(config, name, None))]
    return product(scales, (*caps, None))


def _enlarged(causal: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Enlarged hidden states (T, d), and the logits (T, V) that the model makes of them."""
    weight = causal.get_input_embeddings().weight
    ids = torch.from_numpy(Probe(weight.shape[0]).ids(COMPARED)).to(weight.device)
    head, kept = output_head(causal), []

    def enlarge(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        """Replace the hidden states that leave the layers by larger ones."""
        if kept:  # a model inside another one, both of which are watched
            return output
        plain = output[0]
        factor = SPREAD / Head(head.weight, head.bias).logits(plain).float().std().clamp(min=1e-6)
        kept.append((plain.float() * factor).to(plain.dtype))
        if isinstance(output, tuple):
            return (kept[0], *output[1:])
        output["last_hidden_state"] = kept[0]
        return output

    layers = body(causal)
    watched = {layers, getattr(layers, "decoder", layers)}  # OPT's head reads the decoder inside
    hooks = [module.register_forward_hook(enlarge) for module in watched]
    try:
        logits_TV = causal(input_ids=ids[None], use_cache=False).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    return kept[0][0], logits_TV
