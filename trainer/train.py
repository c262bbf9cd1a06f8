"""QLoRA training on isolated packs, exact and resumable.

Every step is a function of the previous state and of (seed, round, step), and checkpoints contain the complete state. A
training that was killed and resumed ends, on a CPU in float32, with the same bits. With evaluations on dev the
best adapter is kept, and training may end before its last step.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import divergence, optim, schedule
from trainer.activation import ActivationMemory, training_mode
from trainer.adapters import trainable_parameters
from trainer.checkpoint import Checkpoint, Snapshots, is_sound, load_newest, load_step, save_checkpoint
from trainer.config import NO_PART_OF_THE_RESULT, TrainConfig
from trainer.counters import Counters
from trainer.errors import CheckpointError, Interrupted, MachineError
from trainer.forward import Tokens, bound_decoder
from trainer.live import Live, peak_gib, reset_peak
from trainer.ranks import Ranks
from trainer.shortage import GPU, SAME, Shortage, attempt, report
from trainer.step import Division, Plan, Training, check_targets, sum_gradients, update


@dataclass(frozen=True)
class TrainReport:
    """A finished training.

    Counts are over all steps taken, epochs counted again; seconds (of steps) and peak_gib too, over interruptions.
    Losses are in nats per target: those of the first and last step, and the lowest on dev. best_step is the step of
    the model's final adapter (None: no evaluation, so it is that of the last step); stopped_early: patience ended the
    training. resumed_from is the step this process continued from (0: the start). out_of_memory: the steps in which memory
    ran out, and how training went on (trainer.counters.Counters).
    """

    steps: int
    tokens: int
    target_tokens: int
    examples: int
    seconds: float
    tokens_per_s: float
    peak_gib: float
    first_loss: float
    last_loss: float
    best_step: int | None
    best_dev_loss: float | None
    stopped_early: bool
    resumed_from: int
    out_of_memory: list[dict[str, Any]]


def train(
    model: torch.nn.Module,
    tokens: Tokens,
    plan: Plan,
    rows: np.ndarray,
    config: TrainConfig,
    *,
    seed: int,
    round: int,
    steps: int | None,
    scratch: Path,
    evaluate: Callable[[], float] | None = None,
    flops_per_token: float | None = None,
    peak_flops: float | None = None,
    moments: Path | None = None,
    snapshots: Snapshots | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    on_step: Callable[[dict[str, float]], None] = lambda metrics: None,
    stop: Callable[[], bool] = lambda: False,
    failpoint: Callable[[str], None] = lambda name: None,
) -> TrainReport:
    """Train the adapter of `model`, in place.

    `plan` packs documents 0 … m-1; `rows` (m,) are their rows in `tokens`. `steps` None trains config.epochs, or less
    if config.patience ends it; a number trains exactly that many steps. Checkpoints are in scratch/checkpoints; if there
    are some, training continues from the newest undamaged one.

    When memory runs out, micro-batches are halved; at one pack, as little as possible is kept for the backward pass. The step
    is then repeated, or, if its update may have begun, training continues from the last checkpoint (or the start).

    `evaluate` returns the dev loss (nats per target) of the current model in evaluation mode. It runs every config.eval_every
    steps and after the last one; the model ends with the adapter of the lowest loss.

    `moments`: file for the optimizer's moments of the final adapter; None: do not write them. `snapshots`: adapters and moments to
    keep of earlier steps; a training that is resumed writes those that are missing.

    `ranks`: this process among those that train together (trainer.ranks), each with the same arguments and a model of its own. The
    result is that of one process with the same micro-batches, bit for bit. Rank 0 evaluates, writes, and is asked to `stop`.

    `on_step` receives step (from 1), steps, loss (nats per target), learning_rate, grad_norm (before clipping), tokens and
    target_tokens (of the step), tokens_per_s, seconds (of steps so far), seconds_left (for the steps planned, at the
    pace of the last 20), memory_gib (now), peak_gib, dev_loss if it was evaluated, and mfu if flops_per_token (of
    useful operations) and peak_flops (of the device, per second) are given. A step repeated after a crash is
    reported again. `stop` is called after each step.

    Raises Interrupted, after saving, if `stop` returns True; Diverged on a loss or gradient that is not finite or, by
    config.max_loss_ratio, far above the recent ones; DataError if there is nothing to train on; CheckpointError if
    scratch belongs to another training; MachineError if one pack does not fit the memory, or the disk is full.
    """
    snapshots = snapshots or Snapshots(Path(scratch))
    training = _set_up(model, tokens, plan, rows, config, seed, round, steps, scratch, snapshots, ranks)
    check_targets(training)
    identity = _identity(training)
    counters = _resume(training, identity)
    resumed_from = counters.step
    live = Live(training.steps, training.device, flops_per_token, peak_flops)
    reset_peak(training.device)
    with training_mode(model, config.activation_memory, *_size(training)) as memory:
        while not _is_over(training, counters):
            counters, metrics = _timed_step(training, counters, live, memory)
            if metrics is None:
                continue
            if evaluate is not None and _evaluation_is_due(training, counters):
                counters = counters.after_evaluation(_dev_loss(training, counters, evaluate, metrics))
            if ranks.first:
                on_step(metrics)
                failpoint("train.step")
            if ranks.first and counters.step in snapshots.steps:
                snapshots.save(model, training.optimizer, counters.step)
            last, stopping = _is_over(training, counters), bool(ranks.from_first(stop))
            due = counters.step % config.checkpoint_every == 0 or counters.best_step == counters.step
            if last or stopping or due:
                _save(training, counters, identity, failpoint, parameters_only=last and moments is None)
            if stopping and not last:
                raise Interrupted(f"stopped after step {counters.step} of {training.steps}")
    _wear_the_best(training, counters)
    if moments is not None and ranks.first:
        optim.save_moments(training.optimizer, training.parameters, moments)
    return _report(training, counters, resumed_from)


def _set_up(
    model: torch.nn.Module,
    tokens: Tokens,
    plan: Plan,
    rows: np.ndarray,
    config: TrainConfig,
    seed: int,
    round: int,
    steps: int | None,
    scratch: Path,
    snapshots: Snapshots,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> Training:
    parameters = trainable_parameters(model)
    return Training(
        model=model,
        parameters=parameters,
        optimizer=optim.build_optimizer(parameters, config),
        tokens=tokens,
        plan=plan,
        rows=np.asarray(rows, dtype=np.int64),
        config=config,
        seed=seed,
        round=round,
        steps=schedule.planned_steps(len(plan.offsets) - 1, config, steps),
        asked_steps=steps,
        directory=Path(scratch) / "checkpoints",
        snapshots=snapshots,
        device=next(iter(parameters.values())).device,
        start={f"parameter.{name}": parameter.detach().cpu().clone() for name, parameter in parameters.items()},
        division=Division(_packs_at_once(model, config, ranks.world)),
        ranks=ranks,
    )


def _packs_at_once(model: torch.nn.Module, config: TrainConfig, world: int) -> int:
    """Packs of a micro-batch: as configured, or fewer so that each rank has one, unless that would draw other masks of dropout."""
    packs = min(config.packs_per_batch, config.packs_per_step)
    return packs if _dropout_by_batch(model) else min(packs, -(-config.packs_per_step // world))


def _dropout_by_batch(model: torch.nn.Module) -> bool:
    """Whether masks of dropout are drawn for each micro-batch: where transformers' forward runs (trainer.step)."""
    dropouts = (module for module in model.modules() if isinstance(module, torch.nn.Dropout))
    return bound_decoder(model) is None and any(module.p > 0 for module in dropouts)


def _is_over(training: Training, counters: Counters) -> bool:
    """Whether the last step was taken, or patience is exhausted; a given number of steps is always taken."""
    patience = training.config.patience if training.asked_steps is None else 0
    return counters.step == training.steps or 0 < patience <= counters.evaluations_since_best


def _size(training: Training) -> tuple[int, bool]:
    """Tokens of a micro-batch, and whether a step has several."""
    packs = training.division.packs
    return packs * training.config.pack_length, packs < training.config.packs_per_step


def _timed_step(
    training: Training, counters: Counters, live: Live, memory: ActivationMemory
) -> tuple[Counters, dict[str, float] | None]:
    """Take the next step. None instead of metrics: memory ran out, and the counters are those of the state that is left."""
    started, step = time.perf_counter(), counters.step
    gradients = attempt(partial(sum_gradients, training, step))
    if isinstance(gradients, Shortage):
        return _make_room(training, counters, step, memory, gradients), None
    result = attempt(partial(update, training, step, gradients))
    if training.ranks.any(isinstance(result, Shortage)):
        result = result if isinstance(result, Shortage) else Shortage(GPU, "on another GPU")
        return _make_room(training, _last_good(training, counters), step, memory, result), None
    seconds = time.perf_counter() - started
    divergence.check_step(training, counters, result)
    counters = counters.after_step(result, seconds, peak_gib(training.device))
    return counters, live.metrics(counters, result, seconds)


def _last_good(training: Training, counters: Counters) -> Counters:
    """Put model and optimizer back to the newest checkpoint or the start, because an update may have been made in part."""
    checkpoint = _newest_whole(training)
    tensors = training.start if checkpoint is None else checkpoint.tensors
    optim.restore_tensors(tensors, training.optimizer, training.parameters)
    before = Counters() if checkpoint is None else Counters(**checkpoint.state["counters"])
    return replace(before, out_of_memory=counters.out_of_memory)


def _make_room(
    training: Training, counters: Counters, step: int, memory: ActivationMemory, found: Shortage
) -> Counters:
    """Make micro-batches smaller, or keep less for the backward pass, and return `counters` with a record of it.

    Raises MachineError if neither is possible: memory ran out in `step` with one pack.
    """
    training.optimizer.zero_grad(set_to_none=True)
    if training.division.halve():
        going_on = f"{training.division.packs} packs per forward pass"
    elif memory.lower():
        going_on = "activations recomputed in the backward pass (train.activation_memory 0)"
    else:
        length = training.config.pack_length
        raise MachineError(
            f"out of {found.memory} at step {step + 1} of {training.steps}, even with one pack of {length} tokens per forward pass and "
            f"activations recomputed ({found.message}). Free memory that other programs use and run the same command again, which "
            f"continues from the last checkpoint; or lower train.pack_length and tokens.max_length, with which training starts again."
        )
    memory.divide(*_size(training))
    other = _dropout_by_batch(training.model)
    changed = "LoRA's dropout draws other masks; all else is the same to rounding." if other else SAME
    report(found, f"taking training step {step + 1} of {training.steps}", going_on, changed)
    record = {"step": step + 1, "packs_per_batch": training.division.packs, "activation_memory": memory.budget}
    return replace(counters, out_of_memory=[*counters.out_of_memory, record])


def _evaluation_is_due(training: Training, counters: Counters) -> bool:
    every = training.config.eval_every
    return every is not None and (counters.step % every == 0 or counters.step == training.steps)


def _dev_loss(
    training: Training, counters: Counters, evaluate: Callable[[], float], metrics: dict[str, float]
) -> float:
    """The current dev loss, added to `metrics`; without dropout, and noise exists only inside a step."""
    training.model.eval()
    metrics["dev_loss"] = training.ranks.from_first(lambda: float(evaluate()))
    training.model.train()
    divergence.check_dev_loss(training, counters.step, metrics["dev_loss"])
    return metrics["dev_loss"]


def _wear_the_best(training: Training, counters: Counters) -> None:
    """Restore the parameters of the best evaluated step, unless it is the last step."""
    if counters.best_step in (None, counters.step):
        return
    best = load_step(training.directory, counters.best_step)
    if best is None:
        raise CheckpointError(
            f"{training.directory}: the best checkpoint, of step {counters.best_step}, is missing or damaged; check the "
            "disk and run again: training repeats from an earlier step"
        )
    optim.restore_tensors(best.tensors, training.optimizer, training.parameters)


def _save(
    training: Training,
    counters: Counters,
    identity: dict[str, Any],
    failpoint: Callable[[str], None],
    parameters_only: bool,
) -> None:
    """Write a checkpoint. That of the last step omits the optimizer's state, two thirds of its size, because no step follows. Rank 0
    writes, and the others wait until they can read it."""
    if training.ranks.first:
        _write(training, counters, identity, failpoint, parameters_only)
    training.ranks.any(False)


def _write(
    training: Training,
    counters: Counters,
    identity: dict[str, Any],
    failpoint: Callable[[str], None],
    parameters_only: bool,
) -> None:
    tensors = optim.training_tensors(training.optimizer, training.parameters)
    save_checkpoint(
        training.directory,
        counters.step,
        {name: tensor for name, tensor in tensors.items() if not parameters_only or name.startswith("parameter.")},
        {"identity": identity, "counters": asdict(counters)},
        keep=training.config.keep_checkpoints,
        spare=counters.best_step,
        failpoint=failpoint,
    )


def _resume(training: Training, identity: dict[str, Any]) -> Counters:
    checkpoint = _newest_whole(training)
    if checkpoint is None:
        return Counters()
    found = checkpoint.state["identity"]
    different = [key for key in identity if found.get(key) != identity[key]]
    if different:
        raise CheckpointError(
            f"{checkpoint.path}: this checkpoint belongs to a training with other {', '.join(different)}; "
            f"remove {training.directory} to train from the start"
        )
    optim.restore_tensors(checkpoint.tensors, training.optimizer, training.parameters)
    return Counters(**checkpoint.state["counters"])


def _newest_whole(training: Training) -> Checkpoint | None:
    """The newest undamaged checkpoint whose best checkpoint is undamaged too and whose earlier snapshots are present; training from an
    earlier one gives the same result."""
    checkpoint = load_newest(training.directory)
    while checkpoint is not None:
        best = checkpoint.state["counters"].get("best_step")
        of_the_best = best in (None, checkpoint.step) or is_sound(training.directory, best)
        if of_the_best and training.snapshots.complete(checkpoint.step):
            return checkpoint
        checkpoint = load_newest(training.directory, before=checkpoint.step if of_the_best else best)
    return None


def _identity(training: Training) -> dict[str, Any]:
    """The identity of a training; it must be equal to continue from a checkpoint."""
    shapes = {name: list(parameter.shape) for name, parameter in training.parameters.items()}
    packs = hashlib.sha256()
    for array in (training.plan.offsets, training.plan.members, training.rows):
        packs.update(np.ascontiguousarray(array, dtype=np.int64))
    return {
        "seed": training.seed,
        "round": training.round,
        "steps": training.steps,
        "settings": training.config.model_dump(exclude=NO_PART_OF_THE_RESULT, mode="json"),
        "packs": packs.hexdigest(),
        "parameters": hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest(),
        "LoRA settings": _lora_settings(training.model),
    }


def _lora_settings(model: torch.nn.Module) -> dict[str, Any]:
    """What of the adapter the result depends on and the shapes of its weights do not show."""
    configs = getattr(model, "peft_config", {})
    names = ("lora_alpha", "lora_dropout", "use_rslora", "use_dora")
    return {key: {name: getattr(config, name, None) for name in names} for key, config in configs.items()}


def _report(training: Training, counters: Counters, resumed_from: int) -> TrainReport:
    return TrainReport(
        steps=counters.step,
        tokens=counters.tokens,
        target_tokens=counters.target_tokens,
        examples=counters.examples,
        seconds=counters.seconds,
        tokens_per_s=counters.tokens / max(counters.seconds, 1e-9),
        peak_gib=counters.peak_gib,
        first_loss=math.nan if counters.first_loss is None else counters.first_loss,
        last_loss=math.nan if counters.last_loss is None else counters.last_loss,
        best_step=counters.best_step,
        best_dev_loss=counters.best_dev_loss,
        stopped_early=counters.step < training.steps,
        resumed_from=resumed_from,
        out_of_memory=counters.out_of_memory,
    )
