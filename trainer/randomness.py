"""Seeds. Every random number of training depends on (seed, round, purpose, step, …), never on global state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

ORDER, DROPOUT, NOISE, ADAPTER, SAMPLING = 101, 102, 103, 104, 105


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from non-negative integers; different parts give unrelated seeds (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def forked_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block with seeded torch generators of the CPU and of `device`, and restore them afterwards.

    For kernels without a generator argument, such as dropout and weight initialisation.
    """
    devices = (
        [device.index if device.index is not None else torch.cuda.current_device()] if device.type == "cuda" else []
    )
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
