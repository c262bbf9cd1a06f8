"""Random models of a few thousand weights, and token tables in memory: enough to check every number exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainer.config import ModelConfig

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

ALTERNATING = ["sliding_attention", "full_attention"]
TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
}


def build(kind: str, seed: int = 0, **changes: object) -> torch.nn.Module:
    """A random causal model of architecture `kind` with spread-out logits."""
    import transformers

    torch.manual_seed(seed)
    configs = {
        "llama": (transformers.LlamaConfig, SIZES),
        "mistral": (transformers.MistralConfig, {**SIZES, "sliding_window": None}),
        "qwen2": (transformers.Qwen2Config, SIZES),
        "qwen3": (transformers.Qwen3Config, {**SIZES, "head_dim": 8}),
        "smollm3": (transformers.SmolLM3Config, {**SIZES, "no_rope_layers": [1, 0]}),
        "granite": (
            transformers.GraniteConfig,
            {
                **SIZES,
                "embedding_multiplier": 3.0,
                "attention_multiplier": 0.5,
                "residual_multiplier": 0.6,
                "logits_scaling": 2.0,
            },
        ),
        "phi3": (transformers.Phi3Config, {**SIZES, "partial_rotary_factor": 0.5}),
        "olmo2": (transformers.Olmo2Config, SIZES),
        "olmo3": (
            transformers.Olmo3Config,
            {**SIZES, "sliding_window": 6, "layer_types": ALTERNATING, "rope_parameters": TWO_ROPES},
        ),
        "gemma": (transformers.GemmaConfig, {**SIZES, "head_dim": 8}),
        "gemma2": (
            transformers.Gemma2Config,
            {**SIZES, "head_dim": 8, "sliding_window": 6, "layer_types": ALTERNATING, "query_pre_attn_scalar": 6}
            | {"attn_logit_softcapping": 0.4, "final_logit_softcapping": 3.0},
        ),
        "gemma3_text": (
            transformers.Gemma3TextConfig,
            {**SIZES, "head_dim": 8, "sliding_window": 6, "layer_types": ALTERNATING, "query_pre_attn_scalar": 6}
            | {"rope_parameters": TWO_ROPES},
        ),
        "cohere": (transformers.CohereConfig, SIZES),
        "gpt_neox": (transformers.GPTNeoXConfig, {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
        "gpt2": (transformers.GPT2Config, {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4}),
        "mamba": (transformers.MambaConfig, {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}),
    }
    make, sizes = configs[kind]
    model = transformers.AutoModelForCausalLM.from_config(make(**{**sizes, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
            elif name.endswith("norm.weight") and kind != "llama":  # some tests know numbers of that one
                parameter.add_(torch.rand(parameter.shape, generator=generator) - 0.5)
    return model.eval()


def saved(path: Path, kind: str = "llama", **changes: object) -> ModelConfig:
    """Save a random model under `path` and return the configuration that loads it in float32 on the CPU."""
    build(kind, **changes).save_pretrained(path)
    return ModelConfig(name=str(path), quantization="none", compute_dtype="float32", device="cpu")


@dataclass(frozen=True)
class Table:
    """A token table: documents and their target marks as lists of arrays."""

    documents: list[np.ndarray]
    marks: list[np.ndarray]

    def ids(self, row: int) -> np.ndarray:
        return self.documents[row]

    def targets(self, row: int) -> np.ndarray:
        return self.marks[row]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(x) for x in self.documents])


def table(lengths: list[int], seed: int = 0) -> Table:
    """Random documents whose second half is a response; the last token ends it and is a target too."""
    rng = np.random.default_rng(seed)
    documents = [rng.integers(3, VOCABULARY, length).astype(np.int32) for length in lengths]
    marks = []
    for length in lengths:
        mark = np.zeros(length, dtype=np.uint8)
        mark[length // 2 :] = 1
        mark[-1] = 2
        marks.append(mark)
    return Table(documents, marks)


@dataclass(frozen=True)
class Plan:
    """Packs: pack p holds members[offsets[p]:offsets[p + 1]]."""

    offsets: np.ndarray
    members: np.ndarray


def plan(packs: list[list[int]]) -> Plan:
    """A plan out of lists of document numbers."""
    return Plan(np.cumsum([0, *map(len, packs)]), np.array([m for pack in packs for m in pack]))
