"""The counters of a training. Every checkpoint contains them, so a resumed training reports, keeps the best adapter and
stops exactly like an uninterrupted one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from trainer.step import StepResult

RECENT = 20
"""Number of recent steps whose median loss a spike is compared with."""


@dataclass(frozen=True)
class Counters:
    """Sums over the steps taken, seconds and peak_gib over interruptions too; recent_losses of the last RECENT steps.

    best_step is the evaluated step with the lowest dev loss (nats per target token), of which
    evaluations_since_best is the number of evaluations after it. out_of_memory: for each step in which memory ran out {"step",
    "packs_per_batch", "activation_memory": with which training went on}.
    """

    step: int = 0
    tokens: int = 0
    target_tokens: int = 0
    examples: int = 0
    seconds: float = 0.0
    peak_gib: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None
    recent_losses: list[float] = field(default_factory=list)
    best_step: int | None = None
    best_dev_loss: float | None = None
    evaluations_since_best: int = 0
    out_of_memory: list[dict[str, Any]] = field(default_factory=list)

    def after_step(self, result: StepResult, seconds: float, peak_gib: float) -> Counters:
        """A copy after one more step, which took `seconds`."""
        return replace(
            self,
            step=self.step + 1,
            tokens=self.tokens + result.tokens,
            target_tokens=self.target_tokens + result.target_tokens,
            examples=self.examples + result.examples,
            seconds=self.seconds + seconds,
            peak_gib=max(self.peak_gib, peak_gib),
            first_loss=result.loss if self.first_loss is None else self.first_loss,
            last_loss=result.loss,
            recent_losses=[*self.recent_losses, result.loss][-RECENT:],
        )

    def after_evaluation(self, dev_loss: float) -> Counters:
        """A copy with the dev loss of the last step; an equal loss is not an improvement."""
        if self.best_dev_loss is None or dev_loss < self.best_dev_loss:
            return replace(self, best_step=self.step, best_dev_loss=dev_loss, evaluations_since_best=0)
        return replace(self, evaluations_since_best=self.evaluations_since_best + 1)
