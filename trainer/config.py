"""The trainer's sections of the configuration. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NO_PART_OF_THE_RESULT = frozenset(
    {"activation_memory", "checkpoint_every", "keep_checkpoints", "max_loss_ratio", "mode", "replay", "rewarmup_ratio"}
)
"""Keys of TrainConfig on which a finished adapter does not depend: they may change while a training is interrupted. The last three decide
what it is trained on, from which adapter, and which warm-up is used."""


class ModelConfig(BaseModel, extra="forbid", frozen=True):
    """The base model, and how it is held and computed."""

    name: str = Field("mistralai/Mistral-7B-v0.3", description="Directory, or repository id on the hub.")
    revision: str | None = Field(
        None, description="Commit, tag or branch on the hub; pin a commit to make runs repeatable."
    )
    quantization: Literal["nf4", "none"] = Field(
        "nf4",
        description="nf4 holds the linear layers in 4 bits (about 0.52 bytes a weight); none keeps compute_dtype.",
    )
    double_quantization: bool = Field(
        True, description="Quantize the NF4 scales too: saves 0.4 bits a weight, costs no accuracy."
    )
    compute_dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Activations and matrix products. auto: bfloat16 where the device is fast at it, else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes the GPU when there is one.")
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
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout before A, in training only. Costs a sixth of the speed."
    )
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear", description=f"Every linear layer but the output head, or a list out of {', '.join(PROJECTIONS)}."
    )
    init: Literal["default", "gaussian"] = Field(
        "default",
        description="How A starts (B starts at 0): default is uniform (Kaiming), gaussian has deviation 1 / r. Starts "
        "that change the base weights (PiSSA, OLoRA) are not offered: NF4 cannot hold the change, and every round's "
        "adapter must fit the same base.",
    )
    dora: bool = Field(
        False,
        description="Train the length of each weight row apart from its direction (DoRA, arXiv 2402.09353): a little "
        "better at small ranks, and every layer's full weight is formed in each pass, which makes training slower.",
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
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw",
        description="adamw keeps 8 bytes of state a trained weight; adamw_8bit (bitsandbytes, arXiv 2110.02861) keeps 2, "
        "which matters for large ranks only.",
    )
    lora_plus_ratio: float = Field(
        1.0,
        ge=1,
        description="The learning rate of LoRA's B matrices is so many times that of A (LoRA+, arXiv 2402.12354: "
        "about 16, with a lower learning_rate). 1: the same rate for both.",
    )
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine",
        description="Course of the learning rate after warm-up. wsd: constant, then a line to 0 over the last "
        "decay_ratio of the steps (arXiv 2405.18392).",
    )
    decay_ratio: float = Field(
        0.2, gt=0, le=1, description="With schedule wsd: share of the steps in which the learning rate falls to 0."
    )
    warmup_ratio: float = Field(
        0.03, ge=0, lt=1, description="Share of the steps in which the learning rate rises linearly."
    )
    rewarmup_ratio: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="The same where an adapter goes on from the round before: the optimizer's moments start anew there, and large "
        "first steps undo what was learned (re-warming, arXiv 2403.08763).",
    )
    epochs: float = Field(1.0, gt=0, description="Passes over the selection; a fraction trains on part of the packs.")
    pack_length: int = Field(
        2048,
        ge=8,
        description="Tokens of one pack, at least the longest document. Longer packs waste less and need more memory.",
    )
    batching: Literal["packed", "length_sorted"] = Field(
        "packed",
        description="packed fills packs as full as it can; length_sorted cuts documents of similar length into batches "
        "of at most pack_length tokens. Neither splits or pads a document; packed makes fewer, evener steps.",
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
    activation_memory: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto",
        description="GiB for what the forward pass keeps for the backward pass, and for NF4 weights held dequantized. "
        "What does not fit is computed again (a third more time at most) or waits in host memory. auto: what the "
        "device has free. Changes speed and memory, not the result.",
    )
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints; a crash loses at most these.")
    keep_checkpoints: int = Field(
        2,
        ge=1,
        description="Newest checkpoints kept while training runs, and the one with the lowest dev loss besides.",
    )
    eval_every: int | None = Field(
        None,
        ge=1,
        description="Steps between evaluations on dev; the adapter with the lowest dev loss is the one that is kept. "
        "Each takes a forward pass over dev. null: the adapter of the last step is kept, and dev is not looked at.",
    )
    patience: int = Field(
        0,
        ge=0,
        description="With eval_every: stop after so many evaluations in a row without a lower dev loss. 0: never early. "
        "The control always trains as many steps as the selected adapter did.",
    )
    max_loss_ratio: float | None = Field(
        4.0,
        gt=1,
        description="Training stops as diverged when a step's loss is over so many times the median of the 20 steps "
        "before; a median under 1 nat counts as 1, since one hard batch is no divergence. null: only when it is not "
        "finite.",
    )
    mode: Literal["continue", "retrain"] = Field(
        "continue",
        description="continue trains the adapter of the round before on the new examples; retrain starts anew on all "
        "that was picked so far.",
    )
    replay: float = Field(
        0.5,
        ge=0,
        le=1,
        description="With continue: examples of earlier rounds mixed in, as a share of the new ones. Training takes so much longer, "
        "and much less is forgotten.",
    )

    @model_validator(mode="after")
    def _keys_that_go_together(self) -> TrainConfig:
        if self.patience and self.eval_every is None:
            raise ValueError(f"patience: {self.patience} needs evaluations to count; set eval_every too")
        if self.schedule == "wsd" and max(self.warmup_ratio, self.rewarmup_ratio) + self.decay_ratio > 1:
            raise ValueError(
                f"warmup_ratio + decay_ratio: expected at most 1, found {self.warmup_ratio} + {self.decay_ratio} "
                f"(and rewarmup_ratio {self.rewarmup_ratio})"
            )
        return self


class MeasureConfig(BaseModel, extra="forbid", frozen=True):
    """Forward passes that score examples and evaluate adapters."""

    batch_tokens: int = Field(
        16384,
        ge=8,
        description="Tokens that go through the model together; a longer example goes alone. Changes speed and memory only.",
    )
    gradient_tokens: int = Field(
        8192,
        ge=8,
        description="The same for gradients of examples (score less), which hold as much memory as training does.",
    )
    weights: Literal["auto", "nf4", "dequantized", "fp8"] = Field(
        "auto",
        description="How NF4 weights are held while examples are scored: nf4 dequantizes layer by layer; dequantized holds "
        "them in compute_dtype (the same values, up to 2% faster, 2 bytes a weight); auto takes that if it fits. fp8 is 1.6 "
        "times as fast and rounds weights and activations to 8 bits: scores change, and how little their ranks do is "
        "measured and printed. Evaluation never uses it.",
    )


class GenerateConfig(BaseModel, extra="forbid", frozen=True):
    """Answers that the model writes itself, to find the unlabelled prompts that it is unsure of."""

    max_new_tokens: int = Field(
        128,
        ge=1,
        description="Longest answer in tokens. Time and memory grow with it; a prompt that leaves less room than this "
        "in tokens.max_length is not offered for labelling.",
    )
    samples: int = Field(
        4,
        ge=0,
        description="Answers drawn by chance besides the greedy one; their disagreement is measured. 0 or 1: only the "
        "entropy of the greedy answer counts. Time grows in proportion to 1 + samples.",
    )
    temperature: float = Field(
        0.7,
        gt=0,
        description="Logits are divided by it before an answer is drawn. At 1 long answers differ for every prompt; "
        "below, what still differs is what the model is unsure of.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Answers are drawn from the most probable tokens that hold this share of the probability (nucleus, "
        "arXiv 1904.09751). 1: from all.",
    )
    batch_tokens: int = Field(
        16384,
        ge=1,
        description="Tokens of all answers that are written together, their prompts and padding included; the answers "
        "to one prompt are never parted. More is faster and holds a longer cache (128 KiB a token for Mistral-7B in "
        "bfloat16). Changes speed only.",
    )
