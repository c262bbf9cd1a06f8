"""The architectures that Winnow supports fully: the only list of them.

A model of one of these trains, scores and generates through our own decoder (trainer/decoder), and its packed attention is proven by
the test suite. A family is data: in what its layers differ from Llama's. Any other model runs through transformers, if the check at load
finds that it keeps the documents of a pack apart (trainer/gate/architecture.py). CONTRIBUTING.md has the recipe for another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Names = tuple[str | None, str | None]
"""Of the norm before and of the norm after one half of a layer; None: there is none."""
PRE_NORM: tuple[Names, Names] = (("input_layernorm", None), ("post_attention_layernorm", None))
POST_NORM: tuple[Names, Names] = ((None, "post_attention_layernorm"), (None, "post_feedforward_layernorm"))
SANDWICH_NORM: tuple[Names, Names] = (
    ("input_layernorm", "post_attention_layernorm"),
    ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)
SEPARATE = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
FUSED = (("self_attn.qkv_proj",), ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",))


@dataclass(frozen=True)
class Family:
    """One architecture, by what its layers have that Llama's have not. Numbers (windows, scales, caps) are the config's.

    name: as messages write it. package: of transformers.models, if its name is not the `model_type`.
    norms: around attention and around the MLP. projections: the linear layers whose inputs are those of the two halves, and of their
    last layers.
    rounded_norms: whether a norm is rounded before it is multiplied by its weight; else both are float32, and norm_offset is added to
    the weight. head_norms: whether queries and keys are normalized, each head or all heads together.
    partial_rope: whether only the first columns of a head may be rotated. ropes_by_type: whether a layer's rotary embedding depends
    on its type (config.layer_types).
    one_window: whether all layers have the config's sliding window, if any; else a layer has its own. softcaps: whether attention
    scores are capped.
    """

    name: str
    package: str | None = None
    norms: tuple[Names, Names] = PRE_NORM
    projections: tuple[tuple[str, ...], ...] = SEPARATE
    rounded_norms: bool = True
    norm_offset: float = 0.0
    head_norms: bool = False
    partial_rope: bool = False
    ropes_by_type: bool = False
    one_window: bool = False
    softcaps: bool = False

    @property
    def after_norms(self) -> bool:
        """Whether the output of a half is normalized before it is added to the residual stream."""
        return any(after for _, after in self.norms)


def _gemma(name: str, **differences: Any) -> Family:
    return Family(name, rounded_norms=False, norm_offset=1.0, **differences)


FAMILIES: dict[str, Family] = {
    "llama": Family("Llama"),
    "mistral": Family("Mistral", one_window=True),
    "qwen2": Family("Qwen2"),
    "qwen3": Family("Qwen3", head_norms=True),
    "smollm3": Family("SmolLM3"),
    "granite": Family("Granite"),
    "phi3": Family("Phi-3 and Phi-4", projections=FUSED, partial_rope=True, one_window=True),
    "olmo2": Family("OLMo 2", norms=POST_NORM, rounded_norms=False, head_norms=True),
    "olmo3": Family("OLMo 3", norms=POST_NORM, rounded_norms=False, head_norms=True, ropes_by_type=True),
    "gemma": _gemma("Gemma"),
    "gemma2": _gemma("Gemma 2", norms=SANDWICH_NORM, softcaps=True),
    "gemma3_text": _gemma("Gemma 3", package="gemma3", norms=SANDWICH_NORM, head_norms=True, ropes_by_type=True),
}
"""By transformers' `model_type`."""
