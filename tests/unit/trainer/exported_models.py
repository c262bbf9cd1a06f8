"""Tiny models with a random adapter, saved and published as a round does it, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_models import build

from trainer.config import LoraConfig, ModelConfig
from trainer.model import Base, save_adapter
from trainer.published.folder import write_folder
from trainer.template import ChatTemplate
from trainer.tokenizer import load_config, load_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ONE_BASE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
}
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama-3 with biases": ("llama", {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "mistral": ("mistral", {"head_dim": 16}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "tie_word_embeddings": True}),
    "granite": ("granite", {"attention_bias": True, "mlp_bias": True}),
    "phi3": ("phi3", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"rope_parameters": ONE_BASE}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": (
        "gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0},
    ),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 8}),
}
"""Each architecture that a GGUF file is written of, with the options that change the file at values that have an effect."""

LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}
UNREAD = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
NO_WINDOWS = {"layer_types": ["full_attention"] * 2}
TWO_BASES = {**ONE_BASE, "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}
MORE: dict[str, tuple[str, dict[str, object]]] = {
    **{
        f"{kind}, linear rope": (KINDS[kind][0], KINDS[kind][1] | LINEAR)
        for kind in ("smollm3", "granite", "olmo2", "gemma", "gemma2")
    },
    "olmo3, one rope": ("olmo3", {"rope_parameters": dict.fromkeys(ONE_BASE, ONE_BASE["sliding_attention"])}),
    **{f"{kind}, linear rope": (kind, KINDS[kind][1] | LINEAR) for kind in ("qwen2", "qwen3")},
    "mistral, llama3 rope": ("mistral", {"rope_parameters": LLAMA3}),
    **{
        f"{kind}, a factor that is not read": (kind, {**KINDS[kind][1], **UNREAD})
        for kind in ("llama", "qwen2", "gemma")
    },
    "gemma3_text, no windows": ("gemma3_text", {"query_pre_attn_scalar": 8, **NO_WINDOWS}),
    "olmo3, no windows": ("olmo3", NO_WINDOWS | {"rope_parameters": TWO_BASES}),
    "granite, tied": ("granite", {"tie_word_embeddings": True}),
    "phi3, tied": ("phi3", {"tie_word_embeddings": True}),
    "gemma3, untied": ("gemma3_text", {"query_pre_attn_scalar": 8, "tie_word_embeddings": False}),
    "gemma3, capped": ("gemma3_text", {"query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0}),
}
"""Options that change no name and no key of their own: only llama.cpp itself is asked about them."""


@dataclass(frozen=True)
class Published:
    """A base with an adapter: how it is loaded, the trained adapter, its folder, transformers' config, the folder's tokenizer and the
    ids that end an answer."""

    model: ModelConfig
    adapter: Path
    folder: Path
    config: Any
    tokenizer: Any
    ends: list[int]


def publish(root: Path, kind: str, tokenizer: Any, lora: LoraConfig | None = None, **model: Any) -> Published:
    """Save a random model of KINDS or MORE with `tokenizer` and a random adapter, under `root`."""
    architecture, changes = (KINDS | MORE)[kind]
    with torch.random.fork_rng(), torch.no_grad():
        causal = build(architecture, vocab_size=len(tokenizer) + 3, **changes)
        for name, parameter in causal.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.2)
            elif "embed" not in name and "lm_head" not in name:
                parameter.mul_(0.5)  # so that rounding to float16 is not amplified from layer to layer
    causal.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    settings = {"quantization": "none", "compute_dtype": "float32", "device": "cpu"} | model
    config = ModelConfig(name=str(root / "base"), **settings)
    base, template = Base.load(config), ChatTemplate.resolve(tokenizer, config.chat_template)
    with base.new_adapter(lora or LoraConfig(r=4), seed=1) as adapted:
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
        save_adapter(adapted, root / "trained")
    (root / "folder").mkdir()
    write_folder(root / "folder", root / "trained", tokenizer, template, "base")
    published = load_tokenizer(config.model_copy(update={"name": str(root / "folder")}))
    return Published(
        config, root / "trained", root / "folder", load_config(config), published, sorted(template.end_ids)
    )


@torch.no_grad()
def greedy(model: torch.nn.Module, ids: list[int], count: int, margin: float = 0.0) -> list[int]:
    """The up to `count` tokens that the model finds most probable after `ids`, one after another; they end before a token whose logit is
    not `margin` above that of every other one."""
    found = list(ids)
    for _ in range(count):
        logits = model(input_ids=torch.tensor([found]), use_cache=False).logits[0, -1]
        best, second = logits.topk(2).values
        if best - second <= margin:
            break
        found.append(int(logits.argmax()))
    return found[len(ids) :]
