"""One optimizer step: its packs, their gradients, the update.

A step takes `packs_per_step` packs, runs them through the model in micro-batches of concatenated packs, and sums the
gradients of

    loss = sum of the step's target NLLs / number of the step's targets

so that the division into micro-batches changes the step only by rounding (a mean of means would weight short micro-batches
more, transformers #34191). Noise and LoRA's dropout are drawn for each pack: functions of (seed, round, step, place of the pack in the
step). Models that run through transformers draw dropout for each micro-batch, so that another division draws other masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from trainer import neftune, optim, schedule
from trainer.checkpoint import Snapshots
from trainer.config import TrainConfig
from trainer.errors import DataError
from trainer.forward import Batch, Tokens, collate, hidden_states, output_head
from trainer.loss import target_nll
from trainer.randomness import DROPOUT, NOISE, derive_seed, forked_rng
from trainer.ranks import OrderedSum, Ranks
from trainer.tokens import TokenTable


class Plan(Protocol):
    """The part of trainer.packing.PackPlan that training needs: pack p holds members[offsets[p]:offsets[p + 1]]."""

    offsets: np.ndarray
    members: np.ndarray


@dataclass(frozen=True)
class MicroBatch:
    """Concatenated packs: `packs` are their places in the step, `tokens` how many tokens each has."""

    batch: Batch
    packs: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass
class Division:
    """How many packs a micro-batch has. It starts as train.packs_per_batch and is halved when memory runs out.

    `ahead` holds the micro-batches of the next step, prepared while the device computes the current one.
    """

    packs: int
    ahead: dict[int, list[MicroBatch]] = field(default_factory=dict)

    def halve(self) -> bool:
        """Halve the micro-batches; False if they are of one pack."""
        self.ahead.clear()
        if self.packs == 1:
            return False
        self.packs //= 2
        return True


@dataclass(frozen=True)
class Training:
    """The constant state of a training over its steps, except for `division`; `asked_steps` None trains whole epochs.

    `start` (on the CPU): the parameters before the first step.
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
    snapshots: Snapshots
    device: torch.device
    start: dict[str, torch.Tensor]
    division: Division
    ranks: Ranks = Ranks()


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


@dataclass(frozen=True)
class Gradients:
    """The gradients of a step are in the parameters; `loss` (0-dim, on the device) and counts of the step."""

    loss: torch.Tensor
    tokens: int
    target_tokens: int
    examples: int


def check_targets(training: Training) -> None:
    """Raises DataError, before anything is trained, if the documents of a step have no token to train on."""
    plan, tokens, rows = training.plan, training.tokens, training.rows
    if isinstance(tokens, TokenTable):
        has_target = tokens.target_counts[rows] > (tokens.flat_targets[tokens.offsets[rows]] != 0)
    else:
        has_target = np.array([np.asarray(tokens.targets(int(row)))[1:].any() for row in rows], dtype=bool)
    of_pack = np.logical_or.reduceat(has_target[plan.members], plan.offsets[:-1])
    if of_pack.all():
        return
    place = {"seed": training.seed, "round": training.round, "steps": training.asked_steps}
    for step in range(training.steps):
        packs = schedule.packs_of_step(step, len(of_pack), training.config, **place)
        if not any(of_pack[pack] for pack in packs):
            found = rows[np.concatenate([plan.members[plan.offsets[p] : plan.offsets[p + 1]] for p in packs])]
            raise DataError(
                f"step {step + 1}: expected a token to train on (a target after the first token of a document), found none in rows "
                f"{', '.join(map(str, found[:5]))}; leave these documents out"
            )


def sum_gradients(training: Training, step: int) -> Gradients:
    """Add the gradients of step `step` (from 0); changes nothing else. Raises DataError if none of its documents has a target."""
    parts = training.division.ahead.pop(step, None) or _micro_batches(training, step)
    batches = [part.batch for part in parts]
    examples, targets = sum(len(b.rows) for b in batches), sum(len(b.labels) for b in batches)
    if targets == 0:
        raise DataError(f"step {step + 1}: none of its {examples} documents has a token to train on")
    if training.ranks.world > 1:
        total = _sum_together(training, parts, step, targets)
    else:
        total = torch.zeros((), device=training.device)
        for index, part in enumerate(parts):
            total += _accumulate(training, part, step, index, targets)
    return Gradients(total, sum(len(b.input_ids) for b in batches), targets, examples)


def _sum_together(training: Training, parts: list[MicroBatch], step: int, targets: int) -> torch.Tensor:
    """As one process sums, with the micro-batches shared out among ranks; an error on one rank is one on all, so that none waits."""
    ranks = training.ranks
    total = OrderedSum(training.parameters, ranks)
    for start in range(0, len(parts), ranks.world):
        counted = [
            start + rank < len(parts) and len(parts[start + rank].batch.labels) > 0 for rank in range(ranks.world)
        ]
        loss, failed, index = None, None, start + ranks.rank
        try:
            if counted[ranks.rank]:
                loss = _accumulate(training, parts[index], step, index, targets)
        except Exception as error:
            failed = error
        if ranks.any(failed is not None):
            raise failed or MemoryError("on another GPU")
        total.add(loss, counted)
    return total.finish()


def update(training: Training, step: int, gradients: Gradients) -> StepResult:
    """Take step `step` with its summed gradients. If this raises, parameters and optimizer may be partly updated."""
    norm = torch.nn.utils.clip_grad_norm_(training.parameters.values(), training.config.max_grad_norm)
    rate = optim.learning_rate(step, training.steps, training.config)
    optim.set_learning_rate(training.optimizer, rate)
    found = torch.stack([gradients.loss, norm.to(gradients.loss.dtype)])
    optim.step_unless(training.optimizer, found.isfinite().all().logical_not())
    training.optimizer.zero_grad(set_to_none=True)
    if step + 1 < training.steps:
        training.division.ahead[step + 1] = _micro_batches(training, step + 1)
    loss, grad_norm = found.tolist()  # the step's only synchronisation with the device: all its work is queued by now
    return StepResult(loss, grad_norm, rate, gradients.tokens, gradients.target_tokens, gradients.examples)


def _micro_batches(training: Training, step: int) -> list[MicroBatch]:
    """Micro-batches of a step, on the CPU."""
    config, plan = training.config, training.plan
    packs = schedule.packs_of_step(
        step, len(plan.offsets) - 1, config, seed=training.seed, round=training.round, steps=training.asked_steps
    )
    rows = [training.rows[plan.members[plan.offsets[pack] : plan.offsets[pack + 1]]] for pack in packs]
    size, places = training.division.packs, range(len(packs))
    return [_micro_batch(training, rows, tuple(places[first : first + size])) for first in places[::size]]


def _micro_batch(training: Training, rows: list[np.ndarray], packs: tuple[int, ...]) -> MicroBatch:
    batch = collate(training.tokens, np.concatenate([rows[place] for place in packs]))
    borders = np.cumsum([0, *(len(rows[place]) for place in packs)])
    return MicroBatch(batch, packs, tuple(np.diff(np.asarray(batch.borders)[borders]).tolist()))


def _accumulate(training: Training, part: MicroBatch, step: int, index: int, targets: int) -> torch.Tensor:
    """Add the gradient of one micro-batch's part of the step's loss; returns that part."""
    model, alpha, batch = training.model, training.config.neftune_alpha, part.batch.to(training.device)
    place = (training.seed, training.round)
    with forked_rng(derive_seed(*place, DROPOUT, step, index), training.device):
        # Embeddings and hidden states get no name: they would stay in memory during the backward pass.
        noise, masks = (
            [
                (tokens, derive_seed(*place, purpose, step, pack))
                for tokens, pack in zip(part.tokens, part.packs, strict=True)
            ]
            for purpose in (NOISE, DROPOUT)
        )
        nll_P = target_nll(
            hidden_states(
                model,
                batch,
                neftune.noisy_embeddings(model, batch, alpha, noise) if alpha > 0 else None,
                dropout_packs=masks,
            ).index_select(0, batch.predictors),
            output_head(model),
            batch.labels,
        )
        loss = nll_P.sum() / targets
        if len(batch.labels):
            loss.backward()
    return loss.detach()
