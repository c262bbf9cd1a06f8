"""The trainer's sections of the configuration. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class ModelConfig(BaseModel, extra="forbid", frozen=True):
    """The base model, and how it is held and computed."""

    name: str = Field("mistralai/Mistral-7B-v0.3", description="Directory, or repository id on the hub.")
    revision: str | None = Field(
        None, description="Commit, tag or branch on the hub; pin a commit to make runs repeatable."
    )
    quantization: Literal["nf4", "none"] = Field(
        "nf4",
        description="nf4 holds the linear layers in 4 bits (about 0.56 bytes a weight); none keeps compute_dtype.",
    )
    double_quantization: bool = Field(
        True, description="Quantize the NF4 scales too: saves 0.4 bits a weight, costs no accuracy."
    )
    compute_dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Activations and matrix products. auto: bfloat16 where the device is fast at it, else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes the GPU when there is one.")
    cache_dequantized: Literal["auto"] | bool = Field(
        "auto",
        description="Keep the NF4 weights dequantized beside their 4-bit form: same values and results, no "
        "dequantization in each forward and backward, 2 (bfloat16) or 4 (float32) bytes a weight more. "
        "auto: on a CPU with the memory to spare.",
    )
    chat_template: str = Field(
        "auto", description="auto takes the tokenizer's own chat template, else mistral; or mistral, chatml, plain."
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Only for authors you trust."
    )


class LoraConfig(BaseModel, extra="forbid", frozen=True):
    """The adapter that is trained (LoRA, arXiv 2106.09685)."""

    r: int = Field(
        16,
        ge=1,
        le=1024,
        description="Rank. 2 × the rank trains twice as many parameters; memory and time grow little.",
    )
    alpha: float = Field(
        32.0, gt=0, description="Scale: the update is multiplied by alpha / r (rslora: alpha / sqrt(r))."
    )
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before A, in training only.")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear", description=f"Every linear layer but the output head, or a list out of {', '.join(PROJECTIONS)}."
    )
    rslora: bool = Field(False, description="Rank-stabilised scale (arXiv 2312.03732); use it for ranks above 64.")
    bias: Literal["none"] = Field(
        "none", description="Biases stay as they are: the base model must come back unchanged."
    )

    @model_validator(mode="after")
    def _known_targets(self) -> LoraConfig:
        if isinstance(self.targets, list):
            unknown = sorted(set(self.targets) - set(PROJECTIONS))
            if unknown or not self.targets:
                raise ValueError(
                    f"targets: expected 'all-linear' or some of {list(PROJECTIONS)}, found {unknown or 'an empty list'}"
                )
        return self


class TrainConfig(BaseModel, extra="forbid", frozen=True):
    """One round's training."""

    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Course of the learning rate after warm-up."
    )
    warmup_ratio: float = Field(
        0.03, ge=0, lt=1, description="Share of the steps in which the learning rate rises linearly."
    )
    epochs: float = Field(1.0, gt=0, description="Passes over the selection; a fraction trains on part of the packs.")
    pack_length: int = Field(
        2048,
        ge=8,
        description="Tokens of one pack, at least the longest document. Longer packs waste less and need more memory.",
    )
    packs_per_step: int = Field(4, ge=1, description="Packs whose gradient makes one step of the optimizer.")
    packs_per_batch: int = Field(
        4,
        ge=1,
        description="Packs that go through the model together: memory against speed, which drops below 8k tokens.",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of AdamW.")
    neftune_alpha: float = Field(
        5.0,
        ge=0,
        description="NEFTune noise on embeddings (arXiv 2310.05914): uniform ± alpha / sqrt(length × width). 0 is off.",
    )
    gradient_checkpointing: bool = Field(
        True, description="Recompute activations in the backward pass: a third more time, a fraction of the memory."
    )
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints; a crash loses at most these.")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints kept while training runs.")
    mode: Literal["continue", "retrain"] = Field(
        "continue",
        description="continue trains the adapter of the round before on the new examples; retrain starts anew on all "
        "that was picked so far.",
    )
    replay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="With continue: examples of earlier rounds mixed in, as a share of the new ones.",
    )


class MeasureConfig(BaseModel, extra="forbid", frozen=True):
    """Forward passes that score examples and evaluate adapters."""

    batch_tokens: int = Field(
        8192,
        ge=8,
        description="Tokens that go through the model together; a longer example goes alone. Changes speed only.",
    )
