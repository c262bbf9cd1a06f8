"""Sizes of a model from its config, for estimates of memory and time; loads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.config import LoraConfig, ModelConfig
from trainer.decoder.retention import ALIGN, Widths
from trainer.errors import MachineError
from trainer.families import FAMILIES
from trainer.tokenizer import load_config

PUBLISHED = {
    "mistralai/Mistral-7B-v0.1": ("mistral", 4096, 14336, 32, 32, 8, 32000, False),
    "mistralai/Mistral-7B-v0.3": ("mistral", 4096, 14336, 32, 32, 8, 32768, False),
    "meta-llama/Llama-2-7b-hf": ("llama", 4096, 11008, 32, 32, 32, 32000, False),
    "meta-llama/Llama-3.1-8B": ("llama", 4096, 14336, 32, 32, 8, 128256, False),
    "Qwen/Qwen2.5-0.5B": ("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "Qwen/Qwen2.5-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "Qwen/Qwen2.5-7B": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("llama", 576, 1536, 30, 9, 3, 49152, True),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": ("llama", 2048, 8192, 24, 32, 32, 49152, True),
}
"""Sizes of well-known bases, from the config.json of each on the hub, so that a plan needs neither network nor access: model type, hidden,
intermediate, layers, heads, key and value heads, vocabulary, whether the output head is the embedding."""


@dataclass(frozen=True)
class ModelShape:
    """Numbers of parameters and widths of a decoder.

    `linear`: parameters in the projections that NF4 quantizes and LoRA adapts; `other`: embeddings, norms and (untied) output head.
    `lora`: trainable parameters under the given LoRA section. `widths`: those of a layer of our own decoder, None if the model
    runs through transformers' forward.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    kv_width: int
    vocabulary: int
    linear: int
    other: int
    lora: int
    largest_linear: int
    widths: Widths | None
    published: bool = False
    """Whether the sizes are those of PUBLISHED, because the model's config cannot be read here."""

    @property
    def training_flops_per_token(self) -> float:
        """Operations to train on one token. A frozen weight takes part in the forward and in one backward product, a
        LoRA weight in two backward products; 2 operations each. Not counted: recomputation, attention scores, and the
        output head, which depend on lengths and targets."""
        return 2.0 * (2 * self.linear + 3 * self.lora)


def model_shape(model: ModelConfig, lora: LoraConfig, bytes_per_value: int = 2) -> ModelShape:
    """Build the architecture on the meta device and count.

    Raises:
        trainer.errors.TrainerError: the config of the model cannot be loaded, or has sizes that no model has.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config, published = _config(model)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    head = skeleton.get_output_embeddings()
    wanted = None if lora.targets == "all-linear" else set(lora.targets)
    linear = adapted = largest = 0
    for name, module in skeleton.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            linear += module.weight.numel()
            largest = max(largest, module.weight.numel())
            if wanted is None or name.rsplit(".", 1)[-1] in wanted:
                adapted += lora.r * (module.in_features + module.out_features) + lora.dora * module.out_features
    total = sum(parameter.numel() for parameter in skeleton.parameters())
    heads = getattr(config, "num_attention_heads", 1)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_width = (getattr(config, "num_key_value_heads", None) or heads) * head_width
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    widths = None
    if config.model_type in FAMILIES and not lora.dora:
        widths = Widths(
            hidden=config.hidden_size,
            query=heads * head_width,
            key_value=kv_width,
            intermediate=intermediate,
            heads=heads,
            rank=-(-lora.r // ALIGN) * ALIGN,
            itemsize=bytes_per_value,
            qk_norm=FAMILIES[config.model_type].head_norms,
            after_norms=FAMILIES[config.model_type].after_norms,
            scaled=getattr(config, "residual_multiplier", 1.0) != 1.0,
        )
    return ModelShape(
        name=model.name,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=intermediate,
        kv_width=kv_width,
        vocabulary=config.vocab_size,
        linear=linear,
        other=total - linear,
        lora=adapted,
        largest_linear=largest,
        widths=widths,
        published=published,
    )


def _config(model: ModelConfig) -> tuple[Any, bool]:
    """The model's config; if it cannot be read and is a well-known base of the hub, a config of its published sizes, and True."""
    try:
        return load_config(model), False
    except MachineError:
        if model.name not in PUBLISHED:
            raise
        from transformers import AutoConfig

        kind, hidden, intermediate, layers, heads, kv_heads, vocabulary, tied = PUBLISHED[model.name]
        sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
        sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary}
        return AutoConfig.for_model(kind, **sizes, tie_word_embeddings=tied), True
