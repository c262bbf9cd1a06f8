"""When a training has gone wrong for good: a loss or gradient that is not finite, or a loss far above the recent ones."""

from __future__ import annotations

import math
from statistics import median

from trainer.checkpoint import load_newest
from trainer.counters import RECENT, Counters
from trainer.errors import Diverged
from trainer.step import StepResult, Training

LEAST_MEDIAN = 1.0
"""Nats. A model that knows its examples by heart meets a hard batch with many times its usual loss, and is sound."""


def check_step(training: Training, counters: Counters, result: StepResult) -> None:
    """Raise Diverged when the step after `counters` went wrong, naming the last checkpoint of sound weights."""
    if not result.finite:
        what = f"loss {result.loss}, gradient norm {result.grad_norm}"
        raise Diverged(_message(training, counters.step + 1, what, before=counters.step))
    ratio = training.config.max_loss_ratio
    if ratio is None or len(counters.recent_losses) < RECENT:
        return
    usual = median(counters.recent_losses)
    if result.loss > ratio * max(usual, LEAST_MEDIAN):
        what = (
            f"loss {result.loss:.3f} after a median of {usual:.3f} over {RECENT} steps (train.max_loss_ratio {ratio})"
        )
        raise Diverged(_message(training, counters.step + 1, what, before=counters.step))


def check_dev_loss(training: Training, step: int, dev_loss: float) -> None:
    """Raise Diverged when the dev loss after `step` steps is not finite."""
    if not math.isfinite(dev_loss):
        raise Diverged(_message(training, step, f"dev loss {dev_loss}", before=step))


def _message(training: Training, step: int, what: str, *, before: int) -> str:
    # The checkpoint made after `before` steps holds the very weights that gave this loss.
    good = load_newest(training.directory, before)
    kept = f"the last good checkpoint is {good.path}" if good else "no checkpoint had been made yet"
    return (
        f"training diverged at step {step} of {training.steps}: {what}; {kept}. "
        f"Lower train.learning_rate (now {training.config.learning_rate}) or raise train.warmup_ratio"
    )
