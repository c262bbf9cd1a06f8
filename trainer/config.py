"""The trainer's sections of the configuration. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS = (*PROJECTIONS, "qkv_proj", "gate_up_proj")
"""Names of linear layers that LoRA can adapt. Phi-3 has one layer for q, k and v, and one for gate and up."""
NO_PART_OF_THE_RESULT = frozenset(
    {
        *("activation_memory", "packs_per_batch", "checkpoint_every", "keep_checkpoints", "max_loss_ratio"),
        *("mode", "replay", "rewarmup_ratio"),
    }
)
"""Keys of TrainConfig that may change between interruption and resume, because the trainer's result depends on them at most by rounding
(with lora.dropout on a model that runs through transformers, `packs_per_batch` also decides which masks are drawn). The last three act
outside the trainer: they set the training data, the starting adapter, and which warm-up is used."""


class ModelConfig(BaseModel, extra="forbid", frozen=True):
    """The base model, its quantization and its compute dtype."""

    name: str = Field("mistralai/Mistral-7B-v0.3", description="Directory, or repository id on the hub.")
    revision: str | None = Field(
        None, description="Commit, tag or branch on the hub; pin a commit to make runs repeatable."
    )
    quantization: Literal["nf4", "none"] = Field(
        "nf4",
        description="nf4 stores the linear layers in 4 bits (about 0.52 bytes per weight); none keeps compute_dtype.",
    )
    double_quantization: bool = Field(
        True, description="Quantize the NF4 scales too: saves 0.4 bits per weight, costs no accuracy."
    )
    compute_dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Activations and matrix products. auto: bfloat16 if the device is fast at it, else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto uses the GPU if there is one.")
    chat_template: str = Field(
        "auto", description="auto uses the tokenizer's own chat template, else mistral. Others: mistral, chatml, plain."
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code shipped with the model. Only for authors you trust."
    )


class LoraConfig(BaseModel, extra="forbid", frozen=True):
    """The LoRA adapter (arXiv 2106.09685)."""

    r: int = Field(
        16,
        ge=1,
        le=1024,
        description="Rank. Doubling it doubles the trained parameters; memory and time grow little.",
    )
    alpha: float = Field(
        32.0, gt=0, description="Scale: the update is multiplied by alpha / r (rslora: alpha / sqrt(r))."
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout before A, only in training. Layers of one input share a mask. It is rounded to 1/65536.",
    )
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description="all-linear: every linear layer except the output head, without the fused experts of a mixture, which are "
        f"none; or a list of {', '.join(TARGETS)} (the last two: Phi-3).",
    )
    init: Literal["default", "gaussian"] = Field(
        "default",
        description="Initialisation of A (B starts at 0): default is uniform (Kaiming), gaussian has deviation 1 / r. Initialisations "
        "that change the base weights (PiSSA, OLoRA) are not offered: NF4 cannot store the change, and every round's "
        "adapter must fit the same base.",
    )
    dora: bool = Field(
        False,
        description="Train magnitude and direction of weights separately (DoRA, arXiv 2402.09353): slightly "
        "better at small ranks, but slower, because every pass forms each layer's full weight.",
    )
    rslora: bool = Field(False, description="Rank-stabilised scale (arXiv 2312.03732); use it for ranks above 64.")
    bias: Literal["none"] = Field("none", description="Biases are never trained: the base model must not change.")

    @model_validator(mode="after")
    def _known_targets(self) -> LoraConfig:
        if isinstance(self.targets, list):
            unknown = sorted(set(self.targets) - set(TARGETS))
            if unknown or not self.targets:
                raise ValueError(
                    f"targets: expected 'all-linear' or some of {list(TARGETS)}, found {unknown or 'an empty list'}"
                )
        return self


class TrainConfig(BaseModel, extra="forbid", frozen=True):
    """Training of one round."""

    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate of AdamW.")
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw",
        description="adamw keeps 8 bytes of state per trained weight; adamw_8bit (bitsandbytes, arXiv 2110.02861) keeps 2, "
        "which matters only for large ranks.",
    )
    lora_plus_ratio: float = Field(
        1.0,
        ge=1,
        description="Ratio of the learning rates of LoRA's B and A matrices (LoRA+, arXiv 2402.12354: "
        "about 16, with a lower learning_rate). 1: the same rate for both.",
    )
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine",
        description="Learning rate after warm-up. wsd: constant, then linear to 0 over the last "
        "decay_ratio of the steps (arXiv 2405.18392).",
    )
    decay_ratio: float = Field(
        0.2, gt=0, le=1, description="With schedule wsd: share of the steps in which the learning rate decreases to 0."
    )
    warmup_ratio: float = Field(
        0.03, ge=0, lt=1, description="Share of the steps in which the learning rate increases linearly."
    )
    rewarmup_ratio: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="warmup_ratio of an adapter that continues the previous round's. The optimizer's moments restart there, and large "
        "first steps would undo earlier training (re-warming, arXiv 2403.08763).",
    )
    epochs: float = Field(
        1.0, gt=0, description="Passes over the selection; with a fraction part of the packs are used."
    )
    pack_length: int = Field(
        2048,
        ge=8,
        description="Tokens per pack, at least the longest document. Longer packs waste less and need more memory.",
    )
    batching: Literal["packed", "length_sorted"] = Field(
        "packed",
        description="packed fills packs as much as possible; length_sorted groups documents of similar length into batches "
        "of at most pack_length tokens. Neither splits or pads a document; packed makes fewer and more even steps.",
    )
    packs_per_step: int = Field(4, ge=1, description="Packs per optimizer step.")
    packs_per_batch: int = Field(
        4,
        ge=1,
        description="Packs per forward pass. More need more memory; below 8k tokens speed drops. When memory runs out it is halved by "
        "itself. Changes speed and memory; the result only by rounding, except with lora.dropout on models that run through transformers.",
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="Maximum gradient norm; larger gradients are scaled down to it."
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of AdamW.")
    neftune_alpha: float = Field(
        5.0,
        ge=0,
        description="NEFTune noise on embeddings (arXiv 2310.05914): uniform ± alpha / sqrt(length × width). 0 is off.",
    )
    activation_memory: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto",
        description="GiB for activations kept for the backward pass, and for NF4 weights held dequantized. "
        "Activations that do not fit are recomputed (at most a third more time) or moved to host memory. auto: the "
        "device's free memory. Changes speed and memory, not the result.",
    )
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints; a crash loses at most this many.")
    keep_checkpoints: int = Field(
        2,
        ge=1,
        description="Newest checkpoints kept during training, in addition to the one with the lowest dev loss.",
    )
    eval_every: int | None = Field(
        None,
        ge=1,
        description="Steps between evaluations on dev; the adapter with the lowest dev loss is kept. "
        "Each takes a forward pass over dev. null: no evaluation; the adapter of the last step is kept.",
    )
    patience: int = Field(
        0,
        ge=0,
        description="With eval_every: stop after this many consecutive evaluations without a lower dev loss. 0: never early. "
        "The control then trains the same part of its own steps.",
    )
    max_loss_ratio: float | None = Field(
        4.0,
        gt=1,
        description="Training stops as diverged if a step's loss exceeds this many times the median of the previous 20 steps. "
        "A median under 1 nat counts as 1, because one hard batch is not divergence. null: only a loss that is not "
        "finite stops it.",
    )
    mode: Literal["continue", "retrain"] = Field(
        "continue",
        description="continue trains the previous round's adapter on the new examples; retrain starts from scratch on all "
        "examples picked so far.",
    )
    replay: float = Field(
        0.5,
        ge=0,
        le=1,
        description="With continue: examples of earlier rounds to mix in, as a share of the new ones. Training takes longer by this share "
        "and forgets much less.",
    )

    @model_validator(mode="after")
    def _keys_that_go_together(self) -> TrainConfig:
        if self.patience and self.eval_every is None:
            raise ValueError(f"patience: {self.patience} needs evaluations; set eval_every too")
        if self.schedule == "wsd" and max(self.warmup_ratio, self.rewarmup_ratio) + self.decay_ratio > 1:
            raise ValueError(
                f"warmup_ratio + decay_ratio: expected at most 1, found {self.warmup_ratio} + {self.decay_ratio} "
                f"(and rewarmup_ratio {self.rewarmup_ratio})"
            )
        return self


class MeasureConfig(BaseModel, extra="forbid", frozen=True):
    """Forward passes for scoring and evaluation."""

    batch_tokens: int = Field(
        16384,
        ge=8,
        description="Tokens per forward pass; a longer example gets its own pass. Changes only speed and memory.",
    )
    gradient_tokens: int = Field(
        8192,
        ge=8,
        description="The same for gradients of examples (score less), which need as much memory as training.",
    )
    weights: Literal["auto", "nf4", "dequantized", "fp8"] = Field(
        "auto",
        description="How NF4 weights are held during scoring: nf4 dequantizes layer by layer; dequantized holds "
        "them in compute_dtype (the same values, up to 2% faster, 2 bytes per weight); auto uses that if it fits. fp8 is 1.6 "
        "times as fast and rounds weights and activations to 8 bits: scores change, and the rank agreement with exact "
        "scores is measured and printed. Evaluation never uses it.",
    )


class GenerateConfig(BaseModel, extra="forbid", frozen=True):
    """Answers generated by the model, to find unlabelled prompts of high uncertainty."""

    max_new_tokens: int = Field(
        128,
        ge=1,
        description="Maximum tokens of an answer. Time and memory grow with it. A prompt that leaves less room than this "
        "in tokens.max_length is not exported for labelling.",
    )
    samples: int = Field(
        4,
        ge=0,
        description="Sampled answers in addition to the greedy one; their disagreement is measured. 0 or 1: only the "
        "entropy of the greedy answer counts. Time grows in proportion to 1 + samples.",
    )
    temperature: float = Field(
        0.7,
        gt=0,
        description="Logits are divided by it before sampling. At 1 long answers differ for every prompt; "
        "at lower values mainly uncertain answers differ.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Tokens are sampled from the most probable ones with this total probability (nucleus sampling, "
        "arXiv 1904.09751). 1: from all.",
    )
    batch_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Tokens of all answers under way, including their prompts; the answers to one prompt are never split. More is "
        "faster and needs a larger cache (128 KiB per token for Mistral-7B in bfloat16). auto: a cache of 2 GiB on a GPU, 16,384 "
        "tokens on a CPU. Changes only speed and memory.",
    )
