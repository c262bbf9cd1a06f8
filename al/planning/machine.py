"""The machine of a plan: measured speed of matrix products and of memory, or a card that is not here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from al.config import Config
from al.planning.cost import GIB, Machine

if TYPE_CHECKING:
    import torch

REACHED_FLOPS, REACHED_BANDWIDTH = 0.80, 0.75
"""Shares of a card's specification that one large product and memory reach: 795 of 989 TFLOP/s and 2.5 of 3.35 TB/s, measured on an
H100 (docs/performance.md). Other cards are assumed to reach the same."""


@dataclass(frozen=True)
class Card:
    """A GPU by its specification: dense bfloat16 operations per second, memory bandwidth in bytes/s, memory in GiB that a process can
    use."""

    name: str
    flops: float
    bandwidth: float
    memory_gib: float


CARDS = {
    "rtx-4090": Card("GeForce RTX 4090 (24 GB)", 165.2e12, 1.008e12, 23.5),
    "a100-40gb": Card("A100 (40 GB)", 312e12, 1.555e12, 39.4),
}
"""By the name of `plan --card`. Figures of NVIDIA's data sheets: Ada GPU architecture, appendix A (bfloat16, float32 sums); A100."""


def machine_of(card: Card) -> Machine:
    """A card as a machine to plan for, with the speeds that it probably reaches."""
    return Machine("cuda", 2, REACHED_FLOPS * card.flops, REACHED_BANDWIDTH * card.bandwidth, card.memory_gib)


def probe_machine(config: Config) -> Machine:
    """The config's device with its measured speed of a matrix product in the compute dtype. Speeds are measured once in a
    process, in under half a second."""
    import psutil
    import torch

    from trainer.model import resolve_device, resolve_dtype

    device = resolve_device(config.model)
    dtype = resolve_dtype(config.model, device)
    memory = (
        torch.cuda.get_device_properties(0).total_memory if device.type == "cuda" else psutil.virtual_memory().available
    )
    return Machine(device.type, dtype.itemsize, *_speeds(device, dtype), memory / GIB)


@cache
def _speeds(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Operations per second of a matrix product, and bytes per second that a copy reads and writes."""
    import time

    import torch

    def best_of_six(work: Callable[[], object]) -> float:
        """Seconds."""
        best = np.inf
        for _ in range(6):
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        return best

    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(2**28 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n**3 / best_of_six(lambda: a @ b), 2 * source.numel() / best_of_six(lambda: target.copy_(source))
