"""Finds examples without a response that another example answers."""

from __future__ import annotations

import numpy as np

from al.pool.convert import content_id
from al.pool.store import Pool, locate


def find_answered(pool: Pool) -> np.ndarray:
    """(n,) bool: has no response, and another example is the same conversation with one. O(n) time, 8 bytes per key."""
    waiting = ~pool.labelled
    if not waiting.any():
        return waiting
    prompts = (
        int(content_id([(message["role"], message["content"]) for message in messages[:-1]]), 16)
        for messages, labelled in zip(pool.iter_messages(), pool.labelled, strict=True)
        if labelled
    )
    at, found = locate(pool.keys, np.fromiter(prompts, dtype=np.uint64))
    answered = np.zeros(len(pool), dtype=bool)
    answered[at[found]] = True
    return answered & waiting
