"""The machine of a plan: measured speed of matrix products and of memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from al.config import Config
from al.planning.cost import GIB, Machine


def probe_machine(config: Config) -> Machine:
    """The config's device with its measured speed of a matrix product in the compute dtype. Takes under half a second."""
    import time

    import psutil
    import torch

    from trainer.model import resolve_device, resolve_dtype

    device = resolve_device(config.model)
    dtype = resolve_dtype(config.model, device)
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = np.inf
    for _ in range(6):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    memory = (
        torch.cuda.get_device_properties(0).total_memory if device.type == "cuda" else psutil.virtual_memory().available
    )
    return Machine(device.type, dtype.itemsize, 2 * n**3 / best, _bandwidth(device), memory / GIB)


def _bandwidth(device: Any) -> float:
    """Bytes per second that a copy reads and writes."""
    import time

    import torch

    source = torch.zeros(2**28 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), np.inf
    for _ in range(6):
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * source.numel() / best
