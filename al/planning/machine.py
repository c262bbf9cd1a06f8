"""The machine of a plan that is this one: measured speed of matrix products and of memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from al.config import Config
from al.planning.cost import GIB, Machine

if TYPE_CHECKING:
    import torch


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
