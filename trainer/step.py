"""One optimizer step: its packs, their gradients, the update.

A step takes `packs_per_step` packs, runs them through the model in micro-batches of `packs_per_batch` concatenated packs,
and sums the gradients of

    loss = sum of the step's target NLLs / number of the step's targets

so that the division into micro-batches does not change the step (a mean of means would weight short micro-batches more,
transformers #34191). Order, dropout and noise are functions of (seed, round, step, micro-batch).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from trainer import neftune, optim, schedule
from trainer.config import TrainConfig
from trainer.errors import DataError
from trainer.forward import Batch, Tokens, collate, hidden_states, output_head
from trainer.loss import target_nll
from trainer.randomness import DROPOUT, NOISE, derive_seed, forked_rng


class Plan(Protocol):
    """The part of trainer.packing.PackPlan that training needs: pack p holds members[offsets[p]:offsets[p + 1]]."""

    offsets: np.ndarray
    members: np.ndarray


@dataclass(frozen=True)
class Training:
    """The constant state of a training over its steps; `asked_steps` None trains whole epochs.

    `ahead` holds the batches of the next step, prepared while the device computes the current one.
    """

    model: torch.nn.Module
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    tokens: Tokens
    plan: Plan
    rows: np.ndarray
    config: TrainConfig
    seed: int
    round: int
    steps: int
    asked_steps: int | None
    directory: Path
    device: torch.device
    ahead: dict[int, list[Batch]] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """Loss in nats per target, norm of the gradient before clipping, learning rate, and counts of the step. If
    loss or norm is not finite, the model was not changed."""

    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    target_tokens: int
    examples: int

    @property
    def finite(self) -> bool:
        """Whether loss and norm are finite, so that the step was taken."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def run_step(training: Training, step: int) -> StepResult:
    """Take step `step` (from 0). Raises DataError if none of its documents has a target."""
    batches = training.ahead.pop(step, None) or _batches(training, step)
    examples, targets = sum(len(b.rows) for b in batches), sum(len(b.labels) for b in batches)
    if targets == 0:
        raise DataError(f"step {step + 1}: none of its {examples} documents has a token to train on")
    total = torch.zeros((), device=training.device)
    for index, batch in enumerate(batches):
        total += _accumulate(training, batch.to(training.device), step, index, targets)
    norm = torch.nn.utils.clip_grad_norm_(training.parameters.values(), training.config.max_grad_norm)
    rate = optim.learning_rate(step, training.steps, training.config)
    optim.set_learning_rate(training.optimizer, rate)
    found = torch.stack([total, norm.to(total.dtype)])
    optim.step_unless(training.optimizer, found.isfinite().all().logical_not())
    training.optimizer.zero_grad(set_to_none=True)
    if step + 1 < training.steps:
        training.ahead[step + 1] = _batches(training, step + 1)
    loss, grad_norm = found.tolist()  # the step's only synchronisation with the device: all its work is queued by now
    return StepResult(loss, grad_norm, rate, sum(len(b.input_ids) for b in batches), targets, examples)


def _batches(training: Training, step: int) -> list[Batch]:
    """Micro-batches of a step, on the CPU."""
    config, plan = training.config, training.plan
    packs = schedule.packs_of_step(
        step, len(plan.offsets) - 1, config, seed=training.seed, round=training.round, steps=training.asked_steps
    )
    members = [np.asarray(plan.members[plan.offsets[pack] : plan.offsets[pack + 1]]) for pack in packs]
    groups = [members[i : i + config.packs_per_batch] for i in range(0, len(members), config.packs_per_batch)]
    return [collate(training.tokens, training.rows[np.concatenate(group)]) for group in groups]


def _accumulate(training: Training, batch: Batch, step: int, index: int, targets: int) -> torch.Tensor:
    """Add the gradient of one micro-batch's part of the step's loss; returns that part."""
    model, alpha = training.model, training.config.neftune_alpha
    place = (training.seed, training.round)
    with forked_rng(derive_seed(*place, DROPOUT, step, index), training.device):
        # Embeddings and hidden states get no name: they would stay in memory during the backward pass.
        noise_seed = derive_seed(*place, NOISE, step, index)
        nll_P = target_nll(
            hidden_states(
                model, batch, neftune.noisy_embeddings(model, batch, alpha, noise_seed) if alpha > 0 else None
            ).index_select(0, batch.predictors),
            output_head(model),
            batch.labels,
        )
        loss = nll_P.sum() / targets
        if len(batch.labels):
            loss.backward()
    return loss.detach()
