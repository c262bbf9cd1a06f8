"""QLoRA training on isolated packs, exact and resumable.

Every step is a function of the state before it and of (seed, round, step), and checkpoints hold that state whole: a
training that was killed and started again ends, on a CPU in float32, with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import optim, schedule
from trainer.activation import training_mode
from trainer.adapters import trainable_parameters
from trainer.checkpoint import load_newest, save_checkpoint
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, Diverged, Interrupted, MachineError
from trainer.forward import Tokens
from trainer.memory import peak_gib, reset_peak
from trainer.step import Plan, StepResult, Training, run_step


@dataclass(frozen=True)
class TrainReport:
    """A finished training.

    Counts are over all steps, epochs counted again; seconds and peak_gib too, over interruptions. Losses are in nats
    per target of the first and last step. resumed_from is the step this process continued from (0: the start).
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
    resumed_from: int


@dataclass(frozen=True)
class _Counters:
    step: int = 0
    tokens: int = 0
    target_tokens: int = 0
    examples: int = 0
    seconds: float = 0.0
    peak_gib: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None


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
    on_step: Callable[[dict[str, float]], None] = lambda metrics: None,
    stop: Callable[[], bool] = lambda: False,
    failpoint: Callable[[str], None] = lambda name: None,
) -> TrainReport:
    """Train the adapter that `model` wears, in place.

    `plan` packs documents 0 … m-1; `rows` (m,) are their rows in `tokens`. `steps` None trains config.epochs, a
    number exactly that many steps. Checkpoints go to scratch/checkpoints; when some are there, training continues
    from the newest sound one. `on_step` gets step (from 1), steps, loss (nats per target), learning_rate, grad_norm
    (before clipping), tokens and target_tokens (of the step), tokens_per_s, seconds (of training so far), peak_gib; a
    step that is repeated after a crash is told again. `stop` is asked after each step.

    Raises Interrupted, after saving, when `stop` says so; Diverged on a loss or gradient that is not finite;
    DataError when there is nothing to train on; CheckpointError when scratch belongs to another training;
    MachineError when memory or disk is full.
    """
    training = _set_up(model, tokens, plan, rows, config, seed, round, steps, scratch)
    counters = _resume(training)
    resumed_from = counters.step
    reset_peak(training.device)
    with training_mode(model, config.gradient_checkpointing):
        while counters.step < training.steps:
            counters, metrics = _timed_step(training, counters)
            on_step(metrics)
            failpoint("train.step")
            last, stopping = counters.step == training.steps, stop()
            if last or stopping or counters.step % config.checkpoint_every == 0:
                _save(training, counters, failpoint)
            if stopping and not last:
                raise Interrupted(f"stopped after step {counters.step} of {training.steps}; run again to continue")
    return _report(counters, resumed_from)


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
        device=next(iter(parameters.values())).device,
    )


def _timed_step(training: Training, counters: _Counters) -> tuple[_Counters, dict[str, float]]:
    started = time.perf_counter()
    try:
        result = run_step(training, counters.step)
    except torch.OutOfMemoryError as error:
        raise MachineError(_out_of_memory(training, counters.step)) from error
    seconds = time.perf_counter() - started
    if not result.finite:
        raise Diverged(_divergence(training, counters.step, result))
    counters = replace(
        counters,
        step=counters.step + 1,
        tokens=counters.tokens + result.tokens,
        target_tokens=counters.target_tokens + result.target_tokens,
        examples=counters.examples + result.examples,
        seconds=counters.seconds + seconds,
        peak_gib=max(counters.peak_gib, peak_gib(training.device)),
        first_loss=result.loss if counters.first_loss is None else counters.first_loss,
        last_loss=result.loss,
    )
    return counters, {
        "step": counters.step,
        "steps": training.steps,
        "loss": result.loss,
        "learning_rate": result.learning_rate,
        "grad_norm": result.grad_norm,
        "tokens": result.tokens,
        "target_tokens": result.target_tokens,
        "tokens_per_s": result.tokens / seconds,
        "seconds": counters.seconds,
        "peak_gib": counters.peak_gib,
    }


def _save(training: Training, counters: _Counters, failpoint: Callable[[str], None]) -> None:
    save_checkpoint(
        training.directory,
        counters.step,
        optim.training_tensors(training.optimizer, training.parameters),
        {"identity": _identity(training), "counters": asdict(counters)},
        keep=training.config.keep_checkpoints,
        failpoint=failpoint,
    )


def _resume(training: Training) -> _Counters:
    checkpoint = load_newest(training.directory)
    if checkpoint is None:
        return _Counters()
    expected, found = _identity(training), checkpoint.state["identity"]
    different = [key for key in expected if found.get(key) != expected[key]]
    if different:
        raise CheckpointError(
            f"{checkpoint.path}: this checkpoint belongs to a training with other {', '.join(different)}; "
            f"remove {training.directory} to train from the start"
        )
    optim.restore_tensors(checkpoint.tensors, training.optimizer, training.parameters)
    return _Counters(**checkpoint.state["counters"])


def _identity(training: Training) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued; the spacing of checkpoints may change."""
    settings = training.config.model_dump(exclude={"checkpoint_every", "keep_checkpoints"}, mode="json")
    shapes = {name: list(parameter.shape) for name, parameter in training.parameters.items()}
    packs = hashlib.sha256()
    for array in (training.plan.offsets, training.plan.members, training.rows):
        packs.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return {
        "seed": training.seed,
        "round": training.round,
        "steps": training.steps,
        "settings": settings,
        "packs": packs.hexdigest(),
        "parameters": hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest(),
    }


def _divergence(training: Training, step: int, result: StepResult) -> str:
    # A checkpoint made after this many steps would hold the very weights that gave this loss.
    good = load_newest(training.directory, before=step)
    kept = f"the last good checkpoint is {good.path}" if good else "no checkpoint had been made yet"
    return (
        f"training diverged at step {step + 1} of {training.steps}: loss {result.loss}, gradient norm "
        f"{result.grad_norm}; {kept}. Lower train.learning_rate (now {training.config.learning_rate}) "
        "or raise train.warmup_ratio"
    )


def _out_of_memory(training: Training, step: int) -> str:
    return (
        f"out of GPU memory at step {step + 1}: lower train.packs_per_batch (now {training.config.packs_per_batch}), "
        "turn train.gradient_checkpointing on, or lower train.pack_length"
    )


def _report(counters: _Counters, resumed_from: int) -> TrainReport:
    values = asdict(counters)
    for loss in ("first_loss", "last_loss"):
        values[loss] = math.nan if values[loss] is None else values[loss]
    rate = counters.tokens / max(counters.seconds, 1e-9)
    return TrainReport(steps=values.pop("step"), tokens_per_s=rate, resumed_from=resumed_from, **values)
