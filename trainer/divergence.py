"""Detection of divergence: a loss or gradient that is not finite, or a loss far above the recent ones."""

from __future__ import annotations

import math
from statistics import median

from trainer.checkpoint import load_newest
from trainer.counters import RECENT, Counters
from trainer.errors import Diverged
from trainer.step import StepResult, Training

LEAST_MEDIAN = 1.0
"""Nats; the minimum median for spikes. Once a model fits its examples, one hard batch has many times the usual loss."""


def check_step(training: Training, counters: Counters, result: StepResult) -> None:
    """Raise Diverged if the step after `counters` diverged; the message names the last good checkpoint."""
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
    """Raise Diverged if the dev loss after `step` steps is not finite."""
    if not math.isfinite(dev_loss):
        raise Diverged(_message(training, step, f"dev loss {dev_loss}", before=step))


def _message(training: Training, step: int, what: str, *, before: int) -> str:
    # The checkpoint after `before` steps contains the weights that gave this loss.
    good = load_newest(training.directory, before)
    kept = f"the last good checkpoint is {good.path}" if good else "there is no checkpoint yet"
    return (
        f"training diverged at step {step} of {training.steps}: {what}; {kept}. "
        f"Lower train.learning_rate (now {training.config.learning_rate}) or raise train.warmup_ratio"
    )
