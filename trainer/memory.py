"""Current and peak memory: of the GPU if there is one, else of this process."""

from __future__ import annotations

import resource

import psutil
import torch

GIB = 2**30


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
