"""The metrics of each step: losses, speed, memory, time left."""

from __future__ import annotations

import resource
from collections import deque
from statistics import median

import psutil
import torch

from trainer.counters import Counters
from trainer.step import StepResult

RECENT_STEPS = 20
GIB = 2**30


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


def reset_peak(device: torch.device) -> None:
    """Reset the peak of a GPU; that of a process cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def used_gib(device: torch.device) -> float:
    """GiB: what torch has allocated on a GPU now, or the resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / GIB
    return psutil.Process().memory_info().rss / GIB


def peak_gib(device: torch.device) -> float:
    """GiB: the most torch had allocated on a GPU since reset_peak, or the largest resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
