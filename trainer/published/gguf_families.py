"""The architectures that a GGUF file is written of: what llama.cpp computes otherwise than a Llama, and what it cannot compute.

Read from llama.cpp's src/models/*.cpp and conversion/*.py; tests/unit/trainer/test_llama_cpp.py compares logits and answers of each. A
family whose test fails does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
from gguf import GGUFWriter

SLIDING, FULL = "sliding_attention", "full_attention"
"""transformers' names of the kinds of layers."""


@dataclass(frozen=True)
class GgufFamily:
    """One architecture of llama.cpp.

    neighbours: whether it rotates neighbouring values of a head, where transformers rotates value i with value i + width / 2.
    norm_offset: added to the weights of norms, which llama.cpp multiplies by as they are. activation: of the MLP, by transformers' name.
    ropes: kinds of rotary positions that are written. biases: whether attention and MLP may have biases.
    partial: whether only the first values of a head may be rotated; elsewhere transformers does not read `partial_rotary_factor`.
    head: whether the output head may be the embedding ("tied"), must be ("always tied"), or must not ("own").
    windows: whether layers have sliding windows of their own; else a window ends the context.
    differs: why a config is computed otherwise, or None. keys: what is written besides the parameters of every family.
    """

    arch: gguf.MODEL_ARCH
    neighbours: bool = False
    norm_offset: float = 0.0
    activation: str = "silu"
    ropes: tuple[str, ...] = ("default", "linear")
    biases: bool = False
    partial: bool = False
    head: str = "tied"
    windows: bool = False
    differs: Callable[[Any], str | None] = lambda config: None
    keys: Callable[[GGUFWriter, Any], None] = lambda writer, config: None


def reason_not_written(config: Any) -> str | None:
    """What of a model's config llama.cpp does not compute exactly; None if it computes all of it."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        return f"the architecture {config.model_type} (known: {', '.join(FAMILIES)})"
    ropes = _ropes(config)
    for kind in (rope.get("rope_type", "default") for rope in ropes.values()):
        if kind not in family.ropes:
            return f"rotary positions of the kind {kind} in a {config.model_type} (written: {', '.join(family.ropes)})"
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation != family.activation:
        return f"the activation {activation}"
    if not family.biases and any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias")):
        return f"biases in a {config.model_type}"
    if family.head == "always tied" and not config.tie_word_embeddings:
        return f"an output head of its own in a {config.model_type}"
    if family.head == "own" and config.tie_word_embeddings:
        return f"an output head tied to the embeddings in a {config.model_type}"
    layers = getattr(config, "layer_types", None) or ()
    if not family.windows and config.model_type != "mistral" and any(kind != FULL for kind in layers):
        return "layers with a sliding window"
    return family.differs(config)


def rope_of(config: Any) -> dict[str, Any]:
    """transformers' rotary parameters of the layers without a window."""
    return _ropes(config)[FULL]


def context_length(config: Any) -> int:
    """Tokens up to which llama.cpp computes what transformers does: in a Llama-like model it attends to all of the context, so a sliding
    window ends it."""
    family = FAMILIES.get(config.model_type)
    window = None if family is not None and family.windows else getattr(config, "sliding_window", None)
    return min(config.max_position_embeddings, window) if window else config.max_position_embeddings


def head_width(config: Any) -> int:
    """Values of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def rotated_width(config: Any) -> int:
    """Values of a head that rotary positions rotate, the first ones."""
    factor = rope_of(config).get("partial_rotary_factor", 1.0) if FAMILIES[config.model_type].partial else 1.0
    return int(head_width(config) * factor)


def _ropes(config: Any) -> dict[str, dict[str, Any]]:
    """Rotary parameters by the kind of layer."""
    found = config.rope_parameters
    return {kind: found[kind] for kind in (SLIDING, FULL)} if FULL in found else {FULL: found}


def _slides(config: Any) -> bool:
    """Whether a layer has a sliding window."""
    return SLIDING in config.layer_types


def _write_windows(writer: GGUFWriter, config: Any) -> None:
    """The window, and which layers have it; nothing if none has, because llama.cpp does not open a file with a window and no such layer."""
    if not _slides(config):
        return
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern([kind == SLIDING for kind in config.layer_types])


def _scaled_otherwise(config: Any, layers_of_the_largest: int) -> str | None:
    """llama.cpp scales attention scores by the width of a head, in the largest Gemma of a generation by hidden size / heads."""
    largest = config.num_hidden_layers == layers_of_the_largest
    expected = config.hidden_size // config.num_attention_heads if largest else head_width(config)
    scale = config.query_pre_attn_scalar
    return None if scale == expected else f"query_pre_attn_scalar {scale} (llama.cpp: {expected})"


def _gemma2_differs(config: Any) -> str | None:
    if not config.attn_logit_softcapping or not config.final_logit_softcapping:
        return "a Gemma 2 without caps of its scores or logits"
    if not _slides(config):
        return "a Gemma 2 without a layer with a sliding window"
    return _scaled_otherwise(config, 46)


def _gemma2_keys(writer: GGUFWriter, config: Any) -> None:
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    _write_windows(writer, config)


def _gemma3_differs(config: Any) -> str | None:
    if _slides(config) and _ropes(config)[SLIDING].get("rope_type", "default") != "default":
        return "scaled rotary positions in layers with a window"
    if getattr(config, "attn_logit_softcapping", None):
        return "a cap of attention scores in a Gemma 3"
    if getattr(config, "use_bidirectional_attention", False):
        return "attention to later tokens"
    return _scaled_otherwise(config, 62)


def _gemma3_keys(writer: GGUFWriter, config: Any) -> None:
    if _slides(config):
        writer.add_rope_freq_base_swa(float(_ropes(config)[SLIDING]["rope_theta"]))
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    _write_windows(writer, config)


def _narrower_or_wider(config: Any) -> str | None:
    """llama.cpp reckons the width of these families' heads from the model's."""
    if head_width(config) * config.num_attention_heads != config.hidden_size:
        return "heads that are not as wide as the model together"
    return None


def _olmo3_differs(config: Any) -> str | None:
    sliding, full = (_ropes(config)[kind] for kind in (SLIDING, FULL))
    if _slides(config) and sliding.get("rope_type", "default") != "default":
        return "scaled rotary positions in layers with a window"
    if _slides(config) and sliding["rope_theta"] != full["rope_theta"]:
        return "two bases of rotary positions in an Olmo 3"
    return _narrower_or_wider(config)


def _granite_keys(writer: GGUFWriter, config: Any) -> None:
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def _granite_differs(config: Any) -> str | None:
    scales = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")
    zero = next((name for name in scales if not getattr(config, name)), None)
    return None if zero is None else f"{zero} 0 in a Granite"


def _smollm3_differs(config: Any) -> str | None:
    every_fourth = [int((layer + 1) % 4 != 0) for layer in range(config.num_hidden_layers)]
    rotated = [int(bool(kind)) for kind in config.no_rope_layers]
    return None if rotated == every_fourth else "rotary positions in other layers than three of four"


_LLAMA = GgufFamily(gguf.MODEL_ARCH.LLAMA, neighbours=True, ropes=("default", "linear", "llama3"), biases=True)
_OLMO2 = GgufFamily(gguf.MODEL_ARCH.OLMO2, head="own", differs=_narrower_or_wider)
_GELU = "gelu_pytorch_tanh"
FAMILIES: dict[str, GgufFamily] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": GgufFamily(gguf.MODEL_ARCH.QWEN2, biases=True, differs=_narrower_or_wider),
    "qwen3": GgufFamily(gguf.MODEL_ARCH.QWEN3),
    "smollm3": GgufFamily(gguf.MODEL_ARCH.SMOLLM3, neighbours=True, differs=_smollm3_differs),
    "granite": GgufFamily(
        gguf.MODEL_ARCH.GRANITE, neighbours=True, biases=True, differs=_granite_differs, keys=_granite_keys
    ),
    "phi3": GgufFamily(gguf.MODEL_ARCH.PHI3, ropes=("default",), partial=True, differs=_narrower_or_wider),
    "olmo2": _OLMO2,
    "olmo3": GgufFamily(gguf.MODEL_ARCH.OLMO2, head="own", windows=True, differs=_olmo3_differs, keys=_write_windows),
    "gemma": GgufFamily(gguf.MODEL_ARCH.GEMMA, norm_offset=1.0, activation=_GELU, head="always tied"),
    "gemma2": GgufFamily(
        gguf.MODEL_ARCH.GEMMA2, norm_offset=1.0, activation=_GELU, head="always tied", windows=True,
        differs=_gemma2_differs, keys=_gemma2_keys,
    ),
    "gemma3_text": GgufFamily(
        gguf.MODEL_ARCH.GEMMA3, norm_offset=1.0, activation=_GELU, windows=True, differs=_gemma3_differs, keys=_gemma3_keys
    ),
}  # fmt: skip
"""By transformers' `model_type`."""
