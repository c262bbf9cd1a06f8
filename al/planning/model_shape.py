"""Sizes of a model from its config, for estimates of memory and time; loads no weights."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import LoraConfig, ModelConfig
from trainer.decoder.retention import ALIGN, Widths
from trainer.families import FAMILIES
from trainer.tokenizer import load_config


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

    config = load_config(model)
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
    )
