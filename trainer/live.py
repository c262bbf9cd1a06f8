"""The metrics of each step: losses, speed, memory, time left."""

from __future__ import annotations

from collections import deque
from statistics import median

import torch

from trainer.counters import Counters
from trainer.memory import used_gib
from trainer.step import StepResult

RECENT_STEPS = 20


class Live:
    """Converts steps to metrics. MFU, the share of the device's speed that useful operations reach, is among them when
    `flops_per_token` (without recomputation, as in PaLM, arXiv 2204.02311, appendix B) and `peak_flops` are known."""

    def __init__(self, steps: int, device: torch.device, flops_per_token: float | None, peak_flops: float | None):
        self.steps, self.device = steps, device
        self.flops_share = flops_per_token / peak_flops if flops_per_token and peak_flops else None
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS)

    def metrics(self, counters: Counters, result: StepResult, seconds: float) -> dict[str, float]:
        """Metrics of the step that led to `counters` and took `seconds`; train() lists the keys."""
        self._seconds.append(seconds)
        rate = result.tokens / seconds
        return {
            "step": counters.step,
            "steps": self.steps,
            "loss": result.loss,
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm,
            "tokens": result.tokens,
            "target_tokens": result.target_tokens,
            "tokens_per_s": rate,
            "seconds": counters.seconds,
            "seconds_left": median(self._seconds) * (self.steps - counters.step),
            "memory_gib": used_gib(self.device),
            "peak_gib": counters.peak_gib,
            **({} if self.flops_share is None else {"mfu": rate * self.flops_share}),
        }
